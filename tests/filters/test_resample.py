from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.resample import (
    NgramCounts,
    ResampleSettings,
    compute_keep_probability,
    count_frequencies,
    draw_kept,
    find_tail_threshold,
    measure_tail_share,
    merge_frequencies,
)

SIZE = 8
LISTS = st.lists(st.none() | st.lists(st.integers(0, SIZE - 1), max_size=6), max_size=15)


def column(lists):
    return pa.array(lists, pa.list_(pa.int32()))


def table(counts):
    """Frequencies of ids 0, 1, …; zeros are left out."""
    present = np.flatnonzero(counts)
    return NgramCounts(present.astype(np.int32), np.array(counts)[present].astype(np.int64), sum(counts), 0)


def keys(n, start=0):
    return [f"key{i:08d}" for i in range(start, start + n)]


@pytest.mark.parametrize(
    ("ratio", "sqrt", "linear"),
    [(1, 1, 1), (2, 0.707, 0.5), (4, 0.5, 0.25), (10, 0.316, 0.1), (100, 0.1, 0.01), (10_000, 0.01, 0.0001)],
)
def test_the_keep_probability_of_one_ngram(ratio, sqrt, linear):
    counts = table([7 * ratio])
    assert compute_keep_probability(column([[0]]), counts, 7, "sqrt")[0] == pytest.approx(sqrt, abs=5e-4)
    assert compute_keep_probability(column([[0]]), counts, 7, "linear")[0] == pytest.approx(linear, abs=5e-5)


@pytest.mark.parametrize(
    ("ratio", "many", "sqrt", "linear"),
    [
        (4, 3, 0.875, 0.578),
        (100, 3, 0.271, 0.030),
        (100, 10, 0.651, 0.096),
        (100, 30, 0.958, 0.260),
        (10_000, 10, 0.096, 0.001),
    ],
)
def test_the_keep_probability_of_several_ngrams(ratio, many, sqrt, linear):
    counts = table([20 * ratio] * many)
    row = column([list(range(many))])
    assert compute_keep_probability(row, counts, 20, "sqrt")[0] == pytest.approx(sqrt, abs=5e-4)
    assert compute_keep_probability(row, counts, 20, "linear")[0] == pytest.approx(linear, abs=5e-4)


@pytest.mark.parametrize("rule", ["sqrt", "linear"])
def test_any_ngram_up_to_t_keeps_for_certain(rule):
    counts = table([10**9, 10**9, 100, 101, 99])
    rows = column([[0, 1, 2], [0, 1, 3], [0, 4], [5]])
    p = compute_keep_probability(rows, counts, 100, rule)
    assert p[0] == p[2] == 1.0  # f = T and f < T
    assert 0.9 < p[1] < 1.0
    assert p[3] == 1.0  # never counted: rarer than anything
    keep, draw = draw_kept(keys(4), p, seed=0)
    assert keep[[0, 2, 3]].all() and (draw < 1).all()


def test_a_repeated_ngram_is_drawn_and_counted_once():
    counts = count_frequencies(column([[3, 3, 3], [3, 1, 3], [1]]), SIZE)
    assert counts.ids.tolist() == [1, 3] and counts.counts.tolist() == [2, 2]
    p = compute_keep_probability(column([[0], [0, 0, 0]]), table([400]), 100)
    assert p.tolist() == [0.5, 0.5]


def test_samples_without_ngrams_follow_the_setting_unmatched():
    rows = column([[], [0], None])
    counts = table([400])
    for option, expected in [("keep", 1.0), ("drop", 0.0), (0.25, 0.25), (0, 0.0), (1, 1.0)]:
        p = compute_keep_probability(rows, counts, 100, unmatched=option)
        assert p[:2].tolist() == [expected, 0.5]
        assert np.isnan(p[2])
    keep, _ = draw_kept(keys(3), compute_keep_probability(rows, counts, 100, unmatched="drop"), seed=0)
    assert not keep[0] and not keep[2]
    keep, _ = draw_kept(keys(3), compute_keep_probability(rows, counts, 100), seed=0)
    assert keep[0] and not keep[2]


@given(LISTS)
def test_frequencies_count_texts(lists):
    counts = count_frequencies(column(lists), SIZE)
    texts = [row for row in lists if row is not None]
    expected = {i: sum(i in row for row in texts) for i in range(SIZE) if any(i in row for row in texts)}
    assert dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True)) == expected
    assert (counts.texts, counts.unmatched) == (len(texts), sum(not row for row in texts))
    assert counts.ids.dtype == np.int32 and counts.counts.dtype == np.int64


@given(LISTS, st.lists(st.integers(0, 15), max_size=4), st.randoms(use_true_random=False))
def test_parts_merge_to_the_whole_in_any_order(lists, cuts, random):
    edges = [0, *sorted(min(cut, len(lists)) for cut in cuts), len(lists)]
    parts = [count_frequencies(column(lists[a:b]), SIZE) for a, b in pairwise(edges)]
    random.shuffle(parts)
    middle = len(parts) // 2
    nested = merge_frequencies([merge_frequencies(parts[:middle]), merge_frequencies(parts[middle:])])
    assert same(merge_frequencies(parts), count_frequencies(column(lists), SIZE))
    assert same(nested, count_frequencies(column(lists), SIZE))


def same(a, b):
    return a.to_table().equals(b.to_table(), check_metadata=True)


def test_the_frequency_table_survives_writing_and_reading():
    counts = count_frequencies(column([[1, 2], [], [2]]), SIZE)
    assert same(NgramCounts.from_table(counts.to_table()), counts)
    assert same(NgramCounts.from_table(merge_frequencies([]).to_table()), merge_frequencies([]))


def test_an_id_outside_the_vocabulary_is_an_error():
    for ids in ([SIZE], [-1]):
        with pytest.raises(ValueError, match="outside"):
            count_frequencies(column([ids]), SIZE)


def test_slices_and_chunks_are_columns_too():
    rows = [[0], None, [1, 2], [], [0, 2]]
    whole = column(rows)
    cut = pa.chunked_array([whole.slice(0, 2), whole.slice(2)])
    counts = count_frequencies(whole, SIZE)
    assert same(count_frequencies(cut, SIZE), counts)
    assert same(count_frequencies(whole.slice(2), SIZE), count_frequencies(column(rows[2:]), SIZE))
    p = compute_keep_probability(whole, counts, 0.5)
    np.testing.assert_array_equal(compute_keep_probability(cut, counts, 0.5), p)
    np.testing.assert_array_equal(compute_keep_probability(whole.slice(2), counts, 0.5), p[2:])


COUNTS = st.lists(st.integers(1, 60), min_size=SIZE, max_size=SIZE)
ROWS = st.lists(st.none() | st.lists(st.integers(0, SIZE - 1), unique=True, max_size=6).map(sorted), max_size=15)


@given(COUNTS, ROWS, st.floats(0.1, 80), st.sampled_from(["sqrt", "linear"]))
def test_keep_probabilities_equal_the_formula_row_by_row(counts, rows, t, rule):
    p = compute_keep_probability(column(rows), table(counts), t, rule, "drop")
    for row, got in zip(rows, p.tolist(), strict=True):
        if row is None:
            assert np.isnan(got)
            continue
        ratios = [min(1.0, t / counts[i]) for i in row]
        miss = np.prod([1 - (r**0.5 if rule == "sqrt" else r) for r in ratios])
        assert got == pytest.approx(1 - miss if row else 0.0, abs=2e-12)
        assert not any(counts[i] <= t for i in row) or got == 1.0


@given(COUNTS, ROWS, st.floats(0.1, 80), st.floats(1.0, 3.0), st.sampled_from(["sqrt", "linear"]), st.integers(0, 9))
def test_a_larger_t_keeps_a_superset(counts, rows, t, factor, rule, seed):
    less, more = (compute_keep_probability(column(rows), table(counts), x, rule) for x in (t, t * factor))
    is_valid = np.array([row is not None for row in rows], dtype=bool)
    assert (less[is_valid] <= more[is_valid]).all()
    kept_less, draw = draw_kept(keys(len(rows)), less, seed)
    kept_more, same_draw = draw_kept(keys(len(rows)), more, seed)
    assert (kept_less <= kept_more).all()
    assert (draw == same_draw).all()


@settings(max_examples=30)
@given(COUNTS, ROWS, st.integers(0, 9), st.randoms(use_true_random=False), st.integers(0, 15))
def test_order_and_shards_do_not_matter(counts, rows, seed, random, cut):
    names = keys(len(rows))
    keep, draw = draw_kept(names, compute_keep_probability(column(rows), table(counts), 5), seed)
    expected = dict(zip(names, zip(keep.tolist(), draw.tolist(), strict=True), strict=True))
    order = list(range(len(rows)))
    random.shuffle(order)
    for shard in (order[:cut], order[cut:]):
        shard_keys = [names[i] for i in shard]
        p = compute_keep_probability(column([rows[i] for i in shard]), table(counts), 5)
        keep, draw = draw_kept(shard_keys, p, seed)
        assert [expected[k] for k in shard_keys] == list(zip(keep.tolist(), draw.tolist(), strict=True))


@pytest.mark.parametrize(("rule", "expected"), [("sqrt", 0.875), ("linear", 1 - 0.75**3)])
def test_the_keep_rate_is_the_probability(rule, expected):
    n = 20_000
    p = compute_keep_probability(column([[0, 1, 2]] * n), table([400, 400, 400]), 100, rule)
    assert p == pytest.approx(expected)
    for seed in range(3):
        keep, draw = draw_kept(keys(n), p, seed)
        z = (keep.sum() - n * expected) / np.sqrt(n * expected * (1 - expected))
        assert abs(z) < 4
        assert draw.min() >= 0 and draw.max() < 1


def test_draws_of_different_seeds_are_independent():
    p = np.full(4_000, 0.5)
    a, b = (draw_kept(keys(4_000), p, seed)[0] for seed in (1, 2))
    assert abs((a == b).mean() - 0.5) < 4 * 0.5 / np.sqrt(4_000)


def test_tail_threshold_by_hand():
    # shares, running: 1/20, 2/20, 4/20, 10/20, 20/20
    counts = np.array([10, 1, 2, 6, 1])
    assert find_tail_threshold(counts, 0.05) == 1
    assert find_tail_threshold(counts, 0.2) == 2
    assert find_tail_threshold(counts, 0.3) == 2
    assert find_tail_threshold(counts, 0.4) == 6
    assert find_tail_threshold(counts, 1.0) == 10
    assert measure_tail_share(counts, 1) == 0
    assert measure_tail_share(counts, 2) == 0.1
    assert measure_tail_share(counts, 6) == 0.2
    assert measure_tail_share(counts, 11) == 1


def test_ngrams_that_never_occur_and_empty_counts():
    assert find_tail_threshold(np.array([0, 0, 0, 5, 9]), 0.0001) == 5
    assert find_tail_threshold(np.array([], dtype=np.int64), 0.06) == 1
    assert measure_tail_share(np.array([], dtype=np.int64), 3) == 0


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.floats(0, 1))
def test_the_tail_threshold_is_the_nearest_count_to_the_share(counts, share):
    ascending = sorted(counts)
    total = sum(counts)
    t = find_tail_threshold(np.array(counts), share)
    distances = [abs(sum(ascending[: i + 1]) / total - share) for i in range(len(ascending))]
    reached = min(d for d, count in zip(distances, ascending, strict=True) if count == t)
    assert reached <= min(distances) + 1e-12
    assert measure_tail_share(np.array(counts), t) <= measure_tail_share(np.array(counts), t + 1)


def test_t_must_be_positive():
    for t in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="positive"):
            compute_keep_probability(column([[0]]), table([1]), t)


def test_defaults_and_limits_of_the_settings():
    assert ResampleSettings().model_dump() == {
        "rule": "sqrt",
        "t": None,
        "tail_share": 0.06,
        "unmatched": "keep",
        "modalities": ("image",),
    }
    assert ResampleSettings(t=20_000, unmatched=0.5, rule="linear").t == 20_000
    wrong = [
        {"t": 5, "tail_share": 0.1},
        {"t": 0},
        {"tail_share": 0},
        {"tail_share": 1.5},
        {"unmatched": 1.5},
        {"unmatched": -0.1},
        {"unmatched": "maybe"},
        {"rule": "cube"},
        {"modalities": ("audio",)},
        {"threshold": 5},
    ]
    for values in wrong:
        with pytest.raises(ValidationError):
            ResampleSettings(**values)
