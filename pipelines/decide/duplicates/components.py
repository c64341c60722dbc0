"""Group linked rows: merge the partitions' edges into one spanning forest by Beam, and list its components.

Workers exchange packed pairs of row ids, at most one pair per row that has a duplicate.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import pyarrow as pa

from filters.dedup import components as dedup
from infra import tables
from infra.engines.jobs import Phase
from pipelines.decide.duplicates.search import DuplicateSearch


def make_phase(search: DuplicateSearch) -> Phase:
    """The phase that writes components.parquet: each row that has a duplicate, and the smallest row id of its
    component."""
    finish = functools.partial(_write, search)
    return search.phase("components", pack_edges, _list_edges, combine=merge_edges, finish=finish)


def _list_edges(search: DuplicateSearch) -> Sequence[str]:
    is_done = tables.is_intact(search.at("components.parquet"), search.inputs)
    return [] if is_done else search.partition_names


def pack_edges(search: DuplicateSearch, name: str) -> bytes:
    """Task: reduce one partition's edges to a forest and pack it."""
    table = tables.read(search.at("edges", f"{name}.parquet"), ["a", "b"])
    return dedup.pack(*dedup.build_forest(table["a"].to_numpy(), table["b"].to_numpy()))


def merge_edges(blocks: Iterable[bytes]) -> bytes:
    """Merge packed pairs into a packed spanning forest, which does not depend on the order of merging."""
    forest = dedup.Forest()
    for block in blocks:
        forest.add(*dedup.unpack(block))
    return dedup.pack(*forest.reduce())


def _write(search: DuplicateSearch, block: bytes | None) -> None:
    if block is None:  # it is there
        return
    cut = search.read_cut()
    rows, roots = dedup.list_members(*dedup.unpack(block))
    tables.write(cut.at("components.parquet"), pa.table({"row": rows, "root": roots}), fingerprint=cut.inputs)
