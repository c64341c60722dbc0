"""Text in pictures: its position, its characters, and whether it was burned in over the scene or belongs to it.

Text is detected and recognised here; `annotators.overlay.scene` decides which lines were burned in.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from annotators.interface import Column, FrameAnnotator
from annotators.overlay import ocr
from annotators.overlay.scene import LARGE, Line, Scene, is_in_caption_band, judge_lines, may_run, moves_about, overlap
from infra.media.interface import VISUAL, FramePlan, Frames
from infra.media.pixels import fit_size, resize

_BOX = pa.struct(
    [(name, pa.float32()) for name in ("x0", "y0", "x1", "y1", "time", "score")]
    + [("overlay", pa.bool_()), ("text", pa.string())]
)


class OverlaySettings(ocr.OcrSettings):
    """frames: pictures of a video in which text may be searched, spread evenly: first half of them (in videos of more
        than 12 s three quarters), the others only where they may add information. As many frames between them are
        evidence, and searched only where a line like a caption was seen once.
    size: their long side in pixels; never enlarged.
    image_size: the same of an image, whose letters are mostly smaller: of a page, 0.6 of the words are read at 480
        pixels and 0.93 at 1280.
    page_size: the same of an image with small print, which is searched in strips.
    image_min_read: the same as min_read, of images, whose text is joined to captions.
    min_find, min_read: confidences (0..1) of the detector and of the recogniser below which a box is dropped. A box
        that cannot be read still counts when it stands still in a moving scene: a script unknown to the model.
    All defaults are ours."""

    frames: int = Field(default=4, ge=1, le=64)
    size: int = Field(default=480, ge=64, le=2048)
    image_size: int = Field(default=1280, ge=64, le=4096)
    page_size: int = Field(default=2560, ge=64, le=4096)
    min_find: float = Field(default=0.5, ge=0, le=1)
    min_read: float = Field(default=0.6, ge=0, le=1)
    image_min_read: float = Field(default=0.75, ge=0, le=1)


class Overlay(FrameAnnotator):
    """Text in the picture, and which of it was burned in."""

    name = "overlay"
    VERSION = 9
    keyed_by = "media"
    modalities = frozenset(VISUAL)
    columns: ClassVar[Mapping[str, Column]] = {
        "area": Column(
            pa.float64(), "share of the frame covered by boxes of burned-in text, 0 to 1, mean over the frames read"
        ),
        "text_area": Column(pa.float64(), "the same of any text"),
        "text": Column(pa.string(), "text read, in reading order, each line once, separated by newlines"),
        "overlay_text": Column(pa.string(), "burned-in text read, likewise"),
        "boxes": Column(pa.list_(_BOX), "one per line and frame read, corners as shares of the frame"),
        "frames": Column(pa.int32(), "frames read: only some of a video's where the others could add nothing"),
    }
    settings: OverlaySettings

    @property
    def plan(self) -> FramePlan:
        settings = self.settings
        count, image_size = 2 * settings.frames, max(settings.image_size, settings.page_size)
        return FramePlan("uniform", settings.size, "long", count=count, image_size=image_size)

    def fingerprint_inputs(self) -> Mapping[str, object]:
        parameters = self.settings.model_dump(mode="json", exclude={"det_model", "rec_model"})
        return {**parameters, "weights": dict(ocr.weights_sha256(self.settings)), "device": "cpu"}

    def measure_one(self, sample: Mapping[str, Any], content: Frames) -> Mapping[str, Any]:
        with ocr.borrow(self.settings) as engine:
            if sample["modality"] == "video":
                return look(content, True, engine, self.settings)
            return look_at_image(content, engine, self.settings)


def look(frames: Frames, video: bool, engine: ocr.Engine, settings: OverlaySettings) -> dict[str, Any]:
    """Measure the columns of one medium. The frames of a video are one scene; other pictures are judged one by one."""
    pixels = frames.pixels
    count, height, width = pixels.shape[:3]
    scene = Scene(pixels) if video and count > 1 else None
    rounds = [list(range(count))] if scene is None else _split_rounds(count, float(np.ptp(frames.times)))
    seen: dict[int, int] = {}  # frame -> the frame searched in its place, usually itself
    lines: list[Line] = []
    for at, asked in enumerate(rounds):
        if scene is not None and at and not _wants_round(at, lines, (height, width), settings, scene):
            continue
        first_new = len(lines)
        for i in asked:
            seen[i] = next((k for k in seen.values() if scene is not None and scene.same(i, k)), i)
            if seen[i] == i:
                lines += _find_lines(pixels[i], i, engine, settings)
        if scene is not None:
            scene.write(lines)
        _recognise(lines, first_new, pixels, scene, engine)
        judge_lines(lines, scene, (height, width))
    if scene is not None and scene.moves():
        lines += _find_lasting(scene, lines, min(seen.values()), engine, settings)
    lines = [line for line in lines if _is_text(line, height * width, settings)]
    if not video:
        lines = [line for line in lines if line.score >= settings.image_min_read]
    return _to_columns(lines, seen, (height, width), frames.times if video else np.zeros(count))


def _to_columns(
    lines: Sequence[Line], seen: Mapping[int, int], shape: tuple[int, int], times: NDArray[np.float64]
) -> dict[str, Any]:
    all_areas, overlay_areas = _measure_areas(lines, seen, shape)
    return {
        "area": round(float(np.mean(overlay_areas)), 6),
        "text_area": round(float(np.mean(all_areas)), 6),
        "text": transcript(lines),
        "overlay_text": transcript([line for line in lines if line.overlay]),
        "boxes": [_to_box(line, shape, float(times[line.frame])) for line in lines],
        "frames": len(seen),
    }


# Images

_TURN_LINES = 5  # widest lines of a page that are read both ways up to see whether it is turned
_STRIP, _SHARED = 1000, 200  # height in pixels of the strips of a page, and of what two strips share
#: Print is small where a square of so many pixels of the picture, the one with the most edges, has so many lines, of a
#: median height below so many pixels once reduced to image_size: of lines of 12 pixels every word is read, of 10 half.
_SQUARE, _SMALL_LINES, _SMALL = 640, 4, 11


def look_at_image(frames: Frames, engine: ocr.Engine, settings: OverlaySettings) -> dict[str, Any]:
    """Measure the columns of an image, of a turned page as if it were upright; boxes lie on the image as it is.
    Several pictures of one sample are judged one by one, as they are."""
    if len(frames.pixels) > 1:
        return look(frames, False, engine, settings)
    page, turns, lines = _search_image(frames.pixels[0], engine, settings)
    shape = page.shape[0], page.shape[1]
    _recognise(lines, 0, page[None], None, engine)
    judge_lines(lines, None, shape)
    lines = [line for line in lines if line.score >= settings.image_min_read]
    lines = [line for line in lines if _is_text(line, shape[0] * shape[1], settings)]
    columns = _to_columns(lines, {0: 0}, shape, np.zeros(1))
    for box in columns["boxes"] if turns else ():
        for _ in range(turns):  # back by a quarter, clockwise
            box["x0"], box["y0"], box["x1"], box["y1"] = 1 - box["y1"], box["x0"], 1 - box["y0"], box["x1"]
    return columns


def _search_image(
    picture: NDArray[np.uint8], engine: ocr.Engine, settings: OverlaySettings
) -> tuple[NDArray[np.uint8], int, list[Line]]:
    """Find the lines of an image at image_size, or at its own size where it has small print. Returns the picture in
    which the lines lie, upright; the quarters by which it was turned counter-clockwise; the lines."""
    height, width = picture.shape[:2]
    reduction = max(height, width) / settings.image_size
    if reduction > 1.25:
        square = _cut_densest(picture)
        lines = _find_lines(square, 0, engine, settings)
        sizes = [min(line.height, line.width) for line in lines]
        if len(sizes) >= _SMALL_LINES and np.median(sizes) < _SMALL * reduction:
            turns = _count_turns(square, lines, engine)
            page = np.ascontiguousarray(np.rot90(picture, turns))
            return page, turns, _find_in_strips(page, engine, settings)
    small = resize(picture, *fit_size(width, height, settings.image_size, "long"))
    lines = _find_lines(small, 0, engine, settings)
    turns = _count_turns(small, lines, engine)
    page = np.ascontiguousarray(np.rot90(small, turns))
    return page, turns, _find_lines(page, 0, engine, settings) if turns else lines


def _cut_densest(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut out the square of _SQUARE pixels with the most vertical edges, as letters have."""
    edges = np.abs(np.diff(picture[::2, ::2, 1].astype(np.int16), axis=1))
    side = _SQUARE // 2
    rows, columns = ((*range(0, length - side, side // 2), max(length - side, 0)) for length in edges.shape)
    corners = [(y, x) for y in rows for x in columns]
    y, x = max(corners, key=lambda at: float(edges[at[0] : at[0] + side, at[1] : at[1] + side].mean()))
    return np.ascontiguousarray(picture[2 * y : 2 * (y + side), 2 * x : 2 * (x + side)])


def split_strips(height: int) -> list[tuple[int, int]]:
    """Cut a height into strips (first, last row) of equal height, at most _STRIP, that share _SHARED rows."""
    count = max(-(-(height - _SHARED) // (_STRIP - _SHARED)), 1)
    step = (height - _SHARED) / count
    return [(round(k * step), min(round(k * step + step + _SHARED), height)) for k in range(count)]


def _find_in_strips(picture: NDArray[np.uint8], engine: ocr.Engine, settings: OverlaySettings) -> list[Line]:
    """Find lines in strips as wide as the picture, so that no line is cut across. A line in the rows that two strips
    share is of the strip whose border is farther away."""
    found: list[Line] = []
    strips = split_strips(len(picture))
    for top, bottom in strips:
        first = top + _SHARED // 2 if top else 0
        last = bottom - _SHARED // 2 if bottom < len(picture) else bottom
        for line in _find_lines(np.ascontiguousarray(picture[top:bottom]), 0, engine, settings):
            x0, y0, x1, y1 = line.rect
            rect = (x0, y0 + top, x1, y1 + top)
            is_inside = first - 3 <= (rect[1] + rect[3]) / 2 < last + 3
            if is_inside and not any(overlap(rect, seen.rect) > 0.5 for seen in found):
                quad = line.quad + np.array([0, top], np.float32)
                found.append(Line(0, quad, line.detection_score, rect))
    return found


def _count_turns(picture: NDArray[np.uint8], lines: Sequence[Line], engine: ocr.Engine) -> int:
    """Return the quarters, 0 to 3, by which a page is to be turned counter-clockwise to be upright: its longest lines
    are read both ways. Pictures with fewer than three lines of text are never turned."""
    lines = sorted(lines, key=lambda line: max(line.width, line.height), reverse=True)[:_TURN_LINES]
    if len(lines) < 3:
        return 0
    is_tall = 2 * sum(line.height >= 1.5 * line.width for line in lines) > len(lines)
    cut = [upright(picture, line.quad) for line in lines]
    as_it_is = float(np.mean([engine.read(line)[1] for line in cut]))
    if not is_tall and as_it_is >= 0.9:
        return 0
    over = float(np.mean([engine.read(np.ascontiguousarray(line[::-1, ::-1]))[1] for line in cut]))
    if max(as_it_is, over) < 0.8 or abs(over - as_it_is) < 0.1:
        return 0
    return (1 if as_it_is > over else 3) if is_tall else (2 if over > as_it_is else 0)


# Videos


def _find_lasting(
    scene: Scene, lines: Sequence[Line], frame: int, engine: ocr.Engine, settings: OverlaySettings
) -> list[Line]:
    """Find lines visible in the mean of all frames only: still, so burned in. frame: assigned to these lines."""
    lasting: list[Line] = []
    for line in _find_lines(scene.mean, frame, engine, settings):
        line.motion = scene.lasts(line)
        # A sign in the centre of a zoom leaves a ghost in the mean; lines that a frame shows were judged there.
        is_new = not any(overlap(line.rect, seen.rect) > 0.1 for seen in (*lines, *lasting))
        if 2 * int(line.motion.still.sum()) > scene.count and is_new:
            line.overlay = line.certain = True
            line.text, line.score = _read_line(engine, scene.mean, line)
            lasting.append(line)
    return lasting


def _measure_areas(
    lines: Sequence[Line], seen: Mapping[int, int], shape: tuple[int, int]
) -> tuple[list[float], list[float]]:
    """Measure the share of each frame that any text and burned-in text cover. seen: frame -> the frame searched."""
    all_areas, overlay_areas = [], []
    for i, searched in sorted(seen.items()):
        here = [line for line in lines if line.frame == searched]
        # Text that stands still is in this frame too, even where the detector missed it.
        elsewhere = (line for line in lines if line.frame != searched and line.overlay)
        here += [line for line in elsewhere if line.motion and line.motion.still[i]]
        all_areas.append(covered([line.quad for line in here], *shape))
        overlay_areas.append(covered([line.quad for line in here if line.overlay], *shape))
    return all_areas, overlay_areas


def _to_box(line: Line, shape: tuple[int, int], time: float) -> dict[str, Any]:
    scale = np.array(shape[::-1], np.float32)
    corners = np.clip(np.concatenate([line.quad.min(axis=0) / scale, line.quad.max(axis=0) / scale]), 0, 1).tolist()
    box = dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True))
    return box | {"time": time, "score": line.score, "overlay": line.overlay, "text": line.text}


#: Seconds between the first and the last frame above which captions that come and go are missed by half of the frames.
_LONG = 12.0


def _split_rounds(count: int, seconds: float) -> list[list[int]]:
    """Split the frames into rounds of search: of every second one half come first, in a long video three quarters, then
    the rest of them; the frames between them are evidence, and searched last, for captions that stood in one only."""
    read, between = list(range(0, count, 2)), list(range(1, count, 2))
    if len(read) < 2:
        return [read]
    rest = read[::4] if seconds > _LONG else read[::2]
    return [[i for i in read if i not in rest], rest, between]


def _wants_round(
    at: int, lines: Sequence[Line], shape: tuple[int, int], settings: OverlaySettings, scene: Scene
) -> bool:
    """Whether the lines seen so far call for the round `at` of the search."""
    if at < 2:
        return any(_needs_more_frames(line, shape[0] * shape[1], settings, scene) for line in lines)
    if any(line.overlay and _is_text(line, shape[0] * shape[1], settings) for line in lines):
        return False
    # Signs move: the pictures between would show them at so many more places.
    alone = any(line.is_alone() and is_in_caption_band(line, shape) for line in lines)
    return alone and not any(moves_about(line, lines) for line in lines)


def _needs_more_frames(line: Line, pixels: int, settings: OverlaySettings, scene: Scene) -> bool:
    """Whether more frames may settle this line: burned in but not always visible, a ticker, or seen only once."""
    if line.motion is None or not _is_text(line, pixels, settings):
        return False
    if line.overlay:
        return not line.motion.still.all()
    return may_run(line, scene) or line.is_alone()


# Detection and recognition

_LEGIBLE = 288  # long side in pixels below which pictures are enlarged, at most twofold, before the search
_FILLING = 0.5  # share of the picture above which a box with few letters is texture (stripes, limbs)


def _find_lines(picture: NDArray[np.uint8], frame: int, engine: ocr.Engine, settings: OverlaySettings) -> list[Line]:
    import cv2

    height, width = picture.shape[:2]
    larger = min(max(_LEGIBLE / max(height, width), 1.0), 2.0)
    if larger > 1:
        size = round(width * larger), round(height * larger)
        picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)
    lines = []
    for region in engine.find(picture):
        quad = region.quad / larger
        x0, y0 = np.floor(quad.min(axis=0)).astype(int)
        x1, y1 = np.ceil(quad.max(axis=0)).astype(int)
        rect = (max(int(x0), 0), max(int(y0), 0), min(int(x1), width), min(int(y1), height))
        if region.score >= settings.min_find and rect[2] - rect[0] >= 4 and rect[3] - rect[1] >= 4:
            lines.append(Line(frame, quad.astype(np.float32), region.score, rect))
    return lines


def _recognise(
    lines: Sequence[Line], first: int, pixels: NDArray[np.uint8], scene: Scene | None, engine: ocr.Engine
) -> None:
    """Follow all lines and read those from `first` on, unless the same line was already read well in another frame."""
    for at, line in enumerate(lines):
        if scene is not None:
            line.motion = scene.follow(line)
        if at < first:
            continue
        if scene is not None and line.motion is not None:
            for before in lines[:at]:
                if before.score >= 0.9 and line.motion.still[before.frame] and overlap(before.rect, line.rect) >= 0.7:
                    line.text, line.score = before.text, before.score
                    break
        if not line.text:
            line.text, line.score = _read_line(engine, pixels[line.frame], line)


def _read_line(engine: ocr.Engine, picture: NDArray[np.uint8], line: Line) -> tuple[str, float]:
    text, score = engine.read(upright(picture, line.quad))
    return clean(text), round(float(score), 6)


def _is_text(line: Line, pixels: int, settings: OverlaySettings) -> bool:
    """Whether a box is text: it was read, or it stands still in a moving scene and is shaped like a line. Boxes
    around much of the picture are mostly texture that reads as a few letters, so they must be read well."""
    letters = {c for c in line.text.casefold() if c.isalnum()}
    if line.width * line.height > LARGE * pixels:
        return line.score >= 0.9 and len(letters) >= (4 if line.width * line.height > _FILLING * pixels else 2)
    if line.score >= settings.min_read and sum(c.isalnum() for c in line.text) >= 2:
        return True
    return line.certain and line.width >= 1.5 * line.height


def upright(picture: NDArray[np.uint8], quad: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Rectify the quadrilateral (4, 2) of `picture`; tall ones are rotated by 90 degrees."""
    import cv2

    sides = np.linalg.norm(quad - np.roll(quad, -1, axis=0), axis=1)
    width, height = max(round(float(max(sides[0], sides[2]))), 1), max(round(float(max(sides[1], sides[3]))), 1)
    target = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    matrix = cv2.getPerspectiveTransform(quad.astype(np.float32), target)
    line = cv2.warpPerspective(picture, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(np.rot90(line) if height >= 1.5 * width else line, np.uint8)


def clean(text: str) -> str:
    """Remove control, format, surrogate and unassigned characters; white space becomes single blanks."""
    kept = ("" if unicodedata.category(c).startswith("C") and not c.isspace() else c for c in text)
    return " ".join("".join(kept).split())


def transcript(lines: Sequence[Line]) -> str:
    """Join the texts frame by frame, from top to bottom and left to right, each once."""
    texts: dict[str, str] = {}
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
            texts.setdefault("".join(c for c in line.text.casefold() if c.isalnum()), line.text)
    return "\n".join(text for key, text in texts.items() if key)


def covered(quads: Sequence[NDArray[np.float32]], height: int, width: int) -> float:
    """Compute the share of the frame, 0..1, that the quadrilaterals cover; overlaps count once."""
    import cv2

    mask = np.zeros((height, width), np.uint8)
    for quad in quads:
        # fillPoly paints the far edge too; pulling it in by a pixel makes a box of n pixels n wide.
        corners = np.round(quad).astype(np.int32)
        cv2.fillPoly(mask, [np.where(corners == corners.max(axis=0), corners - 1, corners)], 1)
    return float(mask.mean())
