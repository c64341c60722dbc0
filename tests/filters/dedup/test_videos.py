"""Ordered matching against an exhaustive table, and on what people do to videos."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.dedup.videos import NO_MATCH, MatchedSpan, match_videos, ordered_match

ONE_A_SECOND = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9)), max_size=40)


def longest_subsequence(hits, uses, short, long):
    """Longest common subsequence by the textbook table, each frame of the longer video repeated `uses` times."""
    table = np.zeros((short + 1, long * uses + 1), dtype=int)
    for i in range(short):
        for j in range(long * uses):
            table[i + 1, j + 1] = max(table[i, j + 1], table[i + 1, j], table[i, j] + ((i, j // uses) in hits))
    return table[-1, -1]


@given(ONE_A_SECOND)
def test_share_is_that_of_the_longest_chain(hits):
    a, b = np.array(hits, dtype=int).reshape(-1, 2).T
    match = ordered_match(a, b, np.arange(8.0), np.arange(10.0))
    assert match.frames == longest_subsequence(set(hits), 2, 8, 10)
    assert match.share == round(match.frames / 8, 6)


@given(ONE_A_SECOND)
def test_either_order_of_the_videos_gives_the_same(hits):
    a, b = np.array(hits, dtype=int).reshape(-1, 2).T
    match = ordered_match(a, b, np.arange(8.0), np.arange(10.0))
    swapped = ordered_match(b, a, np.arange(10.0), np.arange(8.0))
    assert (match.share, match.frames) == (swapped.share, swapped.frames)
    assert [tuple(s) for s in match.spans] == [(s.b_start, s.b_end, s.a_start, s.a_end) for s in swapped.spans]


@given(ONE_A_SECOND)
def test_spans_run_forward_and_begin_and_end_at_hits(hits):
    a, b = np.array(hits, dtype=int).reshape(-1, 2).T
    match = ordered_match(a, b, np.arange(8.0) * 10, np.arange(10.0) * 10)
    corners = {(i * 10.0, j * 10.0) for i, j in hits}
    last = (-1.0, -1.0)
    for span in match.spans:
        assert {(span.a_start, span.b_start), (span.a_end, span.b_end)} <= corners
        assert last[0] < span.a_start <= span.a_end and last[1] <= span.b_start <= span.b_end
        last = (span.a_end, span.b_end)
    assert bool(match.spans) == bool(hits)


def scene(seconds):
    """Contents of the frames at these seconds of the original: the position of a point that moves by 1 per second."""
    return np.asarray(seconds, dtype=float)


def hits(seen_a, seen_b, reach=0.6):
    """Pairs of frames whose contents are at most `reach` seconds of the original apart."""
    return np.nonzero(np.abs(seen_a[:, None] - seen_b[None, :]) <= reach)


def test_a_copy_sampled_at_other_offsets():
    a, b = np.arange(0, 60.0), np.arange(0.4, 60.0)
    match = ordered_match(*hits(scene(a), scene(b)), a, b)
    assert match.share == 1.0
    assert match.spans == (MatchedSpan(0.0, 59.0, 0.4, 59.4),)


@pytest.mark.parametrize("speed", [0.5, 0.75, 1.25, 2.0, 3.0])
def test_a_copy_at_another_speed(speed):
    a, b = np.arange(0, 60.0), np.arange(0.3, 60.0 / speed)
    match = ordered_match(*hits(scene(a), scene(b * speed)), a, b)
    assert match.share >= 0.95


def test_a_clip_cut_out_of_a_longer_video():
    a, b = np.arange(0, 120.0), np.arange(0, 20.0)
    match = ordered_match(*hits(scene(a), scene(b + 40.3)), a, b)
    assert match.share == 1.0
    (span,) = match.spans
    assert span.a_start == pytest.approx(40, abs=1) and span.a_end == pytest.approx(59, abs=1)
    assert (span.b_start, span.b_end) == (0.0, 19.0)


def test_a_clip_of_a_long_video_that_is_sampled_sparsely():
    a, b = np.linspace(0, 1024, 256), np.arange(0, 40.0)
    match = ordered_match(*hits(scene(a), scene(b + 300.5), reach=2.1), a, b)
    assert match.share == 1.0


def test_a_clip_made_of_two_stretches_has_two_spans():
    a, b = np.arange(0, 120.0), np.arange(0, 20.0)
    seen = np.where(b < 10, b + 5, b + 60)
    match = ordered_match(*hits(scene(a), scene(seen), reach=0.1), a, b)
    assert match.spans == (MatchedSpan(5.0, 14.0, 0.0, 9.0), MatchedSpan(70.0, 79.0, 10.0, 19.0))


def test_reversed_is_not_a_copy():
    a = np.arange(0, 60.0)
    assert ordered_match(*hits(scene(a), scene(59 - a)), a, a).share < 0.05


def test_a_shared_title_card_is_a_small_share():
    a, b = np.arange(0, 60.0), np.arange(0, 60.0)
    card = np.nonzero((a < 3)[:, None] & (b < 3)[None, :])
    assert ordered_match(*card, a, b).share == 0.05


def test_a_still_video_is_not_contained_in_one_short_shot():
    a, b = np.arange(0, 60.0), np.arange(0, 90.0)
    shot = np.nonzero((a >= 0)[:, None] & ((b > 40) & (b < 44))[None, :])
    assert ordered_match(*shot, a, b).share == 0.1


def test_a_repeated_opening_does_not_stretch_the_span():
    a, b = np.arange(0, 120.0), np.arange(0, 10.0)
    i, j = hits(scene(a), scene(b + 100), reach=0.1)
    match = ordered_match(np.r_[2, i], np.r_[0, j], a, b)
    assert match.spans == (MatchedSpan(100.0, 109.0, 0.0, 9.0),)


def test_two_still_videos_match_wholly_and_quickly():
    a = b = np.arange(0, 256.0)
    every = np.nonzero(np.ones((256, 256), dtype=bool))
    match = ordered_match(*every, a, b)
    assert match.share == 1.0 and len(match.spans) == 1


def test_a_share_below_the_minimum_is_no_match_and_one_above_it_is_unchanged():
    a, b = np.arange(0, 60.0), np.arange(0, 60.0)
    i, j = hits(scene(a), scene(b + 30))
    match = ordered_match(i, j, a, b)
    assert 0.5 <= match.share < 0.55
    assert ordered_match(i, j, a, b, min_share=match.share) == match
    assert ordered_match(i, j, a, b, min_share=0.6) == NO_MATCH


def test_hits_are_sorted_out_by_pair_of_videos():
    times = {3: np.arange(20.0), 5: np.arange(12.0), 9: np.arange(6.0)}

    def frames(video, index):
        return np.uint64(video) << np.uint64(8) | np.asarray(index, dtype=np.uint64)

    clip = np.arange(6)
    a = np.concatenate([frames(3, clip + 4), frames(9, [0, 5]), frames(5, [1]), frames(3, [7])])
    b = np.concatenate([frames(9, clip), frames(5, [3, 9]), frames(3, [2]), frames(3, [8])])
    order = np.random.default_rng(0).permutation(len(a))
    matches = list(match_videos(a[order], b[order], times))
    assert [(i, j, match.frames) for i, j, match in matches] == [(3, 5, 1), (3, 9, 6), (5, 9, 2)]
    assert matches[1][2] == ordered_match(clip + 4, clip, times[3], times[9])
    assert [pair[:2] for pair in match_videos(a, b, times, min_share=0.9)] == [(3, 9)]
    assert list(match_videos(a[:0], b[:0], times)) == []


def test_empty_input():
    none = np.zeros(0, dtype=int)
    assert ordered_match(none, none, np.arange(3.0), np.arange(3.0)) == NO_MATCH
    assert ordered_match(none, none, np.zeros(0), np.zeros(0)) == NO_MATCH


def test_one_frame_videos():
    zero, at = np.zeros(1, dtype=int), np.zeros(1)
    assert ordered_match(zero, zero, at, at) == (1.0, 1, (MatchedSpan(0.0, 0.0, 0.0, 0.0),))
