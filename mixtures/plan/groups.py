"""Groups of a mixture: the cells that a recipe's columns cut the samples into, and the constraints on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.media.interface import MODALITIES
from mixtures.plan.members_index import MembersIndex
from mixtures.plan.recipe import NUMBERS, Recipe, parse_ranges

#: Value of a cell for everything in a column that the recipe does not name.
REST = None


@dataclass(frozen=True)
class Groups:
    """The cells in which there are samples, sorted by modality and name, and each sample's cell.

    group: int32 (n,); cells: {column: value or None for all that the recipe does not name}.
    """

    group: NDArray[np.int32]
    cells: tuple[Mapping[str, str | None], ...]

    def names(self) -> list[str]:
        """A name for each: the modality, and what else tells it from others of its modality."""
        return [", ".join([str(cell["modality"]), *(f"{column} {value if value is not None else 'of others'}"
                for column, value in cell.items() if column != "modality")]) for cell in self.cells]  # fmt: skip

    def where(self, column: str, value: str) -> NDArray[np.bool_]:
        """bool (cells,): those whose value in a column is this."""
        return np.array([cell[column] == value for cell in self.cells], dtype=bool)


def build_groups(index: MembersIndex, recipe: Recipe) -> Groups:
    """Cut an index into the cells of a recipe; values that no constraint names are one."""
    code = np.zeros(len(index), dtype=np.int64)
    levels: list[tuple[str, list[str | None]]] = []
    for column in recipe.columns:
        found, names = _levels(index, recipe, column)
        code = code * len(names) + found
        levels.append((column, names))
    present, group = _compact(code, math.prod(len(names) for _, names in levels))
    cells = []
    for one in present.tolist():
        cell: dict[str, str | None] = {}
        for column, names in reversed(levels):
            one, at = divmod(one, len(names))
            cell[column] = names[at]
        cells.append({column: cell[column] for column, _ in levels})
    return Groups(group, tuple(cells))


def _levels(index: MembersIndex, recipe: Recipe, column: str) -> tuple[NDArray[np.int64], list[str | None]]:
    """(code of each sample, values that the codes stand for)."""
    if column in NUMBERS:
        spans = parse_ranges(column, recipe.values(column))
        values = index.numbers[column]
        at = np.searchsorted(np.array([low for low, _, _ in spans]), values, side="right") - 1
        inside = (at >= 0) & (values < np.array([high for _, high, _ in spans])[np.maximum(at, 0)])
        return np.where(inside, at, len(spans)).astype(np.int64), [*(name for _, _, name in spans), REST]
    codes, values_ = index.columns[column]
    if column == "modality":
        place = np.array([MODALITIES.index(value) for value in values_], dtype=np.int64)  # type: ignore[arg-type]
        return place[codes], list(MODALITIES)
    every = column == "source" and recipe.max_source is not None
    named = sorted(values_) if every else sorted(recipe.values(column))
    place = np.array([named.index(v) if v in named else len(named) for v in values_], dtype=np.int64)
    return place[codes] if len(place) else codes.astype(np.int64), [*named, REST]


def _compact(code: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The codes that occur, ascending, and each row's place among them."""
    if size > 2**22:
        present, group = np.unique(code, return_inverse=True)
        return present, group.astype(np.int32)
    present = np.flatnonzero(np.bincount(code, minlength=size))
    place = np.zeros(size, dtype=np.int32)
    place[present] = np.arange(len(present), dtype=np.int32)
    return present, place[code]


@dataclass(frozen=True)
class Constraint:
    """low · N ≤ Σ weights · amount ≤ high · N, where N is the mixture's whole amount.

    weights: float (cells,). label: as a person would say it. value: what it is of; None for a ratio.
    """

    label: str
    weights: NDArray[np.float64]
    low: float
    high: float
    column: str = ""
    value: str | None = None

    @property
    def has_centre(self) -> bool:
        """Whether it is a band with two ends, whose middle means something; a cap or a floor alone has none."""
        return self.value is not None and self.low < self.high and self.low > 0 and self.high < 1


def build_constraints(cells: Groups, recipe: Recipe, sources: list[str]) -> list[Constraint]:
    """Every constraint of a recipe on these cells."""
    found = []
    for column, bands in recipe.shares.items():
        for value, (low, high) in bands.items():
            label = f"{column} {value} {_said(low, high)}"
            found.append(Constraint(label, cells.where(column, value).astype(float), low, high, column, value))
    for ratio in recipe.ratios:
        of, to = (cells.where(ratio.column, name).astype(float) for name in (ratio.of, ratio.to))
        low, high = ratio.between
        label = f"{ratio.of} to {ratio.to} {low:g}" + ("" if low == high else f" to {high:g}")
        found.append(Constraint(label, of - low * to, 0.0, math.inf))
        found.append(Constraint(label, of - high * to, -math.inf, 0.0))
    if recipe.max_source is not None:
        for source in sources:
            weights = cells.where("source", source).astype(float)
            label = f"source {source} at most {_percent(recipe.max_source)} (max_source)"
            found.append(Constraint(label, weights, 0.0, recipe.max_source, "source", source))
    return found


def _said(low: float, high: float) -> str:
    if low == high:
        return _percent(low)
    if low == 0:
        return f"at most {_percent(high)}"
    return f"at least {_percent(low)}" if high == 1 else f"{_percent(low)} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{share * 100:.6g} %"


def build_amounts(index: MembersIndex, tokens: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Each sample's amount in every unit: (n,) each."""
    return {
        "samples": np.ones(len(index), dtype=np.int64),
        "tokens": tokens,
        "seconds": index.seconds,
        "bytes": index.bytes,
    }
