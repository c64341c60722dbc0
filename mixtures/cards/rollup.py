"""What a mixture holds by modality, source, licence, kind and language: its rows joined with its parents' indexes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra import storage
from infra.errors import StageError
from mixtures.shards.manifest import Mixture

#: Columns of members by which a card counts.
COLUMNS = ("source", "licence", "kind", "language")

#: Units in which it counts them.
UNITS = ("samples", "tokens", "seconds", "bytes")

Ints = NDArray[np.int64]


def group_by_shard(shard: NDArray[np.int32], count: int) -> Iterator[tuple[int, Ints]]:
    """(shard, positions of a mixture's rows that lie in it, ascending) of every shard that has some."""
    # Numbers of 16 bits are sorted by counting, eight times as fast.
    narrow = shard.astype(np.uint16) if count <= 2**16 else shard
    order = np.argsort(narrow, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(shard, minlength=count))])
    for number in range(count):
        if ends[number] < ends[number + 1]:
            yield number, order[ends[number] : ends[number + 1]]


def read_shard_members(mixture: Mixture, shard: int, columns: Sequence[str]) -> pa.Table:
    """Columns of the members index of one of a mixture's shards, strings of few values as dictionaries.

    Raises StageError where the parent is not there.
    """
    found = mixture.manifest["shards"][shard]
    uri = storage.join(mixture.run(found["parent"]), "members", f"{found['name']}.parquet")
    if not storage.is_file(uri):
        raise StageError("the run that this mixture was made from is not there", where=uri,
                         hint="mixtures find their runs by relative path: move them together")  # fmt: skip
    with storage.open_read(uri) as file:
        parquet = pq.ParquetFile(file, read_dictionary=[name for name in columns if name in COLUMNS])
        return parquet.read(columns=list(columns), use_threads=False)


def match_offsets(held: pa.Table, offset: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """(row of `held` for each offset, whether one really begins there); `held` is in order of its column offset."""
    starts = held["offset"].to_numpy()
    place = np.minimum(np.searchsorted(starts, offset), max(len(starts) - 1, 0))
    return place, (starts[place] == offset) if len(starts) else np.zeros(len(offset), dtype=bool)


@dataclass(frozen=True)
class Rollup:
    """columns: what is counted by; cells: the combinations of their values that occur, null as ""; code: int32 (n,),
    the cell of each row."""

    columns: tuple[str, ...]
    cells: Sequence[tuple[str, ...]]
    code: NDArray[np.int32]

    def counts(self, amounts: Mapping[str, NDArray[Any]], rows: Any = slice(None)) -> dict[str, Counts]:
        """column -> value -> {unit: amount} over `rows`, values sorted; amounts: unit -> (n,), but for samples, which
        are counted."""
        code = self.code[rows]
        sums: dict[str, NDArray[Any]] = {"samples": np.bincount(code, minlength=len(self.cells))}
        for unit in UNITS[1:]:
            sums[unit] = np.bincount(code, amounts[unit][rows].astype(np.float64), len(self.cells))
        found: dict[str, Counts] = {}
        for place, column in enumerate(self.columns):
            of: dict[str, dict[str, float]] = {}
            for number_, cell in enumerate(self.cells):
                if sums["samples"][number_]:
                    one = of.setdefault(cell[place], dict.fromkeys(UNITS, 0.0))
                    for unit in UNITS:
                        one[unit] += float(sums[unit][number_])
            found[column] = {
                value: {unit: round_amount(unit, amount) for unit, amount in of[value].items()} for value in sorted(of)
            }
        return found


#: value -> {unit: amount}
Counts = dict[str, dict[str, int | float]]


def round_amount(unit: str, value: float) -> int | float:
    """An amount as JSON has it: seconds to three places, all else whole."""
    return round(value, 3) if unit == "seconds" else round(value)


def build_rollup(mixture: Mixture, rows: pa.Table) -> Rollup:
    """By modality and COLUMNS; rows: at least shard and offset of all of the mixture's members.

    Raises StageError where the index of a parent does not have a row.
    """
    shard, offset = rows["shard"].to_numpy(), rows["offset"].to_numpy()
    cells: dict[tuple[str, ...], int] = {}
    code = np.zeros(len(shard), dtype=np.int32)
    for number_, mine in group_by_shard(shard, len(mixture.manifest["shards"])):
        held, one = read_shard_members(mixture, number_, ("offset", *COLUMNS)), mixture.manifest["shards"][number_]
        place, there = match_offsets(held, offset[mine])
        if not there.all():
            raise StageError(f"the members index of {one['name']} has no sample at byte {offset[mine][~there][0]:,}",
                             where=mixture.uri, hint="the run has changed: make the mixture again")  # fmt: skip
        # One number for each combination of values in this shard, then one for each in the whole mixture.
        local, names = np.zeros(held.num_rows, dtype=np.int64), []
        for column in COLUMNS:
            found, values = _coded(held[column])
            local = local * max(len(values), 1) + found
            names.append(values)
        present, local = _compact(local)
        known = np.empty(len(present), dtype=np.int32)
        for at, combined in enumerate(present.tolist()):
            cell: list[str] = []
            for values in reversed(names):
                combined, which = divmod(combined, len(values))
                cell.append(values[which])
            known[at] = cells.setdefault((one["modality"], *reversed(cell)), len(cells))
        code[mine] = known[local][place]
    return Rollup(("modality", *COLUMNS), list(cells), code)


def _compact(code: Ints) -> tuple[Ints, Ints]:
    """(codes that occur, ascending, and the place of each row's among them)."""
    size = int(code.max()) + 1 if len(code) else 0
    if size > 2**20:
        return np.unique(code, return_inverse=True)
    present = np.flatnonzero(np.bincount(code, minlength=size))
    place = np.zeros(size, dtype=np.int64)
    place[present] = np.arange(len(present))
    return present, place[code]


def _coded(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    one = column.unify_dictionaries().combine_chunks()
    array = one.chunk(0) if isinstance(one, pa.ChunkedArray) else one
    names = [str(value) for value in array.dictionary.to_pylist()]
    codes = array.indices.fill_null(len(names)).to_numpy(zero_copy_only=False).astype(np.int32)
    return (codes, [*names, ""]) if array.null_count else (codes, names)
