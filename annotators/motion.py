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
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.config import Strict
from infra.media import Decoded, StreamObserver

#: Codecs, by FFmpeg's name, whose decoders export vectors that are worth reading.
VECTOR_CODECS = frozenset({"h264", "mpeg4"})

#: libavutil's AVMotionVector as it lies in memory; what is not read here is left out.
_VECTOR = np.dtype(
    {
        "names": ["source", "w", "h", "dst_x", "dst_y", "dx", "dy", "scale"],
        "formats": ["<i4", "u1", "u1", "<i2", "<i2", "<i4", "<i4", "<u2"],
        "offsets": [0, 4, 5, 10, 12, 24, 28, 32],
        "itemsize": 40,
    }
)
_INTRA, _BIDIRECTIONAL = 1, 3  # FFmpeg's picture types
_MACROBLOCK = 16

Gray = NDArray[np.uint8]


class Settings(Strict):
    """Nothing to set: the score is one number with one definition. Thresholds are the filter's."""


class Motion:
    """score: float64, diagonals a second, >= 0, 6 decimals. method: "vectors" or "flow". frames: int32, how many
    frames (of vectors) or pairs of frames (of flow) the score is the mean of.

    error: "no_motion: single frame" and the like where nothing can be compared; never a score of 0.
    """

    name: ClassVar[str] = "motion"
    VERSION: ClassVar[int] = 1
    of: ClassVar[Literal["text", "media", "pair"]] = "media"
    needs: ClassVar[Literal["text", "header", "stream", "frames"]] = "stream"
    modalities: ClassVar[frozenset[str]] = frozenset({"video"})
    reads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, pa.DataType]] = {
        "score": pa.float64(),
        "method": pa.string(),
        "frames": pa.int32(),
    }
    stored: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    def maker(self) -> Mapping[str, object]:
        return {"vector_codecs": sorted(VECTOR_CODECS), "flow": Flow.PARAMETERS}

    def observer(self) -> StreamObserver:
        return MotionObserver()

    def measure(self, chunk: pa.Table, media: Sequence[Decoded | None]) -> pa.Table:
        rows: list[Mapping[str, Any]] = []
        for decoded in media:
            error = "no_motion: not decoded" if decoded is None else decoded.error
            if decoded is None or error is not None:
                rows.append({"error": error})
            else:
                rows.append(decoded.streams.get(self.name) or {"error": "no_motion: no video stream"})
        schema = pa.schema([*self.columns.items(), ("error", pa.string())])
        return pa.Table.from_pylist(rows, schema=schema)


class MotionObserver:
    """Watches one decoder. Vectors and flow are both begun, as only the stream tells whether it holds vectors; with
    the first vector flow is given up, which costs the conversion of one frame."""

    export_motion_vectors = True

    def start(self, header: Mapping[str, Any]) -> None:
        self._rate = float(header.get("fps") or 0)
        self._vectors = Vectors() if header.get("codec") in VECTOR_CODECS else None
        self._flow: Flow | None = Flow(self._rate)
        self._seen = 0

    def frame(self, frame: Any) -> None:
        self._seen += 1
        if self._vectors is not None:
            self._vectors.add(frame)
            if self._vectors.found:
                self._flow = None
        if self._flow is not None:
            self._flow.add(frame)

    def finish(self) -> Mapping[str, Any]:
        """{"score", "method", "frames"} or {"error"}."""
        if self._seen < 2:
            return {"error": "no_motion: single frame" if self._seen else "no_motion: no frames"}
        if not (math.isfinite(self._rate) and self._rate > 0):
            return {"error": "no_motion: no frame rate"}
        if self._flow is None and self._vectors is not None:
            method, steps = "vectors", self._vectors.finish()
        else:
            method, steps = "flow", self._flow.steps if self._flow is not None else []
        if not steps:
            return {"error": f"no_motion: {self._seen} frames, none comparable"}
        score = round(float(np.mean(steps)) * self._rate, 6)
        return {"score": score, "method": method, "frames": len(steps)}


class Vectors:
    """Mean displacement by frame out of the codec's vectors, diagonals from one shown frame to the next.

    A vector spans the distance to the frame that it refers to, which the codec does not tell: taken for the nearest
    earlier (or, for prediction from the future, later) frame that is not bidirectional, counted in shown frames.
    Frames without any vector (intra) say nothing and are left out; within a frame, blocks without one count 0.
    """

    def __init__(self) -> None:
        self.found = False
        self._steps: list[float] = []
        self._ahead: list[tuple[int, float, float]] = []  # awaiting the later anchor: index, backward part, its future
        self._anchor: int | None = None
        self._index = -1

    def add(self, frame: Any) -> None:
        self._index += 1
        kind = int(frame.pict_type)
        if kind != _BIDIRECTIONAL:
            self._resolve(self._index)
        if kind != _INTRA:
            vectors = motion_vectors(frame)
            if vectors is not None:
                self.found = True
                past, future = displacement(vectors, frame.width, frame.height)
                behind = past / (self._index - self._anchor) if self._anchor is not None else 0.0
                if kind == _BIDIRECTIONAL:
                    self._ahead.append((self._index, behind, future))
                else:
                    self._steps.append(behind)
        if kind != _BIDIRECTIONAL:
            self._anchor = self._index

    def finish(self) -> list[float]:
        self._resolve(self._index + 1)
        return self._steps

    def _resolve(self, anchor: int) -> None:
        self._steps.extend(behind + future / (anchor - index) for index, behind, future in self._ahead)
        self._ahead.clear()


def motion_vectors(frame: Any) -> NDArray[np.void] | None:
    """The vectors of an av.VideoFrame as structured rows over its own memory, or None where it has none."""
    try:
        side = frame.side_data.get("MOTION_VECTORS")
    except ValueError:  # PyAV cannot list side data of a kind newer than itself
        return None
    return None if side is None else np.frombuffer(side, dtype=_VECTOR)


def displacement(vectors: NDArray[np.void], width: int, height: int) -> tuple[float, float]:
    """Mean length of the vectors to the past and to the future, each in diagonals, weighted by area.

    Where prediction is from both sides the two share the block's area, so that no block counts twice. A vector longer
    than the diagonal is damage and counts as the diagonal.
    """
    diagonal = math.hypot(width, height)
    dx, dy = vectors["dx"].astype(np.float32), vectors["dy"].astype(np.float32)
    length = np.sqrt(dx * dx + dy * dy) / np.maximum(vectors["scale"], 1)
    np.minimum(length, np.float32(diagonal), out=length)
    area = vectors["w"].astype(np.float32) * vectors["h"]
    columns, rows = -(-width // _MACROBLOCK), -(-height // _MACROBLOCK)
    forward = vectors["source"] > 0
    weighted = length * area
    if forward.any():
        column = np.clip(vectors["dst_x"] // _MACROBLOCK, 0, columns - 1)
        row = np.clip(vectors["dst_y"] // _MACROBLOCK, 0, rows - 1)
        block = row * columns + column.astype(np.int64)
        covered = np.bincount(block, weights=area, minlength=columns * rows)
        weighted = weighted * (_MACROBLOCK**2 / np.maximum(covered, _MACROBLOCK**2))[block]
        later = float(weighted[forward].sum())
    else:
        later = 0.0
    whole = columns * rows * _MACROBLOCK**2 * diagonal
    return (float(weighted.sum()) - later) / whole, later / whole


class Flow:
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
        self._every = max(rate, 1.0) / self.PAIRS_A_SECOND
        self._index = -1
        self._pair = 0
        self._before: Gray | None = None
        self._engine: Any = None

    def add(self, frame: Any) -> None:
        self._index += 1
        gray: Gray | None = None
        if self._before is not None:
            gray = _gray(frame, self.LONG_SIDE)
            self._compare(self._before, gray, frame.width, frame.height)
            self._before = None
        if self._index >= int((self._pair + self._pair * _GOLDEN % 1) * self._every):
            self._before = _gray(frame, self.LONG_SIDE) if gray is None else gray
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


_GOLDEN = (math.sqrt(5) - 1) / 2


def common(a: Gray, b: Gray) -> float:
    """Share of their histograms (32 levels) that two pictures of one size have in common, 0..1."""
    counts = [np.bincount(picture.ravel() >> 3, minlength=32) for picture in (a, b)]
    return float(np.minimum(*counts).sum()) / a.size


def _gray(frame: Any, long_side: int) -> Gray:
    """uint8 (h, w), at most `long_side`, at least 16 a side (flow fails on less), in memory of its own."""
    scale = min(1.0, long_side / max(frame.width, frame.height))
    width, height = (max(16, round(side * scale)) for side in (frame.width, frame.height))
    small = frame.reformat(width=width, height=height, format="gray", interpolation="AREA")
    return np.ascontiguousarray(small.to_ndarray())
