"""Histograms: every row stands in one bar, and a threshold lies between bars it divides."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.report import charts

VALUES = st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")) | st.integers(0, 5).map(float), max_size=60)


@given(VALUES, st.none() | st.floats(-1e3, 1e3), st.integers(0, 2**32 - 1))
def test_every_finite_value_is_counted_once(values: list[float], mark: float | None, seed: int) -> None:
    column = np.array(values, dtype=np.float64)
    kept = np.random.default_rng(seed).random(len(column)) < 0.5
    histogram = charts.build_histogram(column, kept, [] if mark is None else [mark])
    finite = np.isfinite(column)
    if histogram is None:
        assert not finite.any()
        return
    assert sum(histogram["kept"]) == int((finite & kept).sum()) and sum(histogram["others"]) == int(
        (finite & ~kept).sum()
    )
    assert histogram["count"] == int(finite.sum())


@given(VALUES, st.floats(-1e3, 1e3))
def test_bin_edges_ascend_and_include_the_threshold(values: list[float], mark: float) -> None:
    borders = charts.choose_edges(np.array(values, dtype=np.float64), [mark])
    assert (np.diff(borders) > 0).all() and len(borders) == charts.BINS + 1
    assert borders[0] <= mark <= borders[-1]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "ü", ""]), st.booleans()), max_size=40))
def test_shares_sum_to_the_rows(rows: list[tuple[str, bool]]) -> None:
    counts = charts.count_kept([name for name, _ in rows], np.array([kept for _, kept in rows], dtype=bool))
    assert sum(n for _, n, _ in counts) == len(rows) and sum(k for _, _, k in counts) == sum(k for _, k in rows)
    for name, n, kept in counts:
        assert n == sum(row_name == name for row_name, _ in rows) and kept == sum(
            k for row_name, k in rows if row_name == name
        )
