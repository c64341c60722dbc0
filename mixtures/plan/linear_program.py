"""A linear program under construction, and its solution by HiGHS."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Feasibility tolerance, the smallest that HiGHS accepts. Amounts are scaled so that everything available sums to 1.
TOLERANCE = 1e-10

#: Branch-and-bound nodes before the best integers so far are accepted. A count, not a time, keeps plans deterministic.
NODES = 100

#: Accepted gap between those integers and the optimum (ours); programs of many hundred cells need it.
GAP = 0.01


class Program:
    """A linear program: variables with bounds, rows with bounds, one cost to minimise."""

    def __init__(self) -> None:
        self._bounds: list[tuple[float, float]] = []
        self._integrality: list[int] = []
        self._rows: list[tuple[Mapping[int, float], float, float]] = []

    def add_variables(self, low: Sequence[float], high: Sequence[float], *, integer: bool = False) -> range:
        """Add variables with these bounds; returns their numbers."""
        first = len(self._bounds)
        self._bounds += zip(low, high, strict=True)
        self._integrality += [int(integer)] * len(low)
        return range(first, len(self._bounds))

    def add_row(self, coefficients: Mapping[int, float], low: float, high: float) -> None:
        """Require low ≤ coefficients · x ≤ high."""
        self._rows.append((coefficients, low, high))

    def add_distance(self, coefficients: Mapping[int, float], target: float = 0.0) -> int:
        """Add a variable that is at least |coefficients · x − target|."""
        (distance,) = self.add_variables([0.0], [math.inf])
        self.add_row({**coefficients, distance: -1.0}, -math.inf, target)
        self.add_row({**coefficients, distance: 1.0}, target, math.inf)
        return distance

    def minimise(self, cost: Mapping[int, float]) -> NDArray[np.float64] | None:
        """Solve for the optimal values of all variables; None where HiGHS finds none, with presolve and without.

        None is the solver's verdict and not a proof: on rows as narrow as its tolerance it is sometimes wrong.
        """
        from scipy.sparse import csr_array

        count = len(self._bounds)
        c = np.zeros(count)
        for variable, weight in cost.items():
            c[variable] += weight
        entries = [(r, v, w) for r, (row, _, _) in enumerate(self._rows) for v, w in row.items() if w]
        matrix = csr_array(
            ([w for _, _, w in entries], ([r for r, _, _ in entries], [v for _, v, _ in entries])),
            shape=(len(self._rows), count),
        )
        low, high = np.array([r[1] for r in self._rows]), np.array([r[2] for r in self._rows])
        solve = self._solve_integers if any(self._integrality) else self._solve_continuous
        return solve(c, matrix, low, high)

    def _solve_continuous(self, c: Any, matrix: Any, low: Any, high: Any) -> NDArray[np.float64] | None:
        """Solve by dual simplex at the tightest tolerance: a ten-millionth of a large index is a sample."""
        from scipy.optimize import linprog
        from scipy.sparse import vstack

        equal = low == high
        upper, lower = ~equal & np.isfinite(high), ~equal & np.isfinite(low)
        for presolve in (True, False):  # presolve sometimes calls feasible programs infeasible
            solution = linprog(
                c,
                A_ub=vstack([matrix[upper], -matrix[lower]]),
                b_ub=np.concatenate([high[upper], -low[lower]]),
                A_eq=matrix[equal],
                b_eq=high[equal],
                bounds=self._bounds,
                method="highs-ds",
                options={"primal_feasibility_tolerance": TOLERANCE, "dual_feasibility_tolerance": TOLERANCE,
                         "presolve": presolve},
            )  # fmt: skip
            if solution.status == 0:
                return np.asarray(solution.x, dtype=np.float64)
        return None

    def _solve_integers(self, c: Any, matrix: Any, low: Any, high: Any) -> NDArray[np.float64] | None:
        from scipy.optimize import Bounds, LinearConstraint, milp

        for presolve in (True, False):
            solution = milp(
                c,
                integrality=np.array(self._integrality),
                bounds=Bounds(*np.array(self._bounds).T),
                constraints=[LinearConstraint(matrix, low, high)],
                options={"node_limit": NODES, "mip_rel_gap": GAP, "presolve": presolve},
            )
            if solution.x is not None:
                return np.asarray(solution.x, dtype=np.float64)
        return None
