"""Compute how much to take of each cell: a linear program per goal, solved by HiGHS.

Goals, in this order: the size; the fewest repeats; ranges near their middle; and whatever no constraint decides at one
common rate, in the proportions of the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import StageError
from mixtures.plan import exact_program
from mixtures.plan.groups import Constraint
from mixtures.plan.linear_program import Program

#: Tolerance of a constraint as a share of the mixture, so that two ways of adding the same numbers do not contradict
#: each other. Programs count in shares of the mixture, so it is larger than the solver's own tolerance.
SLACK = 1e-9

#: Largest number of cells for which an infeasible verdict is proved in exact arithmetic (ours).
EXACT_CELLS = 40

#: Minimum share of all data in the costs of unequal rates (ours): coefficients must not differ too much in magnitude.
TINY = 1e-4

#: Distance within which a number of samples counts as whole.
ROUNDING = 1e-4

#: Whole samples by which a cell may be moved so that every constraint holds to the sample (ours).
REACH = 4.0

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stock:
    """The data available in each cell, in the recipe's unit: (cells,) each.

    amount: of all its samples once. largest: of its largest sample. samples: how many. modality, names: of each.
    """

    amount: Floats
    largest: Floats
    samples: NDArray[np.int64]
    modality: Sequence[str]
    names: Sequence[str]

    @property
    def is_whole(self) -> bool:
        """Whether amounts are samples, which do not divide."""
        return bool((self.amount == self.samples).all())


@dataclass(frozen=True)
class _Row:
    """low · N + margin ≤ weights · y ≤ high · N − margin."""

    weights: Floats
    low: float
    high: float
    margin: float = 0.0


def plan_amounts(
    stock: Stock, constraints: Sequence[Constraint], *, unit: str, size: int | str | None, repeats: int
) -> Floats:
    """float (cells,): the amount to take of each cell; whole numbers where the unit is samples.

    In samples every constraint holds exactly where whole numbers permit, else within one sample per cell. In other
    units ranges are narrowed by half of each cell's largest sample, the error that whole samples can cause.
    Raises StageError that names the constraints which contradict each other, or the missing data.
    """
    if float(stock.amount.sum()) <= 0:
        raise StageError(f"nothing to mix: the runs contain no {unit}", hint="choose another --unit")
    _check_feasibility(stock, constraints, unit)
    limits = stock.amount * (1 if size is None else repeats)
    target = None if isinstance(size, str) or size is None else float(size)
    for with_margin in (True, False):
        rows = _build_rows(constraints, stock.largest / 2, with_margin and not stock.is_whole)
        totals = _list_totals(rows, limits, stock.is_whole) if target is None else [target]
        for total in totals:
            shares = _solve(rows, constraints, stock, limits, total)
            if shares is not None:
                amounts = np.clip(shares * total, 0.0, limits)
                return _round_amounts(amounts, constraints, limits, round(total)) if stock.is_whole else amounts
    raise _build_shortage_error(stock, constraints, limits, target, unit, repeats)


def _build_rows(constraints: Sequence[Constraint], half: Floats, with_margin: bool) -> list[_Row]:
    """Build the rows of the constraints; ranges are narrowed by the error of rounding to whole samples.

    half: half the largest sample of each cell.
    """
    rows = []
    for constraint in constraints:
        low, high, weights = constraint.low, constraint.high, constraint.weights
        # The total has this rounding error too, so a share of it has its share of that error.
        inner = 1.0 if math.isinf(high) or math.isinf(low) else 1 - min(high, 1.0)
        margin = float((np.abs(weights) * half).sum() * inner + min(high, 1.0) * half[weights == 0].sum())
        is_narrowed = with_margin and low < high and np.abs(weights).any()
        rows.append(_Row(weights, low, high, margin if is_narrowed else 0.0))
    return rows


def _list_totals(rows: Sequence[_Row], limits: Floats, is_whole: bool) -> list[float]:
    """List the totals to try, largest first; of whole samples also one fewer: the last may be a rounding error."""
    total = _find_largest_total(rows, limits)
    if total is None:
        return []
    if not is_whole:
        return [total]
    whole = math.floor(total * (1 + SLACK) + 1e-6)
    return [float(candidate) for candidate in (whole, whole - 1) if candidate > 0]


def _find_largest_total(rows: Sequence[_Row], limits: Floats) -> float | None:
    """Compute the largest total that the rows and limits permit; None where they permit none.

    The variables are the shares of the cells and the inverse of the total, which is minimised: a share is a number of
    ordinary magnitude, however small the mixture is beside the data.
    """
    scale = float(limits.sum())
    program, shares = _open_program(np.minimum(limits, 1.0))
    (inverse,) = program.add_variables([1.0], [math.inf])  # scale / total
    program.add_row(dict.fromkeys(shares, 1.0), 1.0, 1.0)
    for row in rows:
        coefficients, low, high, divisor = _scale_row(shares, row)
        margin = row.margin / scale / divisor
        if math.isfinite(low):
            program.add_row({**coefficients, inverse: -margin}, low - SLACK, math.inf)
        if math.isfinite(high):
            program.add_row({**coefficients, inverse: margin}, -math.inf, high + SLACK)
    for share, limit in zip(shares, limits.tolist(), strict=True):
        program.add_row({share: 1.0, inverse: -limit / scale}, -math.inf, 0.0)
    solution = program.minimise({inverse: 1.0})
    return None if solution is None else scale / float(solution[inverse])


def _scale_row(variables: range, row: _Row) -> tuple[dict[int, float], float, float, float]:
    """(coefficients, low, high, divisor) of a row in shares, divided so that a share of 0.01 % is met as exactly as
    one of 50 %."""
    divisor = row.high if 0 < row.high < 1 else 1.0
    coefficients = {variables[i]: float(row.weights[i]) / divisor for i in np.flatnonzero(row.weights)}
    return coefficients, row.low / divisor, row.high / divisor, divisor


def _to_coefficients(variables: range, weights: Floats) -> dict[int, float]:
    return {variables[i]: float(weights[i]) for i in np.flatnonzero(weights)}


def _open_program(upper: Iterable[float]) -> tuple[Program, range]:
    """A program with one variable per cell, its share of the mixture, from 0 to `upper` and 1."""
    bounds = [min(float(bound), 1.0) for bound in upper]
    program = Program()
    return program, program.add_variables([0.0] * len(bounds), bounds)


def _require_total(
    program: Program, shares: range, rows: Sequence[_Row], total: float, violation: int | None = None
) -> None:
    """Require that the shares sum to 1, and that every row holds for them in a mixture of `total`.

    violation: a variable by which each row may be missed.
    """
    program.add_row(dict.fromkeys(shares, 1.0), 1.0, 1.0)
    for row in rows:
        coefficients, low, high, divisor = _scale_row(shares, row)
        margin = row.margin / total / divisor
        low, high = low + margin, high - margin
        if low > high:  # narrower than a sample: aim for the middle
            low = high = (low + high) / 2
        below, above = ({}, {}) if violation is None else ({violation: 1.0}, {violation: -1.0})
        if math.isfinite(low):
            program.add_row({**coefficients, **below}, low - SLACK, math.inf)
        if math.isfinite(high):
            program.add_row({**coefficients, **above}, -math.inf, high + SLACK)


def _find_shares(rows: Sequence[_Row], limits: Floats, total: float) -> Floats | None:
    """Shares of a mixture of `total`, from amounts up to `limits`, for which every row holds; None if none exist.

    A solver's "infeasible" may be a rounding error of its own. So the rows may be missed, and it computes by how much
    they must be: that program always has a solution. Where they must be missed and the cells are few, exact arithmetic
    decides.
    """
    program, shares = _open_program(limits / total)
    (violation,) = program.add_variables([0.0], [math.inf])
    _require_total(program, shares, rows, total, violation)
    solution = program.minimise({violation: 1.0})
    if solution is not None and float(solution[violation]) <= SLACK:
        return solution[: len(shares)]
    if len(limits) > EXACT_CELLS or any(row.margin for row in rows):
        return None
    exact = [exact_program.Row(row.weights.tolist(), row.low, row.high) for row in rows]
    return exact_program.find_shares(exact, limits.tolist(), total)


def _solve(
    rows: Sequence[_Row], constraints: Sequence[Constraint], stock: Stock, limits: Floats, total: float
) -> Floats | None:
    """Shares of a mixture of `total` that meet the module's goals in their order; None where the rows permit none."""
    solution = _find_shares(rows, limits, total)
    if solution is None:
        return None
    once = stock.amount / total
    program, shares = _open_program(limits / total)
    _require_total(program, shares, rows, total)
    goals = [
        _add_repeats(program, shares, once) if (limits > stock.amount).any() else {},
        _add_centres(program, shares, constraints),
        _add_rates(program, shares, stock.amount / float(stock.amount.sum()), stock.modality),
    ]
    for position, cost in enumerate(goals):
        if not cost and position < 2:
            continue
        improved = program.minimise(cost)
        if improved is None:  # rounding made the previous goal a hair too strict
            break
        solution = improved
        reached = sum(weight * float(solution[variable]) for variable, weight in cost.items())
        program.add_row(cost, -math.inf, reached + SLACK * max(1.0, reached))
    return solution[: len(shares)]


def _add_repeats(program: Program, y: range, once: Floats) -> dict[int, float]:
    """Cost of repeats: what is taken of each cell beyond all its samples once. y, once: shares of the mixture."""
    excess = program.add_variables([0.0] * len(y), [math.inf] * len(y))
    for i in range(len(y)):
        program.add_row({y[i]: 1.0, excess[i]: -1.0}, -math.inf, float(once[i]))
    return dict.fromkeys(excess, 1.0)


def _add_centres(program: Program, y: range, constraints: Sequence[Constraint]) -> dict[int, float]:
    """Cost of ranges off their middle, by their width."""
    cost = {}
    for constraint in constraints:
        if constraint.has_centre:
            middle = (constraint.low + constraint.high) / 2
            distance = program.add_distance(_to_coefficients(y, constraint.weights), middle)
            cost[distance] = 1.0 / (constraint.high - constraint.low)
    ratios = [constraint for constraint in constraints if constraint.category is None]
    for low, high in zip(ratios[::2], ratios[1::2], strict=True):  # each ratio is a pair of constraints
        width = float(np.abs(low.weights - high.weights).max()) if np.isfinite(high.weights).all() else 0.0
        if width > 0:
            middle_weights = (low.weights + high.weights) / 2
            cost[program.add_distance(_to_coefficients(y, middle_weights))] = 1.0 / width
    return cost


def _add_rates(program: Program, y: range, once: Floats, modality: Sequence[str]) -> dict[int, float]:
    """Cost of unequal rates: among the cells of a modality, and among modalities. A cell that a constraint fixes may
    differ; all others are drawn at one rate.

    y: shares of the mixture. once: shares of all data.
    """
    cost: dict[int, float] = {}
    (common,) = program.add_variables([0.0], [math.inf])
    for name in dict.fromkeys(modality):
        cells = [i for i, cell_modality in enumerate(modality) if cell_modality == name and once[i] > 0]
        available = float(once[cells].sum())
        if available <= 0:
            continue
        weight = 1.0 / max(available, TINY)
        of_modality = {**dict.fromkeys((y[i] for i in cells), weight), common: -available * weight}
        cost[program.add_distance(of_modality)] = 10.0
        if len(cells) > 1:
            (rate,) = program.add_variables([0.0], [math.inf])
            for i in cells:
                weight = 1.0 / max(float(once[i]), TINY)
                cost[program.add_distance({y[i]: weight, rate: -float(once[i]) * weight})] = 1.0
    return cost


def _round_amounts(amounts: Floats, constraints: Sequence[Constraint], limits: Floats, total: int) -> Floats:
    """Find the nearest whole numbers that sum to `total` and meet every constraint as well as whole numbers can."""
    base = np.floor(amounts + ROUNDING)
    fraction = np.where(amounts - base < ROUNDING, 0.0, amounts - base)
    # The variables are distances from the whole-number base: small numbers, whatever the mixture's size.
    program = Program()
    highest = np.minimum(REACH + 1, np.floor(limits + ROUNDING) - base)
    n = program.add_variables(np.maximum(-REACH, -base).tolist(), highest.tolist(), integer=True)
    remainder = float(total - base.sum())
    program.add_row(dict.fromkeys(n, 1.0), remainder, remainder)
    cost: dict[int, float] = {}
    for constraint in constraints:
        weights = constraint.weights
        if not weights.any():
            continue
        (violation,) = program.add_variables([0.0], [(REACH + 1) * float(np.abs(weights).sum())])
        coefficients, at_base = _to_coefficients(n, weights), float(weights @ base)
        if math.isfinite(constraint.low):
            program.add_row({**coefficients, violation: 1.0}, constraint.low * total - at_base, math.inf)
        if math.isfinite(constraint.high):
            program.add_row({**coefficients, violation: -1.0}, -math.inf, constraint.high * total - at_base)
        cost[violation] = 100.0
    for i in range(len(n)):
        cost[program.add_distance({n[i]: 1.0}, float(fraction[i]))] = 1.0
    solution = program.minimise(cost)
    if solution is None:  # rounding each cell down and some of them up is a solution, so this is the solver's failure
        raise StageError(
            f"the solver found no whole numbers of samples that sum to {total:,}", hint="choose another --size"
        )
    return base + np.round(solution[: len(n)])


# -- errors -----------------------------------------------------------------------------------------------------


def _is_feasible(constraints: Iterable[Constraint], limits: Floats, total: float) -> bool:
    """Whether amounts up to `limits` can sum to `total` and meet these constraints."""
    return _find_shares(_to_rows(constraints), limits, total) is not None


def _to_rows(constraints: Iterable[Constraint]) -> list[_Row]:
    return [_Row(constraint.weights, constraint.low, constraint.high) for constraint in constraints]


def _check_feasibility(stock: Stock, constraints: Sequence[Constraint], unit: str) -> None:
    """Raises StageError where no amount of data in these cells would meet the constraints."""
    has_data = stock.amount > 0
    unlimited = np.where(has_data, math.inf, 0.0)
    if _is_feasible(constraints, unlimited, 1.0):
        return
    conflict = _find_conflict(constraints, lambda some: _is_feasible(some, unlimited, 1.0))
    absent = [c for c in conflict if c.category is not None and c.low > 0 and not c.weights[has_data].any()]
    if absent:
        categories = ", ".join(dict.fromkeys(f"{c.column} {c.category}" for c in absent))
        present = ", ".join(dict.fromkeys(m for m, ok in zip(stock.modality, has_data, strict=True) if ok))
        counted = "" if unit == "samples" else f" that count in {unit}"
        raise StageError(
            f"the recipe requests absent data: {_join_labels(absent)}",
            hint=f"these runs contain no samples of {categories}{counted}; modalities present: {present}",
        )
    raise StageError(
        f"these constraints contradict each other: {_join_labels(conflict)}",
        hint=f"no amount of data meets all of them; change one. Available groups: {', '.join(stock.names)}",
    )


def _join_labels(constraints: Iterable[Constraint]) -> str:
    return "; ".join(dict.fromkeys(constraint.label for constraint in constraints))


def _find_conflict(
    constraints: Sequence[Constraint], is_feasible: Callable[[Sequence[Constraint]], bool]
) -> list[Constraint]:
    """Find a minimal set of constraints that cannot be met together."""
    conflict = list(constraints)
    for label in dict.fromkeys(constraint.label for constraint in constraints):
        others = [constraint for constraint in conflict if constraint.label != label]
        if not is_feasible(others):
            conflict = others
    return conflict


def _build_shortage_error(
    stock: Stock,
    constraints: Sequence[Constraint],
    limits: Floats,
    target: float | None,
    unit: str,
    repeats: int,
) -> StageError:
    """The error that names the data missing for this size, and the largest size possible."""
    largest = _find_largest_total(_to_rows(constraints), limits) or 0.0
    if target is None:
        return StageError(f"the constraints permit at most {largest:,.6g} {unit}", hint="widen a range")
    conflict = _find_conflict(constraints, lambda some: _is_feasible(some, limits, target))
    requested = f" with {_join_labels(conflict)}" if conflict else ""
    permitted = "no repeats allowed" if repeats == 1 else f"at most {repeats} copies of a sample allowed"
    missing = _list_missing(stock, constraints, limits, target, unit)
    return StageError(
        f"not enough data: {target:,.0f} {unit} requested{requested}, {permitted}",
        hint=f"missing at least: {'; '.join(missing) or 'data'}\n  the largest mixture of this recipe has "
        f"{math.floor(largest):,} {unit}: lower --size, allow more `repeats`, or widen a range",
    )


def _list_missing(
    stock: Stock, constraints: Sequence[Constraint], limits: Floats, target: float, unit: str
) -> list[str]:
    """List by cell the least data that would have to be added."""
    program, shares = _open_program(np.where(limits > 0, 1.0, 0.0))
    shortage = program.add_variables([0.0] * len(shares), [math.inf] * len(shares))
    _require_total(program, shares, _to_rows(constraints), target)
    for i in range(len(shares)):
        program.add_row({shares[i]: 1.0, shortage[i]: -1.0}, -math.inf, min(1.0, float(limits[i]) / target))
    solution = program.minimise(dict.fromkeys(shortage, 1.0))
    missing = []
    for i, name in enumerate(stock.names if solution is not None else ()):
        amount = float(solution[shortage[i]]) * target  # type: ignore[index]
        if amount > 0.5:
            missing.append(
                f"{name}: {math.ceil(amount - 1e-3):,} {unit} more than the {stock.amount[i]:,.0f} available"
            )
    return missing
