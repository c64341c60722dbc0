"""Limits on numbers, asked in a fixed order, and limits taken from a share of the numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: The reason of a row that could not be judged because a number is null or NaN.
MISSING = "missing"


@dataclass(frozen=True)
class Judgement:
    """One row per row of the signals judged.

    passed: bool (n,). False where a required number is missing: a missing value never passes.
    value, threshold: float64 (n,): the number that decided, and the limit that it was compared with.
    reason: str (n,): a short stable word for the rule that decided ("too_short"), "" where passed.
    """

    passed: Mask
    value: Floats
    threshold: Floats
    reason: NDArray[np.str_]


@dataclass(frozen=True)
class Rule:
    """Numbers must be >= limit (direction "min"), <= limit ("max") or < limit ("below"). NaN breaks every rule.

    numbers: float64 (n,); applies: bool (n,), rows that the rule is asked of; None: all.
    """

    reason: str
    numbers: Floats
    direction: str
    limit: float
    applies: Mask | None = None

    def passes(self) -> Mask:
        """bool (n,): rows that the rule lets pass, or is not asked of."""
        compare = {"min": np.greater_equal, "max": np.less_equal, "below": np.less}[self.direction]
        passes: Mask = compare(self.numbers, self.limit)
        return passes if self.applies is None else passes | ~self.applies


def judge_by_rules(rules: Sequence[Rule], missing: Mask) -> Judgement:
    """The first broken rule decides: its reason, number and limit. Rows that break none show the first that applies.

    missing: bool (n,): rows that cannot be judged; they fail with reason "missing" and value NaN, and so do rows whose
    number is NaN under a rule that applies to them.
    """
    size = len(missing)
    value, threshold = np.full(size, math.nan), np.full(size, math.nan)
    reason = np.full(size, "", dtype="<U32")
    everywhere = np.ones(size, dtype=bool)
    missing = missing.copy()
    for rule in reversed(rules):  # of several rules that apply, the first one writes last
        applies = everywhere if rule.applies is None else rule.applies
        missing |= applies & np.isnan(rule.numbers)
        value[applies], threshold[applies] = rule.numbers[applies], rule.limit
    undecided = ~missing
    for rule in rules:
        broken = undecided & ~rule.passes()
        value[broken], threshold[broken], reason[broken] = rule.numbers[broken], rule.limit, rule.reason
        undecided &= ~broken
    value[missing], reason[missing] = math.nan, MISSING
    return Judgement(undecided, value, threshold, reason)


def quantile_threshold(scores: Floats, fraction: float) -> float:
    """The smallest score to keep so that the top `fraction` (0..1] of the scores stays: the n-th largest of them with
    n = ceil(fraction · scores), much as in DataComp's fraction mode. Equal scores are kept or dropped together.

    NaN is no score and is not counted. Without any score the threshold is infinite: nothing is kept.
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"the fraction to keep must be in (0, 1], got {fraction}")
    descending = np.sort(scores[~np.isnan(scores)])[::-1]
    if len(descending) == 0:
        return math.inf
    # 0.3 · 10 is 3.0000000000000004 in some orders of multiplication: the ceiling must not see that.
    kept = math.ceil(round(fraction * len(descending), 9))
    return float(descending[max(kept, 1) - 1])
