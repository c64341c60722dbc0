"""Measure whether one video contains another: frames of the shorter that match frames of the longer, in order.

Single similar frames are weak evidence (the same title card, the same studio). Copies preserve temporal order: a
re-encoded, scaled, cropped or letterboxed copy matches frame by frame, a clip cut from a longer video matches a span
of it, a sped-up or slowed copy matches at another step. So the measure is the longest chain of matches that runs
forward in both videos, as a share of the shorter video's sampled frames.

Only sampled frames that can be searched count (blank ones cannot); a video's times are their seconds, ascending.
The order requirement and the limit on matches per frame are ours; no paper publishes such a rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: A chain is split into two spans where it skips more than this many sampling steps of either video.
SPAN_GAP = 8.0
#: Largest slow-down of a copy: that many of its frames may match one frame of the original.
SLOWEST = 2.0


class MatchedSpan(NamedTuple):
    """Matching spans of two videos: first and last matched frame, in seconds of each video."""

    a_start: float
    a_end: float
    b_start: float
    b_end: float


class VideoMatch(NamedTuple):
    """share: float in [0, 1], `frames` / frames of the shorter video, rounded to 6 decimals.

    frames: number of frames of the shorter video that match in order. spans: in order of time; empty without matches.
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
    min_share: float = 0.0,
) -> Iterator[tuple[int, int, VideoMatch]]:
    """Apply `ordered_match` to every pair of videos that share a hit.

    a, b: uint64 (h,), hits between frames whose ids are video << shift | position in the video's times; any order,
    either direction, repeats allowed. times: of every video that occurs. Hits within one video are ignored.
    Yields (video, video, match) with the smaller first, ascending, where the share is at least `min_share` and above 0.
    """
    first, second = np.minimum(a, b), np.maximum(a, b)
    video_a, video_b = first >> np.uint64(shift), second >> np.uint64(shift)
    order = np.lexsort((video_b, video_a))
    order = order[(video_a != video_b)[order]]
    video_a, video_b = video_a[order], video_b[order]
    position = np.uint64((1 << shift) - 1)
    first, second = (first[order] & position).astype(np.int64), (second[order] & position).astype(np.int64)
    cuts = np.flatnonzero((np.diff(video_a) != 0) | (np.diff(video_b) != 0)) + 1
    for start, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(order)], strict=True):
        if end > start:
            i, j = int(video_a[start]), int(video_b[start])
            match = ordered_match(first[start:end], second[start:end], times[i], times[j], min_share=min_share)
            if match.frames:
                yield i, j, match


def ordered_match(
    index_a: NDArray[np.integer],
    index_b: NDArray[np.integer],
    times_a: NDArray[np.floating],
    times_b: NDArray[np.floating],
    *,
    min_share: float = 0.0,
) -> VideoMatch:
    """Find the longest chain of frame hits that runs forward in both videos.

    index_a, index_b: int (h,), the hits: positions in times_a and times_b of two similar frames; any order,
    repeats allowed. times_a, times_b: float (n_a,), (n_b,), seconds of all searchable frames, ascending.
    The shorter video is the one with fewer frames (a on a tie); each of its frames counts once. A frame of the longer
    may be matched by several, as many as fit between two samples of it in a copy slowed down by SLOWEST: a long video
    is sampled sparsely. Returns NO_MATCH below `min_share`, without a search where the number of hits is too small.
    Of equally long chains the most compact from its end is chosen, so that a repeated shot does not extend the span.
    """
    if len(times_a) == 0 or len(times_b) == 0 or len(index_a) == 0:
        return NO_MATCH
    if len(times_b) < len(times_a):
        match = ordered_match(index_b, index_a, times_b, times_a, min_share=min_share)
        return match._replace(spans=tuple(MatchedSpan(s.b_start, s.b_end, s.a_start, s.a_end) for s in match.spans))
    step_a, step_b = _step(times_a), _step(times_b)
    uses = max(1, int(np.ceil(SLOWEST * step_b / step_a))) if step_a > 0 and step_b > 0 else 1
    alike = np.zeros((len(times_a), len(times_b)), dtype=np.bool_)
    alike[index_a, index_b] = True
    bound = min(int(alike.any(axis=1).sum()), uses * int(alike.any(axis=0).sum()))
    if round(bound / len(times_a), 6) < min_share:
        return NO_MATCH
    chain = _chain(alike, uses)
    share = round(len(chain) / len(times_a), 6)
    if share < min_share:
        return NO_MATCH
    return VideoMatch(share, len(chain), _spans(chain, times_a, times_b, SPAN_GAP * step_a, SPAN_GAP * step_b))


def _step(times: NDArray[np.floating]) -> float:
    """The sampling interval in seconds; 0 for a single frame."""
    if len(times) < 2:
        return 0.0
    steps = np.sort(np.diff(np.asarray(times, dtype=np.float64)))
    return float(steps[len(steps) // 2])


def _chain(alike: NDArray[np.bool_], uses: int) -> list[tuple[int, int]]:
    """Find the longest forward chain of (row, column) hits: each row at most once, each column at most `uses` times.

    A longest common subsequence, bit-parallel (Hyyrö's form of Allison and Dix): every column is `uses` bits wide, a
    row of the table is one integer in which a zero bit is a step of the row's lengths. 256 frames take 256 additions,
    whatever the number of hits.
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
    for k in range(len(frames) - 1, -1, -1):
        now = ~rows[k] & ((1 << stop) - 1)
        before = ~rows[k - 1] & ((1 << stop) - 1) if k else 0
        if now.bit_count() == before.bit_count():
            continue  # the chain is as long without this frame
        # Longer by one with this frame. Its last hit below `stop` leaves the most room for the rest of the chain.
        stop = (hits[frames[k]] & ((1 << stop) - 1)).bit_length() - 1
        chain.append((frames[k], stop // uses))
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
