"""Text in the picture: where it is, what it says, and whether it was burned in over the scene or belongs to it.

A video is told by time: burned-in text stands still (or runs along a stable row, a ticker) while what surrounds it
moves; text of the scene moves with the scene. Where nothing moves, time proves nothing, and as for a single picture
a rule on place and size decides. The rules and their figures are ours; see docs/overlay.md.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from annotators import ocr
from infra.media import Decoded, FramePlan, Frames

Gray = NDArray[np.float32]
Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive

_BOX = pa.struct(
    [(name, pa.float32()) for name in ("x0", "y0", "x1", "y1", "time", "score")]
    + [("overlay", pa.bool_()), ("text", pa.string())]
)


class Settings(ocr.Settings):
    """frames: pictures of a video in which text is sought, spread evenly; as many between them serve as evidence only.
    size: their long side in pixels; never enlarged.
    min_find, min_read: confidences (0..1) of the detector and of the recogniser under which a box is dropped. A box
        that cannot be read still counts when it stands still in a moving scene: scripts the model does not know.
    All defaults are ours."""

    frames: int = Field(default=4, ge=1, le=64)
    size: int = Field(default=480, ge=64, le=2048)
    min_find: float = Field(default=0.5, ge=0, le=1)
    min_read: float = Field(default=0.6, ge=0, le=1)


class Overlay:
    """area, text_area: float64, 0..1, mean over the frames read of the share of the frame that boxes of burned-in
    text (of any text) cover together. text, overlay_text: what was read, in reading order, each line once, lines
    apart by newline. boxes: one per line and frame read, corners as shares of the frame. frames: int32, frames read.
    """

    name: ClassVar[str] = "overlay"
    VERSION: ClassVar[int] = 1
    of: ClassVar[Literal["text", "media", "pair"]] = "media"
    needs: ClassVar[Literal["text", "header", "stream", "frames"]] = "frames"
    modalities: ClassVar[frozenset[str]] = frozenset({"video", "image", "multi_image"})
    reads: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, pa.DataType]] = {
        "area": pa.float64(),
        "text_area": pa.float64(),
        "text": pa.string(),
        "overlay_text": pa.string(),
        "boxes": pa.list_(_BOX),
        "frames": pa.int32(),
    }
    stored: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    @property
    def plan(self) -> FramePlan:
        return FramePlan(times="uniform", size=self.settings.size, fit="long", count=2 * self.settings.frames)

    def maker(self) -> Mapping[str, object]:
        parameters = self.settings.model_dump(mode="json", exclude={"det_model", "rec_model"})
        return {**parameters, "weights": dict(ocr.weights_sha256(self.settings)), "device": "cpu"}

    def measure(self, chunk: pa.Table, media: Sequence[Decoded | None]) -> pa.Table:
        engine = ocr.load(self.settings)
        rows: list[dict[str, Any]] = []
        for modality, decoded in zip(chunk["modality"].to_pylist(), media, strict=True):
            frames = decoded.frames.get(self.name) if decoded is not None and decoded.error is None else None
            if frames is None or len(frames.pixels) == 0:
                rows.append({"error": (decoded and decoded.error) or "no_frames: nothing was decoded"})
            else:
                rows.append(look(frames, modality == "video", engine, self.settings))
        schema = pa.schema([*self.columns.items(), ("error", pa.string())])
        return pa.Table.from_pylist(rows, schema=schema)


@dataclass
class Line:
    """A line of text in one of the frames read."""

    frame: int
    quad: NDArray[np.float32]
    found: float
    rect: Rect
    text: str = ""
    score: float = 0.0
    overlay: bool = False
    certain: bool = False
    motion: _Motion | None = None

    @property
    def height(self) -> int:
        return self.rect[3] - self.rect[1]

    @property
    def width(self) -> int:
        return self.rect[2] - self.rect[0]


def look(frames: Frames, video: bool, engine: ocr.Engine, settings: Settings) -> dict[str, Any]:
    """The columns of one medium. Frames of a video are one scene; pictures of any other modality stand alone."""
    pixels = frames.pixels
    count, height, width = pixels.shape[:3]
    moving = video and count > 1
    read = range(0, count, 2) if moving else range(count)
    lines = [line for i in read for line in _find(pixels[i], i, engine, settings)]
    if lines:
        scene = Scene(pixels, lines) if moving else None
        _recognise(lines, pixels, scene, engine)
        lines = [line for line in lines if line.found >= settings.min_find]
        judge_lines(lines, scene, (height, width))
        lines = [line for line in lines if line.certain or _is_read(line, settings)]
    everything, burned = [], []
    for i in read:
        here = [line for line in lines if line.frame == i]
        # Text that stands still is in this frame too, even where the detector missed it.
        kept = [line for line in lines if line.frame != i and line.overlay and line.motion and line.motion.still[i]]
        everything.append(covered([line.quad for line in here + kept], height, width))
        burned.append(covered([line.quad for line in here + kept if line.overlay], height, width))
    scale = np.array([width, height], np.float32)
    boxes = []
    for line in lines:
        low = np.clip(line.quad.min(axis=0) / scale, 0, 1).tolist()
        high = np.clip(line.quad.max(axis=0) / scale, 0, 1).tolist()
        time = float(frames.times[line.frame]) if video else 0.0
        place = dict(zip(("x0", "y0", "x1", "y1"), low + high, strict=True))
        boxes.append(place | {"time": time, "score": line.score, "overlay": line.overlay, "text": line.text})
    return {
        "area": round(float(np.mean(burned)), 6),
        "text_area": round(float(np.mean(everything)), 6),
        "text": transcript(lines),
        "overlay_text": transcript([line for line in lines if line.overlay]),
        "boxes": boxes,
        "frames": len(read),
    }


# Finding and reading


def _find(picture: NDArray[np.uint8], frame: int, engine: ocr.Engine, settings: Settings) -> list[Line]:
    height, width = picture.shape[:2]
    lines = []
    for region in engine.find(picture):
        x0, y0 = np.floor(region.quad.min(axis=0)).astype(int)
        x1, y1 = np.ceil(region.quad.max(axis=0)).astype(int)
        rect = (max(int(x0), 0), max(int(y0), 0), min(int(x1), width), min(int(y1), height))
        if region.score >= settings.min_find and rect[2] - rect[0] >= 4 and rect[3] - rect[1] >= 4:
            lines.append(Line(frame, region.quad, region.score, rect))
    return lines


def _recognise(lines: Sequence[Line], pixels: NDArray[np.uint8], scene: Scene | None, engine: ocr.Engine) -> None:
    """Read each line, but not again what stands where it was already read well."""
    for at, line in enumerate(lines):
        if scene is not None:
            line.motion = scene.follow(line)
            for before in lines[:at]:
                if before.score >= 0.9 and line.motion.still[before.frame] and overlap(before.rect, line.rect) >= 0.7:
                    line.text, line.score = before.text, before.score
                    break
        if not line.text:
            text, score = engine.read(upright(pixels[line.frame], line.quad))
            line.text, line.score = clean(text), score


def _is_read(line: Line, settings: Settings) -> bool:
    return line.score >= settings.min_read and sum(c.isalnum() for c in line.text) >= 2


def upright(picture: NDArray[np.uint8], quad: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The quadrilateral (4, 2) of `picture` as a level rectangle; tall ones are turned by a quarter."""
    import cv2

    sides = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    width, height = max(round(float(max(sides[0], sides[2]))), 1), max(round(float(max(sides[1], sides[3]))), 1)
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
    line = cv2.warpPerspective(picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.rot90(line) if height >= 1.5 * width else line


def clean(text: str) -> str:
    """`text` without control, format, surrogate and unassigned characters, white space as single blanks."""
    kept = ("" if unicodedata.category(c).startswith("C") and not c.isspace() else c for c in text)
    return " ".join("".join(kept).split())


def transcript(lines: Sequence[Line]) -> str:
    """The texts frame by frame, from top to bottom and left to right, each once."""
    said: dict[str, str] = {}
    for frame in sorted({line.frame for line in lines}):
        here = sorted((line for line in lines if line.frame == frame), key=lambda line: (line.rect[1], line.rect[0]))
        rows: list[list[Line]] = []
        for line in here:
            middle = (line.rect[1] + line.rect[3]) / 2
            if rows and middle < rows[-1][0].rect[3]:
                rows[-1].append(line)
            else:
                rows.append([line])
        for line in (line for row in rows for line in sorted(row, key=lambda line: line.rect[0])):
            said.setdefault("".join(c for c in line.text.casefold() if c.isalnum()), line.text)
    return "\n".join(text for key, text in said.items() if key)


# Geometry


def covered(quads: Sequence[NDArray[np.float32]], height: int, width: int) -> float:
    """Share of the frame, 0..1, that the quadrilaterals cover together: overlaps count once."""
    import cv2

    mask = np.zeros((height, width), np.uint8)
    for quad in quads:
        # fillPoly paints the far edge too; pulling it in by a pixel makes a box of n pixels n wide.
        corners = np.round(quad).astype(np.int32)
        cv2.fillPoly(mask, [np.where(corners == corners.max(axis=0), corners - 1, corners)], 1)
    return float(mask.mean())


def overlap(a: Rect, b: Rect) -> float:
    """Intersection over union."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


# What moved


@dataclass(frozen=True)
class _Motion:
    """Of one line, by frame (bool (n,)): still = its strokes are at the same place; shifted = they are a few pixels
    beside it; parted = still while what lies behind or around it changed, which only burned-in text does;
    calm = the neighbourhood of the line, without the line, did not change."""

    still: NDArray[np.bool_]
    shifted: NDArray[np.bool_]
    parted: NDArray[np.bool_]
    calm: NDArray[np.bool_]


_REACH = 3  # pixels searched around a line for where its strokes went
_CELL = 16  # side in pixels of the cells in which the scene's motion is judged


class Scene:
    """The frames of a video as evidence: gradients for strokes, cells for the motion of the whole."""

    def __init__(self, pixels: NDArray[np.uint8], lines: Sequence[Line]) -> None:
        import cv2

        grays = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pixels]
        self.gray: Gray = np.stack([cv2.GaussianBlur(g, (3, 3), 0) for g in grays]).astype(np.float32)
        self.count, self.height, self.width = self.gray.shape
        self.dx = np.stack([cv2.Sobel(g, cv2.CV_32F, 1, 0) for g in self.gray])
        self.dy = np.stack([cv2.Sobel(g, cv2.CV_32F, 0, 1) for g in self.gray])
        self.written = np.zeros((self.count, self.height, self.width), bool)
        for line in lines:
            x0, y0, x1, y1 = line.rect
            self.written[line.frame, y0:y1, x0:x1] = True
        self._swept: dict[int, NDArray[np.float64]] = {}

    def swept(self, frame: int) -> NDArray[np.float64]:
        """float64 (n,), 0..1: share of the textured cells outside text that look different in each other frame."""
        if frame not in self._swept:
            high, wide = self.height // _CELL * _CELL, self.width // _CELL * _CELL

            def cells(stack: NDArray[Any]) -> NDArray[Any]:
                cut = stack[..., :high, :wide]
                shape = (*cut.shape[:-2], high // _CELL, _CELL, wide // _CELL, _CELL)
                return np.moveaxis(cut.reshape(shape), -3, -2).reshape(*cut.shape[:-2], -1, _CELL * _CELL)

            blocks = cells(self.gray)
            blocks = blocks - blocks.mean(axis=-1, keepdims=True)
            spread = blocks.std(axis=-1)
            free = ~cells(self.written.any(axis=0)).any(axis=-1)
            textured = free & (spread[frame] >= 6)
            alike = (blocks * blocks[frame]).mean(axis=-1) / np.maximum(spread * spread[frame], 1e-6)
            changed = (alike < 0.7)[:, textured]
            few = changed.shape[1] < 4
            self._swept[frame] = np.zeros(self.count) if few else changed.mean(axis=1)
        return self._swept[frame]

    def follow(self, line: Line) -> _Motion:
        """Where the strokes of a line are in every frame, and what its neighbourhood did."""
        i, (x0, y0, x1, y1) = line.frame, line.rect
        dx, dy = self.dx[i, y0:y1, x0:x1], self.dy[i, y0:y1, x0:x1]
        strength = np.hypot(dx, dy)
        edge = strength >= max(float(np.quantile(strength, 0.8)), 16.0)
        ys, xs = np.nonzero(edge)
        if len(ys) < 12:
            nothing = np.zeros(self.count, bool)
            return _Motion(nothing, nothing, nothing, nothing)
        agree = self._agreement(i, ys + y0, xs + x0)
        here = agree[:, _REACH, _REACH]
        best = agree.reshape(self.count, -1).max(axis=1)
        still = (here >= 0.5) & (here >= best - 0.05)
        shifted = (best >= 0.5) & ~still

        behind = self._change(i, line.rect, ~_grown(edge, 2)) >= 0.25
        calm, anchored = self._around(line)
        swept = self.swept(i)
        parted = still & (behind | ((swept >= 0.6) & ~anchored))
        parted[i] = False
        return _Motion(still, shifted, parted, calm & (swept < 0.3))

    def _agreement(self, frame: int, ys: NDArray[np.intp], xs: NDArray[np.intp]) -> NDArray[np.float64]:
        """float64 (n, 2R+1, 2R+1): share of the stroke pixels whose gradient is found again, by frame and shift."""
        step = max(len(ys) // 600, 1)
        ys, xs = ys[::step], xs[::step]
        gx, gy = self.dx[frame, ys, xs], self.dy[frame, ys, xs]
        power = gx * gx + gy * gy
        shifts = np.arange(-_REACH, _REACH + 1)
        rows = np.clip(ys[None, None] + shifts[:, None, None], 0, self.height - 1)
        columns = np.clip(xs[None, None] + shifts[None, :, None], 0, self.width - 1)
        ox, oy = self.dx[:, rows, columns], self.dy[:, rows, columns]
        return np.asarray((2 * (ox * gx + oy * gy) >= 0.7 * (power + ox * ox + oy * oy)).mean(axis=-1))

    def _change(self, frame: int, rect: Rect, where: NDArray[np.bool_]) -> NDArray[np.float64]:
        """float64 (n,): share of the pixels `where` of a rectangle that differ, a common change of light set aside."""
        x0, y0, x1, y1 = rect
        if where.sum() < 12:
            return np.zeros(self.count)
        seen = self.gray[:, y0:y1, x0:x1][:, where]
        difference = seen - seen[frame]
        difference -= np.median(difference, axis=1, keepdims=True)
        return np.asarray((np.abs(difference) > 14).mean(axis=1))

    def _around(self, line: Line) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """bool (n,) each: the band around a line did not change; it did not change although it has texture, so
        that what carries the line would have shown a motion."""
        i, (x0, y0, x1, y1) = line.frame, line.rect
        margin = max(6, round(0.7 * line.height))
        rect = (max(x0 - margin, 0), max(y0 - margin, 0), min(x1 + margin, self.width), min(y1 + margin, self.height))
        band = ~self.written[:, rect[1] : rect[3], rect[0] : rect[2]].any(axis=0)
        if band.sum() < 24:
            return np.zeros(self.count, bool), np.zeros(self.count, bool)
        calm = self._change(i, rect, band) < 0.1
        textured = float(self.gray[i, rect[1] : rect[3], rect[0] : rect[2]][band].std()) >= 8
        return calm, calm & textured


def _grown(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    import cv2

    return np.asarray(cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)), bool)


# Burned in or part of the scene


def judge_lines(lines: Sequence[Line], scene: Scene | None, shape: tuple[int, int]) -> None:
    """Set `overlay` and `certain` of each line."""
    for line in lines:
        if scene is None or line.motion is None:
            line.overlay = placed_like_overlay(line.quad, shape)
            continue
        motion, other = line.motion, np.arange(scene.count) != line.frame
        parted, shifted = int(motion.parted.sum()), int((motion.shifted & other).sum())
        stood = int((motion.still & other).sum())
        if parted and parted >= shifted:
            line.overlay, line.certain = True, parted >= 2
        elif stood and not shifted:
            line.overlay = placed_like_overlay(line.quad, shape)
        elif not stood:
            line.overlay = _runs(line, lines, scene) or _flashes(line, lines, scene)
    for line in lines:
        if not line.overlay and any(other.overlay and other.certain and _same_row(line, other) for other in lines):
            line.overlay = line.motion is not None and not bool(line.motion.shifted.any())


def placed_like_overlay(quad: NDArray[np.float32], shape: tuple[int, int]) -> bool:
    """For want of motion: level text that lies in the upper or lower fifth, or is as wide or tall as titles are."""
    height, width = shape
    run, rise = quad[1] - quad[0]
    if abs(np.degrees(np.arctan2(rise, run))) > 3:
        return False
    size = quad.max(axis=0) - quad.min(axis=0)
    middle = float(quad[:, 1].mean()) / height
    return bool(middle < 0.2 or middle > 0.8 or size[0] >= 0.5 * width or size[1] >= 0.12 * height)


def _same_row(a: Line, b: Line) -> bool:
    size = max(a.height, b.height)
    return abs(a.rect[1] - b.rect[1]) < 0.3 * size and abs(a.rect[3] - b.rect[3]) < 0.3 * size


def _runs(line: Line, lines: Sequence[Line], scene: Scene) -> bool:
    """A ticker: a wide line of the border bands, in the same row of at least half of the other frames read, that
    runs along the row while what is above and below does not run with it."""
    import cv2

    middle = (line.rect[1] + line.rect[3]) / 2 / scene.height
    at_edge = line.rect[0] <= 0.03 * scene.width or line.rect[2] >= 0.97 * scene.width
    if 0.25 < middle < 0.75 or not (at_edge or line.width >= 0.3 * scene.width):
        return False
    read = {other.frame for other in lines}
    rows = {other.frame for other in lines if other.frame != line.frame and _same_row(line, other)}
    if 2 * len(rows) < scene.count // 2 - 1 or not read:
        return False
    x0, y0, x1, y1 = line.rect
    quarter = (x1 - x0) // 4
    piece = scene.gray[line.frame, y0:y1, x0 + quarter : x1 - quarter]
    strip = _strip(line, scene)
    for k in (line.frame - 1, line.frame + 1):
        if not 0 <= k < scene.count:
            continue
        match = cv2.matchTemplate(scene.gray[k, y0:y1], piece, cv2.TM_CCOEFF_NORMED)[0]
        run = int(match.argmax()) - (x0 + quarter)
        if match.max() < 0.6 or abs(run) < 2:
            continue
        return not _goes_along(scene, line.frame, k, strip, run)
    return False


def _strip(line: Line, scene: Scene) -> Rect:
    """What lies beyond the ticker's bar, on the side of the picture's middle."""
    x0, y0, x1, y1 = line.rect
    size = line.height
    if y0 + y1 > scene.height:
        return x0, max(y0 - 2 * size, 0), x1, max(y0 - size // 2, 1)
    return x0, min(y1 + size // 2, scene.height - 1), x1, min(y1 + 2 * size, scene.height)


def _goes_along(scene: Scene, i: int, k: int, strip: Rect, run: int) -> bool:
    x0, y0, x1, y1 = strip
    left, right = max(x0, -run), min(x1, scene.width - run)
    left = max(left, 0)
    right = min(right, scene.width)
    if right - left < 8:
        return False
    a = scene.gray[i, y0:y1, left:right]
    b = scene.gray[k, y0:y1, left + run : right + run]
    spread = float(a.std() * b.std())
    if spread < 16:
        return False
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread >= 0.6


def _flashes(line: Line, lines: Sequence[Line], scene: Scene) -> bool:
    """Seen once only, gone in a neighbouring frame while everything around stayed: nothing in a scene does that,
    unless it moved, and then it is read elsewhere."""
    assert line.motion is not None
    near = [k for k in (line.frame - 1, line.frame + 1) if 0 <= k < scene.count]
    if not any(line.motion.calm[k] for k in near):
        return False
    return not any(
        other.frame != line.frame and other.text and other.text == line.text and overlap(other.rect, line.rect) < 0.5
        for other in lines
    )
