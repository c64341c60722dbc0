"""Group linked rows: merge the partitions' edges into one spanning forest by Beam, and list its components.

Workers exchange packed pairs of row ids, at most one pair per row that has a duplicate.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from filters.dedup import components as dedup
from infra import beam, tables
from pipelines.decide.duplicates.search import DuplicateSearch


def write_components(search: DuplicateSearch) -> None:
    """Write components.parquet: each row that has a duplicate, and the smallest row id of its component."""
    uri = search.at("components.parquet")
    if tables.is_intact(uri, search.inputs):
        return
    uris = [search.at("edges", f"{name}.parquet") for name in search.partition_names]

    def build(pipeline: Any) -> object:
        import apache_beam as ab

        return (
            pipeline
            | "partitions" >> ab.Create(uris)
            | "spread" >> ab.Reshuffle()
            | "edges" >> ab.Map(pack_edges)
            | "merge" >> ab.CombineGlobally(_merge_forests())
            | "write" >> ab.Map(functools.partial(_write, uri, search.inputs))
        )

    beam.run(f"duplicates {search.modality} components", build, search.runner)


def pack_edges(uri: str) -> bytes:
    """Reduce one partition's edges to a forest and pack it."""
    table = tables.read(uri, ["a", "b"])
    return dedup.pack(*dedup.build_forest(table["a"].to_numpy(), table["b"].to_numpy()))


def _merge_forests() -> Any:
    import apache_beam as ab

    class MergeForests(ab.CombineFn):  # type: ignore[misc]
        """Merge packed pairs into a packed spanning forest, which does not depend on the order of merging."""

        def create_accumulator(self) -> dedup.Forest:
            return dedup.Forest()

        def add_input(self, forest: dedup.Forest, block: bytes) -> dedup.Forest:
            return forest.add(*dedup.unpack(block))

        def merge_accumulators(self, forests: Iterable[dedup.Forest]) -> dedup.Forest:
            return dedup.merge_forests(forests)

        def extract_output(self, forest: dedup.Forest) -> bytes:
            return dedup.pack(*forest.reduce())

    return MergeForests()  # type: ignore[no-untyped-call]


def _write(uri: str, inputs: str, block: bytes) -> None:
    rows, roots = dedup.list_members(*dedup.unpack(block))
    tables.write(uri, pa.table({"row": rows, "root": roots}), fingerprint=inputs)
