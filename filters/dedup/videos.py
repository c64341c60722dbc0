"""Whether one video is contained in another: how many frames of the shorter match frames of the longer, in order.

Single frames that look alike say little (the same title card, the same studio). Copies keep the order of time: a
re-encoded, scaled, cropped or letterboxed copy matches frame by frame, a clip cut out of a longer video matches a
stretch of it, a sped-up or slowed one matches with another step. So the measure is the longest chain of matches that
runs forward in both videos, as a share of the shorter video's sampled frames.

Frames are those that were sampled and can be searched (blank ones are not): a video's times are the seconds of these,
ascending. Requiring order, and how often a frame may be matched, are ours; no paper publishes such a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: A chain is reported as two spans where it skips more than this many sampling steps in the video that it skips in.
SPAN_GAP = 8.0
#: A copy may be slowed down by this much: that many frames of it may match one frame of the original.
SLOWEST = 2.0


class MatchedSpan(NamedTuple):
    """A stretch of one video that matches a stretch of another: first and last matched frame, in seconds of each."""

    a_start: float
    a_end: float
    b_start: float
    b_end: float


class VideoMatch(NamedTuple):
    """share: float in [0, 1], `frames` / frames of the shorter video, rounded to 6 decimals.

    frames: how many frames of the shorter video match in order. spans: in order of time; none where nothing matches.
    """

    share: float
    frames: int
    spans: tuple[MatchedSpan, ...]


NO_MATCH = VideoMatch(0.0, 0, ())


def match_videos(
    a: NDArray[np.uint64],
    b: NDArray[np.uint64],
    times: Mapping[int, NDArray[np.floating]],
    *,
    shift: int = 8,
    least: float = 0.0,
) -> Iterator[tuple[int, int, VideoMatch]]:
    """`ordered_match` for every pair of videos that share a hit.

    a, b: uint64 (h,), hits between frames whose ids are video << shift | position in the video's times; any order,
    either direction, repeats allowed. times: of every video that occurs. Hits inside one video are passed over.
    Yields (video, video, match) with the smaller first, ascending, where the share is at least `least` and above 0.
    """
    first, second = np.minimum(a, b), np.maximum(a, b)
    left, right = first >> np.uint64(shift), second >> np.uint64(shift)
    order = np.lexsort((right, left))
    order = order[(left != right)[order]]
    left, right = left[order], right[order]
    position = np.uint64((1 << shift) - 1)
    first, second = (first[order] & position).astype(np.int64), (second[order] & position).astype(np.int64)
    cuts = np.flatnonzero((np.diff(left) != 0) | (np.diff(right) != 0)) + 1
    for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(order)], strict=True):
        if end > start:
            one, other = int(left[start]), int(right[start])
            match = ordered_match(first[start:end], second[start:end], times[one], times[other], least=least)
            if match.frames:
                yield one, other, match


def ordered_match(
    index_a: NDArray[np.integer],
    index_b: NDArray[np.integer],
    times_a: NDArray[np.floating],
    times_b: NDArray[np.floating],
    *,
    least: float = 0.0,
) -> VideoMatch:
    """The longest chain of frame hits that runs forward in both videos.

    index_a, index_b: int (h,), the hits: positions in times_a and times_b of two frames that look alike; any order,
    repeats allowed. times_a, times_b: float (n_a,), (n_b,), seconds of all searchable frames, ascending.
    The shorter video is the one with fewer frames (a on a tie); each of its frames counts once. A frame of the longer
    may be matched by several, as many as fit between two samples of it in a copy slowed down by SLOWEST: a long video
    is sampled sparsely. Where `least` cannot be reached, which a count shows without a search, the result is NO_MATCH.
    Of equally long chains the most compact from its end is taken, so that a repeated shot does not stretch the span.
    """
    if len(times_a) == 0 or len(times_b) == 0 or len(index_a) == 0:
        return NO_MATCH
    if len(times_b) < len(times_a):
        other = ordered_match(index_b, index_a, times_b, times_a, least=least)
        return other._replace(spans=tuple(MatchedSpan(s.b_start, s.b_end, s.a_start, s.a_end) for s in other.spans))
    step_a, step_b = _step(times_a), _step(times_b)
    uses = max(1, int(np.ceil(SLOWEST * step_b / step_a))) if step_a > 0 and step_b > 0 else 1
    alike = np.zeros((len(times_a), len(times_b)), dtype=np.bool_)
    alike[index_a, index_b] = True
    bound = min(int(alike.any(axis=1).sum()), uses * int(alike.any(axis=0).sum()))
    if round(bound / len(times_a), 6) < least:
        return NO_MATCH
    chain = _chain(alike, uses)
    share = round(len(chain) / len(times_a), 6)
    if share < least:
        return NO_MATCH
    return VideoMatch(share, len(chain), _spans(chain, times_a, times_b, SPAN_GAP * step_a, SPAN_GAP * step_b))


def _step(times: NDArray[np.floating]) -> float:
    """The sampling interval in seconds; 0 for a single frame."""
    if len(times) < 2:
        return 0.0
    steps = np.sort(np.diff(np.asarray(times, dtype=np.float64)))
    return float(steps[len(steps) // 2])


def _chain(alike: NDArray[np.bool_], uses: int) -> list[tuple[int, int]]:
    """The longest chain of (row, column) hits: each row at most once, each column at most `uses` times, both forward.

    A longest common subsequence, bit-parallel (Hyyrö's form of Allison and Dix): every column is `uses` bits wide, a
    row of the table is one integer in which a zero bit is a step of the row's lengths. 256 frames take 256 additions,
    however many hits there are.
    """
    frames = np.flatnonzero(alike.any(axis=1)).tolist()
    width = alike.shape[1] * uses
    full = (1 << width) - 1
    packed = np.packbits(np.repeat(alike[frames], uses, axis=1), axis=1, bitorder="little")
    hits = {i: int.from_bytes(bits.tobytes(), "little") for i, bits in zip(frames, packed, strict=True)}
    row = full
    rows = []
    for i in frames:
        match = row & hits[i]
        row = ((row + match) | (row - match)) & full
        rows.append(row)
    chain = []
    stop = (~row & full).bit_length()  # only bits below it may be used: the first at which the full length is reached
    for place in range(len(frames) - 1, -1, -1):
        now = ~rows[place] & ((1 << stop) - 1)
        before = ~rows[place - 1] & ((1 << stop) - 1) if place else 0
        if now.bit_count() == before.bit_count():
            continue  # the chain is as long without this frame
        # One longer with this frame. Of its hits in reach the last leaves most room for the rest of the chain below.
        stop = (hits[frames[place]] & ((1 << stop) - 1)).bit_length() - 1
        chain.append((frames[place], stop // uses))
    return chain[::-1]


def _spans(
    chain: list[tuple[int, int]],
    times_a: NDArray[np.floating],
    times_b: NDArray[np.floating],
    gap_a: float,
    gap_b: float,
) -> tuple[MatchedSpan, ...]:
    if not chain:
        return ()
    a = np.asarray(times_a, dtype=np.float64)[[i for i, _ in chain]]
    b = np.asarray(times_b, dtype=np.float64)[[j for _, j in chain]]
    cuts = np.flatnonzero((np.diff(a) > gap_a) | (np.diff(b) > gap_b)) + 1
    spans = []
    for first, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(chain)], strict=True):
        spans.append(MatchedSpan(*(round(float(x), 6) for x in (a[first], a[end - 1], b[first], b[end - 1]))))
    return tuple(spans)
