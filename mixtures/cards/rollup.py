"""Amounts of a mixture by modality, source, licence, kind and language: its rows joined with its parents' indexes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra import storage
from infra.errors import StageError
from mixtures.plan.recipe import UNITS
from mixtures.shards.manifest import Mixture

#: Columns of the members index that a card breaks amounts down by.
COLUMNS = ("source", "licence", "kind", "language")

Ints = NDArray[np.int64]


def group_by_shard(shard: NDArray[np.int32], count: int) -> Iterator[tuple[int, Ints]]:
    """Yield (shard, ascending positions of the mixture's rows in it) of every shard that has rows."""
    # numpy sorts 16-bit numbers by counting, eight times as fast.
    narrow = shard.astype(np.uint16) if count <= 2**16 else shard
    order = np.argsort(narrow, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(shard, minlength=count))])
    for number in range(count):
        if ends[number] < ends[number + 1]:
            yield number, order[ends[number] : ends[number + 1]]


def read_shard_members(mixture: Mixture, shard: int, columns: Sequence[str]) -> pa.Table:
    """Read columns of the members index of one of a mixture's shards, strings of few values as dictionaries.

    Raises StageError where the parent run is missing.
    """
    entry = mixture.manifest["shards"][shard]
    uri = storage.join(mixture.run(entry["parent"]), "members", f"{entry['name']}.parquet")
    if not storage.is_file(uri):
        raise StageError("a run that this mixture was made from is missing", where=uri,
                         hint="mixtures find their runs by relative path: move them together")  # fmt: skip
    with storage.open_read(uri) as file:
        parquet = pq.ParquetFile(file, read_dictionary=[name for name in columns if name in COLUMNS])
        return parquet.read(columns=list(columns), use_threads=False)


def match_offsets(index: pa.Table, offset: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Return (row of `index` for each offset, whether a sample begins exactly there); `index` is sorted by offset."""
    starts = index["offset"].to_numpy()
    rows = np.minimum(np.searchsorted(starts, offset), max(len(starts) - 1, 0))
    return rows, (starts[rows] == offset) if len(starts) else np.zeros(len(offset), dtype=bool)


@dataclass(frozen=True)
class Rollup:
    """columns: dimensions of the breakdown; cells: combinations of their values that occur, null as ""; code: int32
    (n,), the cell of each row."""

    columns: tuple[str, ...]
    cells: Sequence[tuple[str, ...]]
    code: NDArray[np.int32]

    def count(self, amounts: Mapping[str, NDArray[Any]], rows: Any = slice(None)) -> dict[str, Counts]:
        """Count column -> value -> {unit: amount} over `rows`, values sorted. amounts: unit -> (n,), except samples."""
        code = self.code[rows]
        sums: dict[str, NDArray[Any]] = {"samples": np.bincount(code, minlength=len(self.cells))}
        for unit in UNITS[1:]:
            sums[unit] = np.bincount(code, amounts[unit][rows].astype(np.float64), len(self.cells))
        counts: dict[str, Counts] = {}
        for dimension, column in enumerate(self.columns):
            totals: dict[str, dict[str, float]] = {}
            for code_, cell in enumerate(self.cells):
                if sums["samples"][code_]:
                    total = totals.setdefault(cell[dimension], dict.fromkeys(UNITS, 0.0))
                    for unit in UNITS:
                        total[unit] += float(sums[unit][code_])
            counts[column] = {
                category: {unit: round_amount(unit, amount) for unit, amount in totals[category].items()}
                for category in sorted(totals)
            }
        return counts


#: category -> {unit: amount}
Counts = dict[str, dict[str, int | float]]


def round_amount(unit: str, amount: float) -> int | float:
    """Round an amount for JSON: seconds to three decimals, other units to whole numbers."""
    return round(amount, 3) if unit == "seconds" else round(amount)


def compute_modality_shares(groups: Sequence[Mapping[str, Any]], unit: str) -> dict[str, float]:
    """Compute modality -> share of the mixture in a unit, from the groups of mixture.json, as their amounts are there.

    Whoever recomputes shares from the same groups gets the same numbers, bit for bit.
    """
    total = math.fsum(group[unit] for group in groups)
    modalities = dict.fromkeys(group["modality"] for group in groups)
    return {name: _divide(_sum_where(groups, unit, "modality", name), total) for name in modalities}


def compute_share(groups: Sequence[Mapping[str, Any]], unit: str, column: str, category: str) -> float:
    """Compute the share of the groups whose cell has this category, as `compute_modality_shares` does."""
    return _divide(_sum_where(groups, unit, column, category), math.fsum(group[unit] for group in groups))


def _sum_where(groups: Sequence[Mapping[str, Any]], unit: str, column: str, category: str) -> float:
    return math.fsum(group[unit] for group in groups if group["cell"].get(column) == category)


def _divide(amount: float, total: float) -> float:
    return round(amount / total, 6) if total else 0.0


def build_rollup(mixture: Mixture, rows: pa.Table) -> Rollup:
    """Build the rollup by modality and COLUMNS; rows: at least shard and offset of all of the mixture's members.

    Raises StageError where a parent's index lacks a row.
    """
    shard, offset = rows["shard"].to_numpy(), rows["offset"].to_numpy()
    cells: dict[tuple[str, ...], int] = {}
    code = np.zeros(len(shard), dtype=np.int32)
    for number, positions in group_by_shard(shard, len(mixture.manifest["shards"])):
        index, entry = read_shard_members(mixture, number, ("offset", *COLUMNS)), mixture.manifest["shards"][number]
        index_rows, exists = match_offsets(index, offset[positions])
        if not exists.all():
            missing = offset[positions][~exists][0]
            raise StageError(f"the members index of {entry['name']} has no sample at byte {missing:,}",
                             where=mixture.uri, hint="the run has changed: make the mixture again")  # fmt: skip
        # One number for each combination of values in this shard, then one for each in the whole mixture.
        local, names = np.zeros(index.num_rows, dtype=np.int64), []
        for column in COLUMNS:
            column_codes, categories = _encode(index[column])
            local = local * max(len(categories), 1) + column_codes
            names.append(categories)
        present, local = _compact(local)
        cell_codes = np.empty(len(present), dtype=np.int32)
        for i, combined in enumerate(present.tolist()):
            cell: list[str] = []
            for categories in reversed(names):
                combined, category = divmod(combined, len(categories))
                cell.append(categories[category])
            cell_codes[i] = cells.setdefault((entry["modality"], *reversed(cell)), len(cells))
        code[positions] = cell_codes[local][index_rows]
    return Rollup(("modality", *COLUMNS), list(cells), code)


def _compact(code: Ints) -> tuple[Ints, Ints]:
    """Return (codes that occur, ascending; the index of each row's code among them)."""
    size = int(code.max()) + 1 if len(code) else 0
    if size > 2**20:
        return np.unique(code, return_inverse=True)
    present = np.flatnonzero(np.bincount(code, minlength=size))
    ranks = np.zeros(size, dtype=np.int64)
    ranks[present] = np.arange(len(present))
    return present, ranks[code]


def _encode(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], list[str]]:
    """Return (code of each row, categories); null gets a category "" of its own."""
    combined = column.unify_dictionaries().combine_chunks()
    array = combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined
    names = [str(category) for category in array.dictionary.to_pylist()]
    codes = array.indices.fill_null(len(names)).to_numpy(zero_copy_only=False).astype(np.int32)
    return (codes, [*names, ""]) if array.null_count else (codes, names)
