"""How much of each group a mixture takes: small linear programs, solved by HiGHS, then whole samples.

What is asked for comes first, what is left open is settled in this order: as large as asked (or as it can be); as few
repeats as possible; bands near their middle; and what no constraint decides at one common rate, as the data have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import StageError
from mixtures.plan.groups import Constraint
from mixtures.plan.linear_program import Program

#: What a program may miss a constraint by, so that two ways of adding the same numbers do not contradict each other.
SLACK = 1e-9

#: Cells with a smaller share of all there is weigh no more than such a one where rates are evened out (ours): the
#: numbers in a program must not lie too far apart.
TINY = 1e-4

#: A number of samples that comes out of a program this near to a whole one is that one.
ROUNDING = 1e-4

#: Whole samples that a cell may be moved by so that every constraint is kept to the sample (ours).
REACH = 4.0


@dataclass(frozen=True)
class Stock:
    """What there is of each cell, in the unit that binds: (cells,) each.

    amount: of all its samples once. largest: of its largest sample. samples: how many. modality: of each.
    """

    amount: NDArray[np.float64]
    largest: NDArray[np.float64]
    samples: NDArray[np.int64]
    modality: Sequence[str]
    names: Sequence[str]

    @property
    def whole(self) -> bool:
        """Whether amounts are samples, which do not divide."""
        return bool((self.amount == self.samples).all())


def _times(variables: range, weights: NDArray[np.float64]) -> dict[int, float]:
    return {variables[i]: float(weights[i]) for i in np.flatnonzero(weights)}


def plan_amounts(
    stock: Stock, constraints: Sequence[Constraint], *, unit: str, size: int | str | None, repeats: int
) -> NDArray[np.float64]:
    """float (cells,): the amount to take of each cell; whole numbers where the unit is samples.

    In samples every constraint holds exactly where whole numbers can, and else within one sample a cell. In other units
    bands are kept off their ends by half of each cell's largest sample, which is what whole samples can be off by.
    Raises StageError naming the constraints that cannot be met together, and the data that are missing.
    """
    scale = float(stock.amount.sum())
    if scale <= 0:
        raise StageError(f"there is nothing to mix: the runs hold no {unit}", hint="count in another --unit")
    _possible(stock, constraints, unit)
    most = stock.amount / scale * (1 if size is None else repeats)
    wanted = None if isinstance(size, str) or size is None else size / scale
    for margin in (True, False):
        rows = _rows(constraints, stock, scale, margin and not stock.whole)
        total = _largest(rows, most) if wanted is None else wanted
        if wanted is None and stock.whole and total is not None:
            total = math.floor(total * scale * (1 + SLACK) + 1e-6) / scale
        found = None if not total else _settled(rows, constraints, stock, most, stock.amount / scale, total)
        if found is None and wanted is None and total and stock.whole:
            total = (round(total * scale) - 1) / scale  # the last sample was rounding
            found = _settled(rows, constraints, stock, most, stock.amount / scale, total) if total > 0 else None
        if found is not None and total is not None:
            found = np.clip(found, 0.0, most) * scale
            return _integers(found, constraints, most * scale, round(total * scale)) if stock.whole else found
    raise _short_of_data(stock, constraints, most, scale, wanted, unit, repeats)


@dataclass(frozen=True)
class _Row:
    """low · N + less ≤ weights · y ≤ high · N − less."""

    weights: NDArray[np.float64]
    low: float
    high: float
    less: float


def _rows(constraints: Sequence[Constraint], stock: Stock, scale: float, margin: bool) -> list[_Row]:
    """The constraints, those that are bands drawn in by what rounding to whole samples may be off by."""
    half = stock.largest / 2 / scale
    found = []
    for one in constraints:
        # The whole is off by rounding too, so a share of it is by its share of that.
        inner = 1.0 if math.isinf(one.high) or math.isinf(one.low) else 1 - min(one.high, 1.0)
        less = float((np.abs(one.weights) * half).sum() * inner + min(one.high, 1.0) * half[one.weights == 0].sum())
        is_band = margin and one.low < one.high and np.abs(one.weights).any()
        found.append(_Row(one.weights, one.low, one.high, less if is_band else 0.0))
    return found


def _add(program: Program, y: range, rows: Sequence[_Row], total: float | None) -> None:
    """Rows on y; `total` is N, None where it is the sum of y."""
    if total is None:
        (whole,) = program.variables([0.0], [math.inf])  # rows of shares of it have few numbers that way
        program.row({**dict.fromkeys(y, 1.0), whole: -1.0}, 0.0, 0.0)
        for row in rows:
            if math.isfinite(row.low):
                program.row({**_times(y, row.weights), whole: -row.low}, row.less, math.inf)
            if math.isfinite(row.high):
                program.row({**_times(y, row.weights), whole: -row.high}, -math.inf, -row.less)
        return
    for row in rows:
        low, high = row.low * total + row.less, row.high * total - row.less
        if low > high:  # narrower than a sample: aim for its middle
            low = high = (row.low + row.high) / 2 * total
        program.row(_times(y, row.weights), low - SLACK * total, high + SLACK * total)


def _largest(rows: Sequence[_Row], most: NDArray[np.float64]) -> float | None:
    program = Program()
    y = program.variables([0.0] * len(most), most.tolist())
    _add(program, y, rows, None)
    found = program.minimise(dict.fromkeys(y, -1.0))
    return None if found is None else float(found[: len(y)].sum())


def _settled(
    rows: Sequence[_Row],
    constraints: Sequence[Constraint],
    stock: Stock,
    most: NDArray[np.float64],
    once: NDArray[np.float64],
    total: float,
) -> NDArray[np.float64] | None:
    """Amounts of this total, by the order of wishes in the module's docstring; None where there are none."""
    program = Program()
    y = program.variables([0.0] * len(most), most.tolist())
    program.row(dict.fromkeys(y, 1.0), total, total)
    _add(program, y, rows, total)
    wishes: list[dict[int, float]] = []
    if (most > once).any():
        over = program.variables([0.0] * len(y), [math.inf] * len(y))
        for i in range(len(y)):
            program.row({y[i]: 1.0, over[i]: -1.0}, -math.inf, float(once[i]))
        wishes.append(dict.fromkeys(over, 1.0))
    centred = {}
    for one in constraints:
        if one.has_centre:
            middle = (one.low + one.high) / 2 * total
            centred[program.distance(_times(y, one.weights), middle)] = 1.0 / (one.high - one.low)
    for first, second in _pairs(constraints):
        width = float(np.abs(first.weights - second.weights).max())
        middle_weights = (first.weights + second.weights) / 2
        if width > 0:
            centred[program.distance(_times(y, middle_weights))] = 1.0 / width
    if centred:
        wishes.append(centred)
    wishes.append(_rates(program, y, once, stock.modality))
    found = None
    for cost in wishes:
        better = program.minimise(cost)
        if better is None:  # at first: there is no such mixture; later: a wish that rounding has made a hair too strict
            break
        found = better
        reached = sum(weight * float(found[variable]) for variable, weight in cost.items())
        program.row(cost, -math.inf, reached + SLACK * max(1.0, reached))
    return None if found is None else found[: len(y)]


def _pairs(constraints: Sequence[Constraint]) -> list[tuple[Constraint, Constraint]]:
    """The two rows of each ratio that is a band with two ends."""
    ratios = [one for one in constraints if one.value is None]
    return [(a, b) for a, b in zip(ratios[::2], ratios[1::2], strict=True) if np.isfinite(b.weights).all()]


def _rates(program: Program, y: range, once: NDArray[np.float64], modality: Sequence[str]) -> dict[int, float]:
    """Cost of unequal rates: cells of a modality against each other, and modalities against each other. What one
    constraint pins stands apart, and all the rest is drawn at one rate."""
    cost: dict[int, float] = {}
    (common,) = program.variables([0.0], [math.inf])
    for name in dict.fromkeys(modality):
        cells = [i for i, other in enumerate(modality) if other == name and once[i] > 0]
        there = float(once[cells].sum())
        if there <= 0:
            continue
        weight = 1.0 / max(there, TINY)
        cost[program.distance({**dict.fromkeys((y[i] for i in cells), weight), common: -there * weight})] = 10.0
        if len(cells) > 1:
            (rate,) = program.variables([0.0], [math.inf])
            for i in cells:
                weight = 1.0 / max(float(once[i]), TINY)
                cost[program.distance({y[i]: weight, rate: -float(once[i]) * weight})] = 1.0
    return cost


def _integers(
    wanted: NDArray[np.float64], constraints: Sequence[Constraint], most: NDArray[np.float64], total: int
) -> NDArray[np.float64]:
    """Whole numbers that sum to `total`, keep every constraint as well as whole numbers can, and lie nearest."""
    base = np.floor(wanted + ROUNDING)
    part = np.where(wanted - base < ROUNDING, 0.0, wanted - base)
    # What is solved for is how far each lies above its whole part: numbers near 0, whatever the mixture's size.
    program = Program()
    high = np.minimum(REACH + 1, np.floor(most + ROUNDING) - base)
    n = program.variables(np.maximum(-REACH, -base).tolist(), high.tolist(), whole=True)
    left = float(total - base.sum())
    program.row(dict.fromkeys(n, 1.0), left, left)
    cost: dict[int, float] = {}
    for one in constraints:
        if not one.weights.any():
            continue
        (beyond,) = program.variables([0.0], [(REACH + 1) * float(np.abs(one.weights).sum())])
        coefficients, there = _times(n, one.weights), float(one.weights @ base)
        if math.isfinite(one.low):
            program.row({**coefficients, beyond: 1.0}, one.low * total - there, math.inf)
        if math.isfinite(one.high):
            program.row({**coefficients, beyond: -1.0}, -math.inf, one.high * total - there)
        cost[beyond] = 100.0
    for i in range(len(n)):
        cost[program.distance({n[i]: 1.0}, float(part[i]))] = 1.0
    found = program.minimise(cost)
    if found is None:
        raise StageError(f"no whole numbers of samples sum to {total:,}", hint="ask for another --size")
    return base + np.round(found[: len(n)])


# -- what cannot be met -----------------------------------------------------------------------------------------


def _possible(stock: Stock, constraints: Sequence[Constraint], unit: str) -> None:
    """Raises StageError where no amount of these kinds of data would do."""
    there = stock.amount > 0

    def meets(some: Sequence[Constraint]) -> bool:
        program = Program()
        y = program.variables([0.0] * len(there), [math.inf if ok else 0.0 for ok in there])
        program.row(dict.fromkeys(y, 1.0), 1.0, 1.0)
        _add(program, y, [_Row(one.weights, one.low, one.high, 0.0) for one in some], 1.0)
        return program.minimise({}) is not None

    if meets(constraints):
        return
    needed = _smallest(constraints, meets)
    absent = [one for one in needed if one.value is not None and one.low > 0 and not one.weights[there].any()]
    if absent:
        asked = "; ".join(dict.fromkeys(one.label for one in absent))
        what = ", ".join(dict.fromkeys(f"{one.column} {one.value}" for one in absent))
        found = ", ".join(dict.fromkeys(m for m, ok in zip(stock.modality, there, strict=True) if ok))
        counted = "" if unit == "samples" else f" that count in {unit}"
        raise StageError(
            f"the recipe asks for what is not there: {asked}",
            hint=f"these runs hold no samples of {what}{counted}; of modalities there are: {found}",
        )
    raise StageError(
        f"these constraints cannot be met together: {'; '.join(dict.fromkeys(one.label for one in needed))}",
        hint=f"with any amount of data; there are samples of: {', '.join(stock.names)}",
    )


def _smallest(constraints: Sequence[Constraint], meets: Any) -> list[Constraint]:
    """A set of constraints that cannot be met, of which each one is needed for that."""
    kept = list(constraints)
    for label in dict.fromkeys(one.label for one in constraints):
        rest = [one for one in kept if one.label != label]
        if not meets(rest):
            kept = rest
    return kept


def _short_of_data(
    stock: Stock,
    constraints: Sequence[Constraint],
    most: NDArray[np.float64],
    scale: float,
    wanted: float | None,
    unit: str,
    repeats: int,
) -> StageError:
    """What is missing for a mixture of this size, and how large one can be."""
    rows = [_Row(one.weights, one.low, one.high, 0.0) for one in constraints]
    largest = (_largest(rows, most) or 0.0) * scale
    if wanted is None:
        return StageError(f"the constraints leave room for no more than {largest:,.6g} {unit}", hint="loosen a band")

    def meets(some: Sequence[Constraint]) -> bool:
        program = Program()
        y = program.variables([0.0] * len(most), most.tolist())
        program.row(dict.fromkeys(y, 1.0), wanted, wanted)
        _add(program, y, [_Row(one.weights, one.low, one.high, 0.0) for one in some], wanted)
        return program.minimise({}) is not None

    needed = list(dict.fromkeys(one.label for one in _smallest(constraints, meets)))
    program = Program()
    y = program.variables([0.0] * len(most), [math.inf if amount > 0 else 0.0 for amount in most])
    short = program.variables([0.0] * len(most), [math.inf] * len(most))
    program.row(dict.fromkeys(y, 1.0), wanted, wanted)
    _add(program, y, rows, wanted)
    for i in range(len(most)):
        program.row({y[i]: 1.0, short[i]: -1.0}, -math.inf, float(most[i]))
    found = program.minimise(dict.fromkeys(short, 1.0))
    missing = []
    if found is not None:
        for i, name in enumerate(stock.names):
            lack = float(found[short[i]]) * scale
            if lack > 0.5:
                missing.append(
                    f"{name}: {math.ceil(lack - 1e-3):,} {unit} more than the {stock.amount[i]:,.0f} there are"
                )
    asked = f" with {'; '.join(needed)}" if needed else ""
    often = "once" if repeats == 1 else f"{repeats} times"
    fits = math.floor(largest)
    return StageError(
        f"the data do not suffice for {wanted * scale:,.0f} {unit}{asked}, each sample standing {often} at most",
        hint=f"missing, at the least: {'; '.join(missing) or 'data'}\n  the largest mixture of this recipe has "
        f"{fits:,} {unit}: ask for that --size, allow more `repeats`, or loosen a band",
    )
