"""Several limits asked in a fixed order, and limits taken from a share of what is there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filters.interface import Judgement

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """value must be >= limit (side "min") or <= limit (side "max"); a limit of None switches the rule off.

    value: float64 (n,). A NaN breaks the rule, whichever its side.
    """

    reason: str
    value: Floats
    side: str
    limit: float | None

    def broken(self) -> Flags:
        if self.limit is None:
            return np.zeros(len(self.value), dtype=bool)
        held = self.value >= self.limit if self.side == "min" else self.value <= self.limit
        return ~held


def first_broken(rules: Sequence[Rule], lost: Flags) -> Judgement:
    """The first broken rule decides: its reason, value and limit. Rows that keep all rules show the first active one.

    lost: bool (n,): rows that cannot be judged; they fail with reason "missing" and value NaN.
    """
    size = len(lost)
    value, threshold = np.full(size, math.nan), np.full(size, math.nan)
    reason = np.full(size, "", dtype="<U32")
    undecided = ~lost
    active = [rule for rule in rules if rule.limit is not None]
    for rule in active:
        broken = rule.broken() & undecided
        value[broken], threshold[broken], reason[broken] = rule.value[broken], rule.limit, rule.reason
        undecided &= ~broken
    if active:
        value[undecided], threshold[undecided] = active[0].value[undecided], active[0].limit
    reason[lost] = "missing"
    return Judgement(undecided, value, threshold, reason)


def where(first: Flags, one: Judgement, other: Judgement) -> Judgement:
    """Row by row the first judgement where `first`, else the other."""
    return Judgement(
        np.where(first, one.passed, other.passed),
        np.where(first, one.value, other.value),
        np.where(first, one.threshold, other.threshold),
        np.where(first, one.reason, other.reason),
    )


def quantile_threshold(values: Floats, fraction: float) -> float:
    """The smallest score to keep so that the top `fraction` (0..1] of the scores stays: the n-th largest of them with
    n = ceil(fraction · scores), much as in DataComp's fraction mode. Equal scores stand or fall together.

    NaN are no scores and are not counted. Without any score the threshold is infinite: nothing is kept.
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"a fraction to keep lies in (0, 1], not {fraction}")
    scores = np.sort(values[~np.isnan(values)])[::-1]
    if len(scores) == 0:
        return math.inf
    # 0.3 · 10 is 3.0000000000000004 in some orders of multiplication: the ceiling must not see that.
    wanted = math.ceil(round(fraction * len(scores), 9))
    return float(scores[max(wanted, 1) - 1])
