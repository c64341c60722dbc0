"""Limits on numbers, applied in a fixed order, and limits computed from a share of the numbers."""

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
    """The judgement of n rows of signals.

    passed: bool (n,). False where a required number is missing: a missing value never passes.
    numbers, threshold: float64 (n,): the number that decided, and the limit that it was compared with.
    reason: str (n,): a short stable word for the rule that decided ("too_short"), "" where passed.
    """

    passed: Mask
    numbers: Floats
    threshold: Floats
    reason: NDArray[np.str_]


@dataclass(frozen=True)
class Rule:
    """Numbers must be >= limit (direction "min"), <= limit ("max") or < limit ("below"). NaN breaks every rule.

    numbers: float64 (n,); applies: bool (n,), rows to which the rule applies; None: all.
    """

    reason: str
    numbers: Floats
    direction: str
    limit: float
    applies: Mask | None = None

    def passes(self) -> Mask:
        """bool (n,): rows that pass the rule, or to which it does not apply."""
        compare = {"min": np.greater_equal, "max": np.less_equal, "below": np.less}[self.direction]
        passes: Mask = compare(self.numbers, self.limit)
        return passes if self.applies is None else passes | ~self.applies


def judge_by_rules(rules: Sequence[Rule], missing: Mask) -> Judgement:
    """Judge rows: the first broken rule gives reason, number and limit, or the first that applies if none is broken.

    missing: bool (n,): rows that cannot be judged; they fail with reason "missing" and number NaN, and so do rows whose
    number is NaN under a rule that applies to them.
    """
    size = len(missing)
    numbers, threshold = np.full(size, math.nan), np.full(size, math.nan)
    reason = np.full(size, "", dtype="<U32")
    everywhere = np.ones(size, dtype=bool)
    missing = missing.copy()
    for rule in reversed(rules):  # backwards, so that the first rule that applies wins
        applies = everywhere if rule.applies is None else rule.applies
        missing |= applies & np.isnan(rule.numbers)
        numbers[applies], threshold[applies] = rule.numbers[applies], rule.limit
    undecided = ~missing
    for rule in rules:
        broken = undecided & ~rule.passes()
        numbers[broken], threshold[broken], reason[broken] = rule.numbers[broken], rule.limit, rule.reason
        undecided &= ~broken
    numbers[missing], reason[missing] = math.nan, MISSING
    return Judgement(undecided, numbers, threshold, reason)


def quantile_threshold(scores: Floats, fraction: float) -> float:
    """The smallest score to keep so that the top `fraction` (0..1] of the scores stays: the n-th largest of them,
    n = ceil(fraction · scores), much as in DataComp's fraction mode. Equal scores are kept or dropped together.

    NaN is not a score and does not count. Without any score the threshold is infinite: nothing is kept.
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"the fraction to keep must be in (0, 1], got {fraction}")
    descending = np.sort(scores[~np.isnan(scores)])[::-1]
    if len(descending) == 0:
        return math.inf
    # Rounded first: some products are 3.0000000000000004 instead of 3.
    kept = math.ceil(round(fraction * len(descending), 9))
    return float(descending[max(kept, 1) - 1])
