"""Intervals: exact against enumeration, and holding the truth as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.forecast import estimates as forecast
from pipelines.forecast.estimates import Estimate


def chance_of(seen: int, successes: int, n: int, total: int) -> float:
    """P(X = seen) for n of `total` drawn, of which `successes` count; by counting hands."""
    return math.comb(successes, seen) * math.comb(total - successes, n - seen) / math.comb(total, n)


@settings(deadline=None)  # the first call imports scipy
@given(st.integers(1, 40), st.data())
def test_count_is_every_population_that_is_not_ruled_out(total: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, total))
    seen = data.draw(st.integers(0, n))
    tail = (1 - forecast.CONFIDENCE) / 2
    possible = []
    for successes in range(seen, total - (n - seen) + 1):
        above = sum(chance_of(x, successes, n, total) for x in range(seen, n + 1))
        below = sum(chance_of(x, successes, n, total) for x in range(0, seen + 1))
        if above > tail + 1e-9 and below > tail + 1e-9:
            possible.append(successes)
    estimate = forecast.count(seen, n, total)
    assert possible == list(range(int(estimate.low), int(estimate.high) + 1)) or not possible
    assert estimate.low <= estimate.value <= estimate.high


def test_intervals_of_counts_contain_the_true_count() -> None:
    rng = np.random.default_rng(5)
    inside = 0
    for successes in (30, 400, 3000, 9000):
        for seen in rng.hypergeometric(successes, 10_000 - successes, 100, 250).tolist():
            estimate = forecast.count(seen, 100, 10_000)
            inside += estimate.low <= successes <= estimate.high
    assert 945 <= inside < 1000  # at least what is promised, and not by being endless


@pytest.mark.parametrize("seen", [0, 3, 12])
def test_a_full_sample_has_no_uncertainty(seen: int) -> None:
    assert forecast.count(seen, 12, 12) == Estimate(seen, seen, seen)
    assert forecast.pairs(seen, 12, 12) == Estimate(seen, seen, seen)
    values = np.arange(12.0)
    assert forecast.total(values, 12) == Estimate(66, 66, 66)


def test_intervals_of_totals_contain_the_true_total() -> None:
    rng = np.random.default_rng(6)
    population = rng.gamma(2.0, 100.0, 5000) * (rng.random(5000) < 0.6)
    inside = 0
    for _ in range(400):
        sample = rng.choice(population, 100, replace=False)
        estimate = forecast.total(sample, 5000)
        inside += estimate.low <= population.sum() <= estimate.high
        assert estimate.low >= sample.sum() or estimate.low <= estimate.value
    assert 365 <= inside < 400


def test_intervals_of_pairs_contain_the_truth_and_are_wide_where_little_is_known() -> None:
    rng = np.random.default_rng(7)
    partner = np.arange(2000)
    partner[:600] = np.repeat(np.arange(300), 2)  # 300 pairs of copies
    inside = 0
    for _ in range(300):
        _, sizes = np.unique(rng.choice(partner, 200, replace=False), return_counts=True)
        estimate = forecast.pairs(int((sizes == 2).sum()), 200, 2000)
        inside += estimate.low <= 300 <= estimate.high
    assert 282 <= inside <= 300
    blind = forecast.pairs(0, 200, 20_000)
    assert blind.value == blind.low == 0
    assert blind.high > 20_000


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1e3), st.floats(0, 1e3)), min_size=1, max_size=5))
def test_sums_of_estimates(parts: list[tuple[float, float, float]]) -> None:
    estimates = [Estimate(centre, centre - below, centre + above) for centre, below, above in parts]
    estimate = forecast.add(estimates)
    assert estimate.value == pytest.approx(sum(p.value for p in estimates))
    assert estimate.low >= sum(p.low for p in estimates) - 1e-6
    assert estimate.high <= sum(p.high for p in estimates) + 1e-6
    assert estimate.low <= estimate.value <= estimate.high
    if len(estimates) == 1:
        assert estimate.low == pytest.approx(estimates[0].low)
