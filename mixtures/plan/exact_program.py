"""Decide in exact arithmetic whether shares of few cells can meet a recipe's constraints.

A floating-point solver may call a program infeasible because of its own rounding errors. Before a person is told that
data are missing, the verdict is proved here: numbers are fractions, read as people write them (0.12 is 3/25).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Row:
    """low ≤ weights · shares ≤ high; either end may be infinite. weights: of each cell."""

    weights: Sequence[float]
    low: float
    high: float


def find_shares(rows: Sequence[Row], limits: Sequence[float], total: float) -> NDArray[np.float64] | None:
    """Find float (cells,): shares that sum to 1, each at most limit / total, and meet every row.

    limits: the largest amount of each cell. None proves that no such shares exist.
    """
    cells = len(limits)
    inequalities = [([Fraction(1)] * cells, Fraction(1)), ([Fraction(-1)] * cells, Fraction(-1))]
    for cell, limit in enumerate(limits):
        if limit < total:
            inequalities.append(([Fraction(int(i == cell)) for i in range(cells)], Fraction(limit) / Fraction(total)))
    for row in rows:
        weights = [_to_fraction(weight) for weight in row.weights]
        if math.isfinite(row.high):
            inequalities.append((weights, _to_fraction(row.high)))
        if math.isfinite(row.low):
            inequalities.append(([-weight for weight in weights], -_to_fraction(row.low)))
    point = find_point(inequalities)
    return None if point is None else np.array([float(share) for share in point])


def _to_fraction(number: float) -> Fraction:
    """Read a number as the shortest decimal that denotes it: 0.1 is 1/10, not the binary fraction next to it."""
    return Fraction(repr(float(number)))


def find_point(inequalities: Sequence[tuple[Sequence[Fraction], Fraction]]) -> list[Fraction] | None:
    """Find x ≥ 0 with coefficients · x ≤ bound for every (coefficients, bound); None where there is none.

    Simplex pivots on one slack variable per inequality. Of violated rows and of columns that can mend one, the smallest
    variable is taken (Bland's rule), so that no basis occurs twice and the search ends.
    """
    count = len(inequalities[0][0])
    basis = list(range(count, count + len(inequalities)))
    columns = list(range(count))
    # Each row: basic variable = bound − coefficients · (variables of the columns).
    table = [[*map(Fraction, coefficients), Fraction(bound)] for coefficients, bound in inequalities]
    while violated := [i for i, row in enumerate(table) if row[-1] < 0]:
        pivot = min(violated, key=lambda i: basis[i])
        candidates = [j for j in range(count) if table[pivot][j] < 0]
        if not candidates:  # a sum of terms that are not negative would have to be
            return None
        column = min(candidates, key=lambda j: columns[j])
        _exchange(table, pivot, column)
        basis[pivot], columns[column] = columns[column], basis[pivot]
    point = dict(zip(basis, (row[-1] for row in table), strict=True))
    return [point.get(variable, Fraction(0)) for variable in range(count)]


def _exchange(table: list[list[Fraction]], pivot: int, column: int) -> None:
    """Solve the pivot row for the column's variable and substitute it in all rows, in place."""
    divisor = table[pivot][column]
    solved = [entry / divisor for entry in table[pivot]]
    solved[column] = 1 / divisor
    for i, row in enumerate(table):
        factor = row[column]
        if i != pivot and factor:
            row[column] = Fraction(0)
            table[i] = [entry - factor * by for entry, by in zip(row, solved, strict=True)]
    table[pivot] = solved
