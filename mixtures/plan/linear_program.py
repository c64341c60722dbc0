"""A linear program under construction, and HiGHS's answer to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Amounts are scaled so that all there is is 1; HiGHS answers within this of it, the least that it knows.
TOLERANCE = 1e-10

#: Branch-and-bound nodes after which whole numbers are taken as they are; counted, so that the plan stays the same.
NODES = 100

#: How much worse than the best whole numbers those taken may be, of many hundred cells (ours).
GAP = 0.01

#: scipy.optimize's word for a program without an answer.
_INFEASIBLE = 2


class Program:
    """A linear program under construction: variables with bounds, rows with bounds, one thing to minimise."""

    def __init__(self) -> None:
        self._bounds: list[tuple[float, float]] = []
        self._whole: list[int] = []
        self._rows: list[tuple[Mapping[int, float], float, float]] = []

    def variables(self, low: Sequence[float], high: Sequence[float], *, whole: bool = False) -> range:
        first = len(self._bounds)
        self._bounds += zip(low, high, strict=True)
        self._whole += [int(whole)] * len(low)
        return range(first, len(self._bounds))

    def row(self, coefficients: Mapping[int, float], low: float, high: float) -> None:
        self._rows.append((coefficients, low, high))

    def distance(self, coefficients: Mapping[int, float], value: float = 0.0) -> int:
        """A variable that is at least |coefficients · x − value|."""
        (found,) = self.variables([0.0], [math.inf])
        self.row({**coefficients, found: -1.0}, -math.inf, value)
        self.row({**coefficients, found: 1.0}, value, math.inf)
        return found

    def minimise(self, cost: Mapping[int, float]) -> NDArray[np.float64] | None:
        """The best values of all variables; None where nothing satisfies the rows."""
        from scipy.sparse import csr_array

        count = len(self._bounds)
        c = np.zeros(count)
        for variable, weight in cost.items():
            c[variable] += weight
        at = [(r, v, w) for r, (row, _, _) in enumerate(self._rows) for v, w in row.items() if w]
        matrix = csr_array(
            ([w for _, _, w in at], ([r for r, _, _ in at], [v for _, v, _ in at])), shape=(len(self._rows), count)
        )
        low, high = np.array([r[1] for r in self._rows]), np.array([r[2] for r in self._rows])
        return self._whole_numbers(c, matrix, low, high) if any(self._whole) else self._linear(c, matrix, low, high)

    def _linear(self, c: Any, matrix: Any, low: Any, high: Any) -> NDArray[np.float64] | None:
        """Whole numbers do not matter yet, but amounts do: a ten-millionth of a large index is a sample."""
        from scipy.optimize import linprog
        from scipy.sparse import vstack

        equal = low == high
        up, down = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
        for presolve in (True, False):  # which fails now and then on programs that have an answer
            found = linprog(
                c,
                A_ub=vstack([matrix[up], -matrix[down]]),
                b_ub=np.concatenate([high[up], -low[down]]),
                A_eq=matrix[equal],
                b_eq=high[equal],
                bounds=self._bounds,
                method="highs-ds",
                options={"primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE,
                         "presolve": presolve},
            )  # fmt: skip
            if found.status == 0:
                return np.asarray(found.x, dtype=np.float64)
            if found.status == _INFEASIBLE:
                return None
        return None

    def _whole_numbers(self, c: Any, matrix: Any, low: Any, high: Any) -> NDArray[np.float64] | None:
        from scipy.optimize import Bounds, LinearConstraint, milp

        for presolve in (True, False):
            found = milp(
                c,
                integrality=np.array(self._whole),
                bounds=Bounds(np.array([b[0] for b in self._bounds]), np.array([b[1] for b in self._bounds])),
                constraints=[LinearConstraint(matrix, low, high)],
                options={"node_limit": NODES, "mip_rel_gap": GAP, "presolve": presolve},
            )
            if found.x is not None:
                return np.asarray(found.x, dtype=np.float64)
            if found.status == _INFEASIBLE:
                return None
        return None
