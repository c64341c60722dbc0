"""Shot boundaries: hard cuts, detected by how much two small grey pictures differ.

Six times per second a small grey picture is compared with the previous one; only where they differ are the frames
between them compared one by one. A cut is where two adjacent frames differ much and their neighbours do not, and where
the earlier picture does not return at once. The method and its numbers are ours.

Not detected: dissolves, wipes and slow fades; shots shorter than a sixth of a second; a cut between pictures whose
thumbnails are alike, or during very fast motion. A change that is reversed within a third of a second is regarded as a
flash. A fast fade may count as a cut.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotators.interface import Column, StreamAnnotator
from annotators.motion import Gray8
from infra.config import Strict
from infra.media.interface import StreamObserver

Gray = NDArray[np.uint8]


class ShotsSettings(Strict):
    """Shots has no settings."""


class Shots(StreamAnnotator):
    """times: list<float64>, seconds from the video's start of the first frame of each shot but the first, ascending, 6
    decimals. count: int32, shots: one more than `times`, at least 1.

    error: "no_shots: …" where there is no frame.
    """

    name = "shots"
    keyed_by = "media"
    modalities = frozenset({"video"})
    columns: ClassVar[Mapping[str, Column]] = {
        "times": Column(
            pa.list_(pa.float64()), "seconds from the start of the first frame of each shot but the first, ascending"
        ),
        "count": Column(pa.int32(), "shots: one more than `times`"),
    }
    settings: ShotsSettings

    def fingerprint_inputs(self) -> Mapping[str, object]:
        watch = ShotsObserver
        return {
            "looks_a_second": watch.LOOKS_PER_SECOND,
            "size": [watch.WIDTH, watch.HEIGHT],
            "limits": [watch.LOOK, watch.CUT, watch.PEAK, watch.AHEAD, watch.LEVELS, watch.FLASH_S],
        }

    def observer(self) -> StreamObserver:
        return ShotsObserver()


class ShotsObserver:
    """Observer of one decoder. It keeps the frames since the last comparison (look), at most a sixth of a second."""

    export_motion_vectors = False

    LOOKS_PER_SECOND = 6
    WIDTH, HEIGHT = 16, 12
    LOOK = 0.2  # difference between two looks from which the frames in between are compared
    CUT = 0.3  # minimum difference of two adjacent frames at a cut
    PEAK = 3.0  # and its minimum ratio to the median difference of their neighbours
    AHEAD = 1.2  # and to the differences between the last looks
    LEVELS = 5.0  # and its minimum in levels of grey: nearly black pictures differ by noise alone
    FLASH_S = 1 / 3

    def start(self, header: Mapping[str, Any]) -> None:
        rate = float(header.get("fps") or 0)
        self._rate = rate if math.isfinite(rate) and rate > 0 else 25.0
        self._every = max(round(self._rate / self.LOOKS_PER_SECOND), 1)
        # AVI stores decoding times only.
        self._stamped = "avi" not in str(header.get("container", ""))
        self._gray = Gray8()
        self._origin: float | None = None
        self._index = -1
        self._pending: list[tuple[float, Any]] = []  # frames since the last look, each with its time
        self._picture: Thumbnail | None = None  # at the last look
        self._moving: deque[float] = deque(maxlen=3)  # differences between the last looks without a cut
        self._cuts: list[tuple[float, Thumbnail]] = []  # time, and the picture before the cut

    def frame(self, frame: Any) -> None:
        self._index += 1
        self._pending.append((self._seconds(frame), frame))
        if self._picture is None or len(self._pending) >= self._every:
            self._look()

    def finish(self) -> Mapping[str, Any]:
        """{"times", "count"} or {"error"}."""
        if self._index < 0:
            return {"error": "no_shots: no frames"}
        if self._pending:
            self._look()
        times = [round(time, 6) for time, _ in self._cuts]
        return {"times": times, "count": len(times) + 1}

    def _seconds(self, frame: Any) -> float:
        counted = self._index / self._rate
        if not self._stamped or frame.time is None:
            return counted
        if self._origin is None:
            self._origin = float(frame.time)
        return max(float(frame.time) - self._origin, 0.0)

    def _shrink(self, frame: Any) -> Thumbnail:
        return Thumbnail(self._gray.of(frame, self.WIDTH, self.HEIGHT))

    def _look(self) -> None:
        frames, self._pending = self._pending, []
        before, now = self._picture, self._shrink(frames[-1][1])
        self._picture = now
        if before is None:
            return
        across, _ = difference(before, now)
        if across < self.LOOK or not self._compare(frames, before, now):
            self._moving.append(across)

    def _compare(self, frames: Sequence[tuple[float, Any]], before: Thumbnail, now: Thumbnail) -> bool:
        """Search the frames since the last look for a cut; returns whether there is one."""
        pictures = [before, *(self._shrink(frame) for _, frame in frames[:-1]), now]
        differences = [difference(a, b) for a, b in itertools.pairwise(pictures)]
        steps = [step for step, _ in differences]
        at = int(np.argmax(steps))
        # A flash or a blended frame causes two large steps, so the two largest are left out of the median.
        usual = float(np.median(sorted(steps)[:-2])) if len(steps) > 2 else 0.0
        # Where frames are repeated, as in films shown at another rate, only the looks show how fast the picture moves.
        moving = max(self._moving, default=0.0)
        lasting, _ = difference(pictures[at], now)
        least = max(self.CUT, self.PEAK * usual, self.AHEAD * moving)
        if steps[at] < least or differences[at][1] < self.LEVELS or lasting < self.CUT:
            return False
        time = frames[at][0]
        if self._cuts and time - self._cuts[-1][0] <= self.FLASH_S and difference(self._cuts[-1][1], now)[0] < self.CUT:
            self._cuts.pop()  # the picture before the last cut is back: that cut was a flash, and this is its end
        else:
            self._cuts.append((time, pictures[at]))
        return True


class Thumbnail:
    """A small grey picture: its mean level, its pixels less that level, and the mean of their absolute values."""

    __slots__ = ("level", "shape", "spread")

    def __init__(self, picture: Gray) -> None:
        self.shape = picture.ravel().astype(np.float32)
        self.level = float(self.shape.sum()) / self.shape.size
        self.shape -= np.float32(self.level)
        self.spread = _mean(self.shape)


def difference(a: Thumbnail, b: Thumbnail) -> tuple[float, float]:
    """(difference, levels) of two pictures of one size.

    levels: mean absolute difference in levels of grey after subtracting each picture's mean, so that a change of
    brightness does not count. difference: the same divided by the sum of both spreads: 0 for equal pictures, about 0.7
    for unrelated ones, 1 against a flat one. For two flat pictures it is that of their levels: 1 from 25 levels on.
    """
    spread = a.spread + b.spread
    if spread < 4:
        step = abs(a.level - b.level)
        return min(step / 25, 1.0), step
    levels = _mean(a.shape - b.shape)
    return levels / spread, levels


def _mean(values: NDArray[np.float32]) -> float:
    """The mean of the absolute values. For few values a sum is much faster than numpy's mean."""
    return float(np.abs(values).sum()) / values.size
