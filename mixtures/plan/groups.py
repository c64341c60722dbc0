"""Groups of a mixture: the cells that a recipe's columns divide the samples into, and the constraints on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.media.interface import MODALITIES
from mixtures.plan.members_index import MembersIndex
from mixtures.plan.recipe import NUMBERS, ROUNDING, Recipe, parse_ranges

#: Category of a cell for all values of a column that the recipe does not name.
REST = None


@dataclass(frozen=True)
class Groups:
    """The non-empty cells, sorted by modality and name, and the cell of each sample.

    group: int32 (n,). cells: {column: category, or None for all values that the recipe does not name}.
    """

    group: NDArray[np.int32]
    cells: tuple[Mapping[str, str | None], ...]

    def names(self) -> list[str]:
        """Name each cell: its modality, and its categories in the other columns."""
        return [", ".join([str(cell["modality"]), *(f"{column} {category if category is not None else 'of others'}"
                for column, category in cell.items() if column != "modality")]) for cell in self.cells]  # fmt: skip

    def select(self, column: str, category: str) -> NDArray[np.float64]:
        """float (cells,): 1 for cells of this category in a column, else 0."""
        return np.array([cell[column] == category for cell in self.cells], dtype=float)


def build_groups(index: MembersIndex, recipe: Recipe) -> Groups:
    """Divide an index into the cells of a recipe; values that no constraint names share one category."""
    code = np.zeros(len(index), dtype=np.int64)
    levels: list[tuple[str, list[str | None]]] = []
    for column in recipe.columns:
        codes, categories = _categorise(index, recipe, column)
        code = code * len(categories) + codes
        levels.append((column, categories))
    present, group = _compact(code, math.prod(len(categories) for _, categories in levels))
    cells = []
    for number in present.tolist():
        cell: dict[str, str | None] = {}
        for column, categories in reversed(levels):
            number, position = divmod(number, len(categories))
            cell[column] = categories[position]
        cells.append({column: cell[column] for column, _ in levels})
    return Groups(group, tuple(cells))


def _categorise(index: MembersIndex, recipe: Recipe, column: str) -> tuple[NDArray[np.int64], list[str | None]]:
    """(code of each sample, category of each code)."""
    if column in NUMBERS:
        ranges = parse_ranges(column, recipe.values(column))
        numbers = index.numbers[column]
        position = np.searchsorted(np.array([low for low, _, _ in ranges]), numbers, side="right") - 1
        highs = np.array([high for _, high, _ in ranges])
        is_inside = (position >= 0) & (numbers < highs[np.maximum(position, 0)])
        return np.where(is_inside, position, len(ranges)).astype(np.int64), [*(name for _, _, name in ranges), REST]
    codes, names = index.columns[column]
    if column == "modality":
        position = np.array([MODALITIES.index(name) for name in names], dtype=np.int64)  # type: ignore[arg-type]
        return position[codes], list(MODALITIES)
    named = sorted(names if column == "source" and recipe.max_source is not None else recipe.values(column))
    position = np.array([named.index(name) if name in named else len(named) for name in names], dtype=np.int64)
    return position[codes] if len(position) else codes.astype(np.int64), [*named, REST]


def _compact(code: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """(codes that occur, ascending; each row's position among them)."""
    if size > 2**22:
        present, group = np.unique(code, return_inverse=True)
        return present, group.astype(np.int32)
    present = np.flatnonzero(np.bincount(code, minlength=size))
    position = np.zeros(size, dtype=np.int32)
    position[present] = np.arange(len(present), dtype=np.int32)
    return present, position[code]


@dataclass(frozen=True)
class Constraint:
    """low · N ≤ Σ weights · amount ≤ high · N, where N is the mixture's total amount.

    weights: float (cells,). label: for messages. column, category: of the share; category is None for a ratio.
    """

    label: str
    weights: NDArray[np.float64]
    low: float
    high: float
    column: str = ""
    category: str | None = None

    @property
    def has_centre(self) -> bool:
        """Whether this is a range with two ends, whose middle is a target; a cap or a floor alone has none."""
        return self.category is not None and self.low < self.high and self.low > 0 and self.high < 1


def build_constraints(groups: Groups, recipe: Recipe, sources: list[str]) -> list[Constraint]:
    """List every constraint of a recipe on these groups."""
    constraints = []
    for column, ranges in recipe.shares.items():
        total = _sum_exact_shares(groups, column, ranges)
        for category, (low, high) in ranges.items():
            low, high = low / total, high / total
            label = f"{column} {category} {_format_range(low, high)}"
            constraints.append(Constraint(label, groups.select(column, category), low, high, column, category))
    for ratio in recipe.ratios:
        of, to = (groups.select(ratio.column, name) for name in (ratio.of, ratio.to))
        low, high = ratio.between
        label = f"{ratio.of} to {ratio.to} {low:g}" + ("" if low == high else f" to {high:g}")
        constraints.append(Constraint(label, of - low * to, 0.0, math.inf))
        constraints.append(Constraint(label, of - high * to, -math.inf, 0.0))
    if recipe.max_source is not None:
        for source in sources:
            label = f"source {source} at most {_format_percent(recipe.max_source)} (max_source)"
            weights = groups.select("source", source)
            constraints.append(Constraint(label, weights, 0.0, recipe.max_source, "source", source))
    return constraints


def _sum_exact_shares(groups: Groups, column: str, ranges: Mapping[str, tuple[float, float]]) -> float:
    """Sum of exact shares of all groups where decimals alone keep it from 1 (0.333333 three times), else 1."""
    total = math.fsum(low for low, _ in ranges.values())
    is_complete = all(low == high for low, high in ranges.values()) and all(c[column] in ranges for c in groups.cells)
    return total if is_complete and abs(total - 1) <= ROUNDING else 1.0


def _format_range(low: float, high: float) -> str:
    if low == high:
        return _format_percent(low)
    if low == 0:
        return f"at most {_format_percent(high)}"
    return f"at least {_format_percent(low)}" if high == 1 else f"{_format_percent(low)} to {_format_percent(high)}"


def _format_percent(share: float) -> str:
    return f"{share * 100:.6g} %"


def build_amounts(index: MembersIndex, tokens: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Amount of each sample in every unit: (n,) each."""
    return {
        "samples": np.ones(len(index), dtype=np.int64),
        "tokens": tokens,
        "seconds": index.seconds,
        "bytes": index.bytes,
    }
