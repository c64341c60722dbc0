"""How much a video moves, in frame diagonals a second.

H.264 and MPEG-4 part 2 carry motion vectors, which a decoder hands over almost for nothing; of any other codec, and
of streams that hold no vector at all (intra-only), dense optical flow is taken between a few pairs of adjacent frames.
Both end in one unit: the mean displacement of a pixel from one shown frame to the next, as a share of the frame's
diagonal, times the frames a second. Over a clip this is the length of the average pixel's path over its duration, so
variable frame rates and repeated frames need no care of their own, and a rotation to be applied at display changes
nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotators.interface import Column, StreamAnnotator
from infra.config import Strict
from infra.media.interface import StreamObserver

#: Codecs, by FFmpeg's name, whose decoders export vectors that are worth reading.
VECTOR_CODECS = frozenset({"h264", "mpeg4"})

#: libavutil's AVMotionVector as it lies in memory; what is not read here is left out.
_VECTOR = np.dtype(
    {
        "names": ["source", "shape", "x", "y", "both", "dx", "dy", "scale"],  # both: dx and dy at a time
        "formats": ["<i4", "<u2", "<i2", "<i2", "<i8", "<i4", "<i4", "<u2"],
        "offsets": [0, 4, 10, 12, 24, 24, 28, 32],
        "itemsize": 40,
    }
)
#: Pixels covered by a vector's block, by `shape`: width in the low byte, height in the high one.
_AREA = np.outer(np.arange(256), np.arange(256)).astype(np.float32).ravel()
_INTRA, _BIDIRECTIONAL = 1, 3  # FFmpeg's picture types
_MACROBLOCK = 16
_GOLDEN = (math.sqrt(5) - 1) / 2

Gray = NDArray[np.uint8]


class MotionSettings(Strict):
    """Nothing to set: the score is one number with one definition. Thresholds are the filter's."""


class Motion(StreamAnnotator):
    """score: float64, diagonals a second, >= 0, 6 decimals. method: "vectors" or "flow". frames: int32, how many
    frames (of vectors) or pairs of frames (of flow) the score is the mean of.

    error: "no_motion: single frame" and the like where nothing can be compared; never a score of 0.
    """

    name = "motion"
    VERSION = 2
    keyed_by = "media"
    modalities = frozenset({"video"})
    columns: ClassVar[Mapping[str, Column]] = {
        "score": Column(pa.float64(), "mean displacement, frame diagonals per second, >= 0"),
        "method": Column(pa.string(), '"vectors" or "flow"'),
        "frames": Column(pa.int32(), "frames (vectors) or pairs of frames (flow) that the score is the mean of"),
    }
    settings: MotionSettings

    def fingerprint_inputs(self) -> Mapping[str, object]:
        return {
            "vector_codecs": sorted(VECTOR_CODECS),
            "reads_a_second": MotionVectorScore.FRAMES_READ_PER_SECOND,
            "patience": MotionVectorScore.PATIENCE,
            "looks": [
                ChangeGate.A_SECOND,
                ChangeGate.TEXTURE,
                ChangeGate.CHANGE,
                ChangeGate.RELATIVE,
                ChangeGate.MOVED,
            ],
            "flow": dict(OpticalFlowScore.PARAMETERS),
        }

    def observer(self) -> StreamObserver:
        return MotionObserver()


class MotionObserver:
    """Watches one decoder. Only the stream tells whether it holds vectors: flow stays some frames behind, so that with
    a vector in the fifth frame, as is usual (three B-frames before it), no flow was taken in vain."""

    export_motion_vectors = True
    _BEHIND = 4

    def start(self, header: Mapping[str, Any]) -> None:
        rate = float(header.get("fps") or 0)
        self._rate = rate if math.isfinite(rate) else 0.0
        codec = header.get("codec")
        self._looks = ChangeGate(self._rate)
        self._vectors = MotionVectorScore(self._rate, self._looks, codec == "h264") if codec in VECTOR_CODECS else None
        self._flow: OpticalFlowScore | None = OpticalFlowScore(self._rate)
        self._held: deque[Any] = deque()
        self._last: Any = None
        self._seen = 0

    def frame(self, frame: Any) -> None:
        self._seen += 1
        self._last = frame
        self._looks.add(frame)
        if self._vectors is not None:
            self._vectors.add(frame)
            if self._vectors.found:
                self._flow = None
                self._held.clear()
        if self._flow is not None:
            self._held.append(frame)
            if self._vectors is None or len(self._held) > self._BEHIND:
                self._flow.add(self._held.popleft())

    def finish(self) -> Mapping[str, Any]:
        """{"score", "method", "frames"} or {"error"}."""
        if self._seen < 2:
            return {"error": "no_motion: single frame" if self._seen else "no_motion: no frames"}
        if self._rate <= 0:
            return {"error": "no_motion: no frame rate"}
        if self._flow is None and self._vectors is not None:
            method, (frames, steps) = "vectors", self._vectors.finish()
        else:
            method, frames, steps = "flow", np.zeros(0, np.int64), np.zeros(0)
            if self._flow is not None:
                for frame in self._held:
                    self._flow.add(frame)
                self._held.clear()
                frames, steps = np.array(self._flow.frames, np.int64), np.array(self._flow.steps)
        if not len(steps):
            return {"error": f"no_motion: {self._seen} frames, none comparable"}
        self._looks.close(self._last)
        score = round(float(np.mean(steps * self._looks.moved(frames))) * self._rate, 6)
        return {"score": score, "method": method, "frames": len(steps)}


class MotionVectorScore:
    """Mean displacement by frame out of the codec's vectors, in diagonals from one shown frame to the next.

    A vector spans the distance to the frame that it refers to, which the codec does not tell: taken for the nearest
    earlier (or, for prediction from the future, later) frame that is not bidirectional, counted in shown frames.
    Where encoders refer further back motion is overrated (x264 at its defaults: by up to a third). B-frames are left
    out: most of their blocks are predicted directly, with vectors of 0 in slow motion whatever the speed, and what
    moves between two anchors stands in the later one. Only streams that go on without any anchor have theirs read.
    Frames without any vector (intra) say nothing and are left out too. Within a frame, blocks without a vector count
    0. So do blocks without texture: where all places look alike (sky, black, fades) an encoder takes whatever vector
    is the cheapest to write, and no eye could see the motion.
    """

    FRAMES_READ_PER_SECOND = 6  # frames; spread by the golden ratio so as not to fall in step with repeated frames
    PATIENCE = 16  # frames without an anchor, the most that encoders leave, before B-frames are read
    _BATCH = 8192  # vectors; numpy's fixed cost a call would otherwise be most of the cost of a small frame

    def __init__(self, rate: float, looks: ChangeGate, bidirectional: bool = True) -> None:
        self.found = False
        self._looks = looks
        self._bidirectional = bidirectional
        self._index = -1
        self._anchors: list[int] = []
        self._frames: list[int] = []  # index of each frame with vectors that is in _sums or _waiting
        self._sums: list[NDArray[np.float64]] = []  # (frames, 2): displacement to the past and to the future
        self._waiting: list[NDArray[np.void]] = []
        self._held = 0
        self._rate = rate
        self._size = (0, 0)
        self._weight: NDArray[np.float32] = np.zeros(0, np.float32)

    def add(self, frame: Any) -> None:
        self._index += 1
        kind = int(frame.pict_type)
        if kind != _BIDIRECTIONAL:
            self._anchors.append(self._index)
        elif not self._bidirectional or self._index - (self._anchors[-1] if self._anchors else 0) <= self.PATIENCE:
            return
        if kind == _INTRA or (self.found and not self._chosen()):
            return
        vectors = motion_vectors(frame)
        if vectors is None:
            return
        self.found = True
        if self._weight is not self._looks.textured:
            self._flush()
            self._size, self._weight = (frame.width, frame.height), self._looks.textured
        self._frames.append(self._index)
        # Of prediction from both sides vectors of 0 count too, as they share their block's area.
        vectors = vectors.copy() if kind == _BIDIRECTIONAL else vectors[vectors["both"] != 0]
        self._waiting.append(vectors)
        self._held += len(vectors)
        if self._held >= self._BATCH:
            self._flush()

    def _chosen(self) -> bool:
        """Whether to read this frame: of the anchors so far such a share as makes FRAMES_READ_PER_SECOND."""
        count = len(self._anchors)
        return count * _GOLDEN % 1 * count * self._rate < self.FRAMES_READ_PER_SECOND * (self._index + 1)

    def _flush(self) -> None:
        if self._waiting:
            self._sums.append(displacement(self._waiting, *self._size, self._weight))
            self._waiting, self._held = [], 0

    def finish(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The index and the displacement, (frames,) each, of every frame with vectors that was read."""
        self._flush()
        if not self._sums:
            return np.zeros(0, np.int64), np.zeros(0)
        past, future = np.concatenate(self._sums).T
        frames, anchors = np.array(self._frames), np.array([-1, *self._anchors, self._index + 1])
        after = np.searchsorted(anchors, frames, side="right")
        before = np.searchsorted(anchors, frames, side="left") - 1
        # Nothing lies before the first anchor: what refers there was cut off, and its distance is not known.
        behind = np.where(before > 0, past / (frames - anchors[before]), 0.0)
        return frames, np.asarray(behind + future / (anchors[after] - frames))


class ChangeGate:
    """What of the picture could show motion, and whether any of it did: two looks a second, and one at the last frame.

    Under flicker or grain encoders write vectors, and dense flow finds some, though nothing moves. Half a second later
    everything is where it was: between two looks each textured block is compared after taking out its mean, and only
    what differs by more than noise or a change of contrast could explain has moved. Where less than MOVED of all
    blocks did, the motion between counts the less the fewer they are. The numbers are ours.
    """

    A_SECOND = 2
    TEXTURE = 4  # least difference in levels between the sixteenths of a block for it to show motion
    CHANGE = 6  # least range in levels of the sixteenths' differences from look to look
    RELATIVE = 0.2  # and its least share of the block's own range
    MOVED = 0.01

    def __init__(self, rate: float) -> None:
        self.textured: NDArray[np.float32] = np.zeros(0, np.float32)  # (blocks,), 0 or 1, at the latest look
        self._every = max(round(rate / self.A_SECOND), 1)
        self._index = -1
        self._places: list[int] = []  # of the looks
        self._moved: list[float] = []  # from each look to the next
        self._size = (0, 0)
        self._picture: Gray = np.zeros((0, 0), np.uint8)
        self._gray = Gray8()

    def add(self, frame: Any) -> None:
        self._index += 1
        if self._index % self._every == 0 or self._size != (frame.width, frame.height):
            self._look(frame)

    def close(self, frame: Any) -> None:
        """`frame`: the last that was added."""
        if self._places[-1] != self._index:
            self._look(frame)

    def _look(self, frame: Any) -> None:
        before, same = self._picture, self._size == (frame.width, frame.height)
        self._size = (frame.width, frame.height)
        columns, rows = blocks(*self._size)
        self._picture = self._gray.of(frame, 4 * columns, 4 * rows)
        spread = spans(self._picture)
        self.textured = np.asarray(spread >= self.TEXTURE, np.float32)
        if self._places:
            self._moved.append(self._change(before, spread) if same else 1.0)
        self._places.append(self._index)

    def _change(self, before: Gray, spread: NDArray[Any]) -> float:
        differing = spans(self._picture.astype(np.int16) - before)
        least = np.maximum(self.CHANGE, self.RELATIVE * np.maximum(spread, spans(before)))
        return min(float(np.mean(differing >= least)) / self.MOVED, 1.0)

    def moved(self, frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,), 0..1: by index of a frame how much of the motion there is to be believed."""
        if not self._moved:
            return np.ones(len(frames))
        # A frame at a look tells of the way to it.
        at = np.searchsorted(np.array(self._places[1:]), frames, side="left")
        return np.array(self._moved)[np.minimum(at, len(self._moved) - 1)]


def blocks(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of macroblocks that a frame of this size is coded in."""
    return -(-width // _MACROBLOCK), -(-height // _MACROBLOCK)


def spans(picture: NDArray[Any]) -> NDArray[Any]:
    """Of a picture shrunk to 4 x 4 pixels a block: (blocks,), row by row, the highest less the lowest of these."""
    # One axis after the other, in slices: an order of magnitude quicker than over both at once.
    across = picture.reshape(-1, 4, picture.shape[1])
    high, low = across.max(axis=1), across.min(axis=1)
    high = np.maximum(np.maximum(high[:, ::4], high[:, 1::4]), np.maximum(high[:, 2::4], high[:, 3::4]))
    low = np.minimum(np.minimum(low[:, ::4], low[:, 1::4]), np.minimum(low[:, 2::4], low[:, 3::4]))
    return np.asarray(high - low).ravel()


def motion_vectors(frame: Any) -> NDArray[np.void] | None:
    """The vectors of an av.VideoFrame as structured rows over its own memory, or None where it has none."""
    from av.sidedata.sidedata import SideDataContainer

    try:
        # Not frame.side_data: the frame would keep it and it the frame, a cycle, so that no picture would be freed
        # before the garbage collector came by. Fresh memory for every frame doubles the cost of decoding.
        side = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]
    except ValueError:  # PyAV cannot list side data of a kind newer than itself
        return None
    vectors = np.frombuffer(b"" if side is None else side, dtype=_VECTOR)
    return vectors if len(vectors) else None


def displacement(
    frames: Sequence[NDArray[np.void]], width: int, height: int, weight: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(n, 2): by frame, the mean over its area of the vectors' lengths to the past and to the future, in diagonals.

    weight: (blocks,), 0..1, of each macroblock. Where prediction is from both sides the two share the block's area, so
    that no block counts twice. A vector longer than the diagonal is damage and counts as the diagonal.
    """
    diagonal = math.hypot(width, height)
    columns, rows = blocks(width, height)
    counts = np.array([len(rows) for rows in frames])
    frame = np.repeat(np.arange(len(frames)), counts)
    vectors = np.concatenate(frames)
    if not len(vectors):
        return np.zeros((len(frames), 2))
    scale = max(int(vectors["scale"][0]), 1)  # fractions of a pixel, the same all through a stream
    dx, dy = vectors["dx"].astype(np.float32), vectors["dy"].astype(np.float32)
    dx *= dx
    dy *= dy
    dx += dy
    length = np.minimum(np.sqrt(dx, out=dx), np.float32(diagonal * scale), out=dx)
    length *= _AREA.take(vectors["shape"])
    # The centre of a block names its macroblock. Damaged streams may point outside: any block then, but one of ours.
    block = (vectors["y"] >> 4) * np.int32(columns)
    block += vectors["x"] >> 4
    np.clip(block, 0, columns * rows - 1, out=block)
    length *= weight.take(block)
    forward = vectors["source"] > 0
    later: NDArray[Any] = np.zeros(len(frames))
    if forward.any():
        block_of = frame * (columns * rows) + block
        covered = np.bincount(block_of, weights=_AREA.take(vectors["shape"]), minlength=len(frames) * columns * rows)
        length /= np.maximum(covered / _MACROBLOCK**2, 1).astype(np.float32).take(block_of)
        later = np.bincount(frame, weights=length * forward, minlength=len(frames))
    total = np.bincount(frame, weights=length, minlength=len(frames))
    sums = np.stack([np.maximum(total - later, 0), later], axis=1)
    return np.asarray(sums / (columns * rows * _MACROBLOCK**2 * diagonal * scale))


class OpticalFlowScore:
    """Mean displacement by pair of adjacent frames out of dense optical flow (OpenCV's DIS), in diagonals a frame.

    Two pairs a second: the first frame's, then one in every half second at a place that changes by the golden ratio.
    At regular places a film shown at twice its rate (every frame repeated) could show nothing but its repetitions.
    """

    LONG_SIDE = 320
    PAIRS_A_SECOND = 2
    SAME_SCENE = 0.5  # share of the two histograms in common below which a cut lies between
    PARAMETERS: ClassVar[Mapping[str, object]] = {
        "engine": "DIS fast",
        "long_side": LONG_SIDE,
        "pairs_a_second": PAIRS_A_SECOND,
        "same_scene": SAME_SCENE,
    }

    def __init__(self, rate: float) -> None:
        self.steps: list[float] = []
        self.frames: list[int] = []  # index of the later of each pair
        self._every = max(rate, 1.0) / self.PAIRS_A_SECOND
        self._index = -1
        self._pair = 0
        self._before: Gray | None = None
        self._engine: Any = None
        self._gray = Gray8()

    def add(self, frame: Any) -> None:
        self._index += 1
        gray: Gray | None = None
        if self._before is not None:
            gray = self._gray.within(frame, self.LONG_SIDE)
            self._compare(self._before, gray, frame.width, frame.height)
            self._before = None
        if self._index >= int((self._pair + self._pair * _GOLDEN % 1) * self._every):
            self._before = self._gray.within(frame, self.LONG_SIDE) if gray is None else gray
            self._pair += 1

    def _compare(self, before: Gray, after: Gray, width: int, height: int) -> None:
        if before.shape != after.shape or common(before, after) < self.SAME_SCENE:
            return
        import cv2

        if self._engine is None:
            cv2.setNumThreads(1)
            self._engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        flow = self._engine.calc(before, after, None)
        rows, columns = before.shape
        length = np.hypot(flow[..., 0] * (width / columns), flow[..., 1] * (height / rows))
        diagonal = math.hypot(width, height)
        self.steps.append(float(np.minimum(length, diagonal).mean()) / diagonal)
        self.frames.append(self._index)


def common(a: Gray, b: Gray) -> float:
    """Share of their histograms (32 levels) that two pictures of one size have in common, 0..1."""
    counts = [np.bincount(picture.ravel() >> 3, minlength=32) for picture in (a, b)]
    return float(np.minimum(*counts).sum()) / a.size


class Gray8:
    """Shrinks frames to gray pictures; keeps the scaler's tables, which cost more than the scaling."""

    def __init__(self) -> None:
        self._scaler: Any = None

    def of(self, frame: Any, width: int, height: int) -> Gray:
        """uint8 (height, width), in memory of its own."""
        if self._scaler is None:
            from av.video.reformatter import VideoReformatter

            self._scaler = VideoReformatter()
        small = self._scaler.reformat(frame, width=width, height=height, format="gray", interpolation="AREA")
        return np.ascontiguousarray(small.to_ndarray())

    def within(self, frame: Any, long_side: int) -> Gray:
        """At most `long_side` the longer side, and at least 16 either: dense flow fails on less."""
        scale = min(1.0, long_side / max(frame.width, frame.height))
        return self.of(frame, max(16, round(frame.width * scale)), max(16, round(frame.height * scale)))
