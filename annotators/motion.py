"""Motion of a video, in frame diagonals per second.

H.264 and MPEG-4 part 2 carry motion vectors, which a decoder exports at almost no cost. For every other codec, and for
streams without any vector (intra-only), dense optical flow is computed between a few pairs of adjacent frames. Both
give the same unit: the mean displacement of a pixel from one shown frame to the next, as a share of the frame's
diagonal, times the frames per second. Over a clip this is the length of the average pixel's path divided by the
duration, so variable frame rates, repeated frames and a rotation applied at display need no special treatment.
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

#: Codecs (FFmpeg's names) whose decoders export usable motion vectors.
VECTOR_CODECS = frozenset({"h264", "mpeg4"})

#: The memory layout of libavutil's AVMotionVector, without the fields that are not read here.
_VECTOR = np.dtype(
    {
        "names": ["source", "shape", "x", "y", "both", "dx", "dy", "scale"],  # both: dx and dy as one number
        "formats": ["<i4", "<u2", "<i2", "<i2", "<i8", "<i4", "<i4", "<u2"],
        "offsets": [0, 4, 10, 12, 24, 24, 28, 32],
        "itemsize": 40,
    }
)
#: Pixels covered by a vector's block, indexed by `shape`: width in the low byte, height in the high byte.
_AREA = np.outer(np.arange(256), np.arange(256)).astype(np.float32).ravel()
_INTRA, _BIDIRECTIONAL = 1, 3  # FFmpeg's picture types
_MACROBLOCK = 16
_GOLDEN = (math.sqrt(5) - 1) / 2

Gray = NDArray[np.uint8]


class MotionSettings(Strict):
    """Motion has no settings; thresholds belong to the filter."""


class Motion(StreamAnnotator):
    """score: float64, diagonals per second, >= 0, 6 decimals. method: "vectors" or "flow". frames: int32, number of
    frames (vectors) or pairs of frames (flow) that the score is the mean of.

    error: "no_motion: single frame" and similar where no frames can be compared; the score is then null and not 0.
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
                ChangeGate.LOOKS_PER_SECOND,
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
    """Observer of one decoder. Whether a stream has vectors shows only while it is decoded, so flow runs some frames
    behind: with a vector by the fifth frame, as is usual (three B-frames before it), no flow is computed in vain."""

    export_motion_vectors = True
    _BEHIND = 4

    def start(self, header: Mapping[str, Any]) -> None:
        rate = float(header.get("fps") or 0)
        self._rate = rate if math.isfinite(rate) else 0.0
        codec = header.get("codec")
        self._gate = ChangeGate(self._rate)
        self._vectors = MotionVectorScore(self._rate, self._gate, codec == "h264") if codec in VECTOR_CODECS else None
        self._flow: OpticalFlowScore | None = OpticalFlowScore(self._rate)
        self._pending: deque[Any] = deque()
        self._last: Any = None
        self._seen = 0

    def frame(self, frame: Any) -> None:
        self._seen += 1
        self._last = frame
        self._gate.add(frame)
        if self._vectors is not None:
            self._vectors.add(frame)
            if self._vectors.has_vectors:
                self._flow = None
                self._pending.clear()
        if self._flow is not None:
            self._pending.append(frame)
            if self._vectors is None or len(self._pending) > self._BEHIND:
                self._flow.add(self._pending.popleft())

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
                for frame in self._pending:
                    self._flow.add(frame)
                self._pending.clear()
                frames, steps = np.array(self._flow.frames, np.int64), np.array(self._flow.steps)
        if not len(steps):
            return {"error": f"no_motion: {self._seen} frames, none comparable"}
        self._gate.close(self._last)
        score = round(float(np.mean(steps * self._gate.moved(frames))) * self._rate, 6)
        return {"score": score, "method": method, "frames": len(steps)}


class MotionVectorScore:
    """Mean displacement per frame from the codec's motion vectors, in diagonals from one shown frame to the next.

    A vector spans the distance to its reference frame, which the decoder does not export. It is assumed to be the
    nearest earlier (for prediction from the future: later) frame that is not bidirectional, counted in shown frames.
    Where encoders refer further back, motion is overestimated (x264 with defaults: by up to a third). B-frames are
    skipped: most of their blocks are predicted directly, with vectors of 0 in slow motion whatever the speed, and the
    later of two anchors contains the motion between them. They are read only in streams without any further anchor.
    Frames without vectors (intra) are skipped too. Within a frame, blocks without a vector count as 0, and so do
    blocks without texture: in uniform areas (sky, black, fades) an encoder picks whatever vector is cheapest to write,
    and no motion would be visible.
    """

    FRAMES_READ_PER_SECOND = 6  # spread by the golden ratio, so as not to fall in step with repeated frames
    PATIENCE = 16  # frames without an anchor (the most that encoders write) before B-frames are read
    _BATCH = 8192  # vectors; numpy's fixed cost per call would otherwise dominate small frames

    def __init__(self, rate: float, gate: ChangeGate, bidirectional: bool = True) -> None:
        self.has_vectors = False
        self._gate = gate
        self._bidirectional = bidirectional
        self._index = -1
        self._anchors: list[int] = []
        self._frames: list[int] = []  # index of each frame with vectors that is in _sums or _waiting
        self._sums: list[NDArray[np.float64]] = []  # (frames, 2): displacement to the past and to the future
        self._waiting: list[NDArray[np.void]] = []
        self._waiting_vectors = 0
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
        if kind == _INTRA or (self.has_vectors and not self._is_sampled()):
            return
        vectors = motion_vectors(frame)
        if vectors is None:
            return
        self.has_vectors = True
        if self._weight is not self._gate.textured:
            self._flush()
            self._size, self._weight = (frame.width, frame.height), self._gate.textured
        self._frames.append(self._index)
        # With prediction from both sides, vectors of 0 count too: the two share their block's area.
        vectors = vectors.copy() if kind == _BIDIRECTIONAL else vectors[vectors["both"] != 0]
        self._waiting.append(vectors)
        self._waiting_vectors += len(vectors)
        if self._waiting_vectors >= self._BATCH:
            self._flush()

    def _is_sampled(self) -> bool:
        """Whether to read this frame, so that about FRAMES_READ_PER_SECOND of the anchors are read."""
        count = len(self._anchors)
        return count * _GOLDEN % 1 * count * self._rate < self.FRAMES_READ_PER_SECOND * (self._index + 1)

    def _flush(self) -> None:
        if self._waiting:
            self._sums.append(displacement(self._waiting, *self._size, self._weight))
            self._waiting, self._waiting_vectors = [], 0

    def finish(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the index and the displacement, (frames,) each, of every frame read that has vectors."""
        self._flush()
        if not self._sums:
            return np.zeros(0, np.int64), np.zeros(0)
        past, future = np.concatenate(self._sums).T
        frames, anchors = np.array(self._frames), np.array([-1, *self._anchors, self._index + 1])
        after = np.searchsorted(anchors, frames, side="right")
        before = np.searchsorted(anchors, frames, side="left") - 1
        # References to before the first anchor were cut off, and their distance is unknown.
        behind = np.where(before > 0, past / (frames - anchors[before]), 0.0)
        return frames, np.asarray(behind + future / (anchors[after] - frames))


class ChangeGate:
    """Suppress motion that only flicker or grain causes, by comparing pictures half a second apart.

    Under flicker or grain encoders write vectors, and dense flow finds some, though nothing moves; half a second later
    everything is where it was. Two pictures per second and the last frame are compared: a textured block has moved if,
    with its mean subtracted, it differs by more than noise or a change of contrast could explain. Where fewer than
    MOVED of all blocks moved, the motion in between is scaled down in proportion. The numbers are ours.
    """

    LOOKS_PER_SECOND = 2
    TEXTURE = 4  # minimum range in levels of the sixteenths of a block for it to show motion
    CHANGE = 6  # minimum range in levels of the sixteenths' differences between two looks
    RELATIVE = 0.2  # and its minimum share of the block's own range
    MOVED = 0.01

    def __init__(self, rate: float) -> None:
        self.textured: NDArray[np.float32] = np.zeros(0, np.float32)  # (blocks,), 0 or 1, at the last look
        self._every = max(round(rate / self.LOOKS_PER_SECOND), 1)
        self._index = -1
        self._look_frames: list[int] = []  # index of the frame of each look
        self._moved: list[float] = []  # share of motion to count, from each look to the next
        self._size = (0, 0)
        self._picture: Gray = np.zeros((0, 0), np.uint8)
        self._gray = Gray8()

    def add(self, frame: Any) -> None:
        self._index += 1
        if self._index % self._every == 0 or self._size != (frame.width, frame.height):
            self._look(frame)

    def close(self, frame: Any) -> None:
        """Compare the last frame too. frame: the last one added."""
        if self._look_frames[-1] != self._index:
            self._look(frame)

    def _look(self, frame: Any) -> None:
        before, same = self._picture, self._size == (frame.width, frame.height)
        self._size = (frame.width, frame.height)
        columns, rows = blocks(*self._size)
        self._picture = self._gray.of(frame, 4 * columns, 4 * rows)
        spread = spans(self._picture)
        self.textured = np.asarray(spread >= self.TEXTURE, np.float32)
        if self._look_frames:
            self._moved.append(self._change(before, spread) if same else 1.0)
        self._look_frames.append(self._index)

    def _change(self, before: Gray, spread: NDArray[Any]) -> float:
        differing = spans(self._picture.astype(np.int16) - before)
        least = np.maximum(self.CHANGE, self.RELATIVE * np.maximum(spread, spans(before)))
        return min(float(np.mean(differing >= least)) / self.MOVED, 1.0)

    def moved(self, frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,), 0..1: share of the motion to count at each of these frame indices."""
        if not self._moved:
            return np.ones(len(frames))
        # A frame at a look belongs to the interval that ends there.
        at = np.searchsorted(np.array(self._look_frames[1:]), frames, side="left")
        return np.array(self._moved)[np.minimum(at, len(self._moved) - 1)]


def blocks(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of macroblocks that a frame of this size is coded in."""
    return -(-width // _MACROBLOCK), -(-height // _MACROBLOCK)


def spans(picture: NDArray[Any]) -> NDArray[Any]:
    """(blocks,), row by row: maximum minus minimum of each block of a picture shrunk to 4 x 4 pixels per block."""
    # One axis after the other, in slices: ten times as fast as over both at once.
    across = picture.reshape(-1, 4, picture.shape[1])
    high, low = across.max(axis=1), across.min(axis=1)
    high = np.maximum(np.maximum(high[:, ::4], high[:, 1::4]), np.maximum(high[:, 2::4], high[:, 3::4]))
    low = np.minimum(np.minimum(low[:, ::4], low[:, 1::4]), np.minimum(low[:, 2::4], low[:, 3::4]))
    return np.asarray(high - low).ravel()


def motion_vectors(frame: Any) -> NDArray[np.void] | None:
    """Return the vectors of an av.VideoFrame as structured rows over its own memory, or None if it has none."""
    from av.sidedata.sidedata import SideDataContainer

    try:
        # Not frame.side_data: it forms a reference cycle with the frame, so that no picture is freed before the garbage
        # collector runs, and fresh memory for every frame doubles the cost of decoding.
        side = SideDataContainer(frame).get("MOTION_VECTORS")  # type: ignore[call-arg]
    except ValueError:  # PyAV cannot list side data of a kind newer than itself
        return None
    vectors = np.frombuffer(b"" if side is None else side, dtype=_VECTOR)
    return vectors if len(vectors) else None


def displacement(
    frames: Sequence[NDArray[np.void]], width: int, height: int, weight: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(n, 2): per frame, the area-weighted mean length of the vectors to the past and to the future, in diagonals.

    weight: (blocks,), 0..1, of each macroblock. Two vectors of one block share its area, so that no block counts
    twice. A vector longer than the diagonal is damaged and counts as the diagonal.
    """
    diagonal = math.hypot(width, height)
    columns, rows = blocks(width, height)
    counts = np.array([len(rows) for rows in frames])
    frame = np.repeat(np.arange(len(frames)), counts)
    vectors = np.concatenate(frames)
    if not len(vectors):
        return np.zeros((len(frames), 2))
    scale = max(int(vectors["scale"][0]), 1)  # units per pixel, constant within a stream
    dx, dy = vectors["dx"].astype(np.float32), vectors["dy"].astype(np.float32)
    dx *= dx
    dy *= dy
    dx += dy
    length = np.minimum(np.sqrt(dx, out=dx), np.float32(diagonal * scale), out=dx)
    length *= _AREA.take(vectors["shape"])
    # The centre of a block determines its macroblock. Vectors of damaged streams may lie outside and are clipped.
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
    """Mean displacement per pair of adjacent frames from dense optical flow (OpenCV's DIS), in diagonals per frame.

    Two pairs per second: the first frame's, then one in every half second, at an offset that varies by the golden
    ratio. At regular offsets, a film shown at twice its rate (every frame repeated) could yield only repeated pairs.
    """

    LONG_SIDE = 320
    PAIRS_PER_SECOND = 2
    SAME_SCENE = 0.5  # histogram overlap below which there is a cut between the two frames
    PARAMETERS: ClassVar[Mapping[str, object]] = {
        "engine": "DIS fast",
        "long_side": LONG_SIDE,
        "pairs_a_second": PAIRS_PER_SECOND,
        "same_scene": SAME_SCENE,
    }

    def __init__(self, rate: float) -> None:
        self.steps: list[float] = []
        self.frames: list[int] = []  # index of the later of each pair
        self._every = max(rate, 1.0) / self.PAIRS_PER_SECOND
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
            cv2.setNumThreads(1)  # threads: the decoder's child has one
            self._engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        flow = self._engine.calc(before, after, None)
        rows, columns = before.shape
        length = np.hypot(flow[..., 0] * (width / columns), flow[..., 1] * (height / rows))
        diagonal = math.hypot(width, height)
        self.steps.append(float(np.minimum(length, diagonal).mean()) / diagonal)
        self.frames.append(self._index)


def common(a: Gray, b: Gray) -> float:
    """Overlap of the histograms (32 levels) of two pictures of one size, 0..1."""
    counts = [np.bincount(picture.ravel() >> 3, minlength=32) for picture in (a, b)]
    return float(np.minimum(*counts).sum()) / a.size


class Gray8:
    """Shrink frames to grey pictures. The scaler's tables are kept: they cost more than the scaling."""

    def __init__(self) -> None:
        self._scaler: Any = None

    def of(self, frame: Any, width: int, height: int) -> Gray:
        """Scale a frame to uint8 (height, width), in its own memory."""
        if self._scaler is None:
            from av.video.reformatter import VideoReformatter

            self._scaler = VideoReformatter()
        small = self._scaler.reformat(frame, width=width, height=height, format="gray", interpolation="AREA")
        return np.ascontiguousarray(small.to_ndarray())

    def within(self, frame: Any, long_side: int) -> Gray:
        """Scale a frame to a longer side of at most `long_side`, and either at least 16: dense flow fails below."""
        scale = min(1.0, long_side / max(frame.width, frame.height))
        return self.of(frame, max(16, round(frame.width * scale)), max(16, round(frame.height * scale)))
