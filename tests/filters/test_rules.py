import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.rules import Rule, judge_by_rules, quantile_threshold

values = st.lists(st.floats(-1, 1) | st.just(math.nan), min_size=1, max_size=20)


def test_the_first_broken_rule_decides() -> None:
    lengths, sizes = np.array([1.0, 5.0, 1.0, 5.0]), np.array([9.0, 9.0, 2.0, 2.0])
    rules = [Rule("small", lengths, "min", 3.0), Rule("large", sizes, "max", 4.0)]
    verdicts = judge_by_rules(rules, np.zeros(4, dtype=bool))
    assert verdicts.reason.tolist() == ["small", "large", "small", ""]
    assert verdicts.numbers.tolist() == [1.0, 9.0, 1.0, 5.0]
    assert verdicts.threshold.tolist() == [3.0, 4.0, 3.0, 3.0]
    assert verdicts.passed.tolist() == [False, False, False, True]


def test_limits_themselves_are_kept_and_nan_is_not() -> None:
    lengths = np.array([3.0, math.nan])
    for side in ("min", "max"):
        assert judge_by_rules([Rule("r", lengths, side, 3.0)], np.zeros(2, dtype=bool)).passed.tolist() == [True, False]


def test_lost_rows_are_missing_whatever_the_rules_say() -> None:
    verdicts = judge_by_rules([Rule("r", np.array([1.0]), "min", 3.0)], np.array([True]))
    assert (verdicts.passed[0], verdicts.reason[0]) == (False, "missing")
    assert math.isnan(verdicts.numbers[0])


def test_a_rule_judges_only_the_rows_that_it_applies_to() -> None:
    numbers, first = np.array([1.0, 1.0, math.nan]), np.array([True, False, False])
    rules = [Rule("small", numbers, "min", 3.0, first), Rule("large", numbers, "max", 2.0, ~first)]
    verdicts = judge_by_rules(rules, np.zeros(3, dtype=bool))
    assert verdicts.reason.tolist() == ["small", "", "missing"]
    assert verdicts.threshold.tolist() == [3.0, 2.0, 2.0]


@settings(deadline=None, max_examples=60)
@given(values, st.floats(0.01, 1))
def test_the_share_kept_is_the_share_asked_for(scores: list[float], fraction: float) -> None:
    array = np.array(scores)
    real = array[~np.isnan(array)]
    threshold = quantile_threshold(array, fraction)
    assert threshold == quantile_threshold(array[::-1], fraction)
    if len(real) == 0:
        assert threshold == math.inf
        return
    count = math.ceil(round(fraction * len(real), 9))
    assert (real >= threshold).sum() >= count  # more only where scores tie
    assert (real > threshold).sum() < count


def test_shares_outside_are_refused() -> None:
    for fraction in (0.0, 1.1, -1.0):
        with pytest.raises(ValueError, match="fraction"):
            quantile_threshold(np.zeros(3), fraction)
    assert quantile_threshold(np.arange(10.0), 0.3) == 7.0
