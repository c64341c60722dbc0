"""Search the pictures of a video for text, as few of them as settle what was burned in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotators.overlay import ocr
from annotators.overlay.columns import covered, to_box, to_columns
from annotators.overlay.lines import find_lines, is_text, read_line
from annotators.overlay.scene import Line, Scene, is_in_caption_band, judge_lines, may_run, moves_about, overlap
from annotators.overlay.settings import OverlaySettings
from infra.media.interface import Frames


def look_at_video(frames: Frames, engine: ocr.Engine, settings: OverlaySettings) -> dict[str, Any]:
    """Measure the columns of a video, whose frames are one scene."""
    pixels = frames.pixels
    count, height, width = pixels.shape[:3]
    scene = Scene(pixels) if count > 1 else None
    seen: dict[int, int] = {}  # frame -> the frame searched in its place, usually itself
    lines: list[Line] = []
    for at, asked in enumerate(_split_rounds(count, float(np.ptp(frames.times)))):
        if scene is not None and at and not _wants_round(at, lines, (height, width), settings, scene):
            continue
        first_new = len(lines)
        for i in asked:
            seen[i] = next((k for k in seen.values() if scene is not None and scene.same(i, k)), i)
            if seen[i] == i:
                lines += find_lines(pixels[i], i, engine, settings)
        if scene is not None:
            scene.write(lines)
        _read_lines(lines, first_new, pixels, scene, engine)
        judge_lines(lines, scene, (height, width))
    if scene is not None and scene.moves():
        lines += _find_lasting(scene, lines, min(seen.values()), engine, settings)
    lines = [line for line in lines if is_text(line, height * width, settings)]
    boxes = [to_box(line, (height, width), float(frames.times[line.frame])) for line in lines]
    return to_columns(lines, boxes, *_measure_areas(lines, seen, (height, width)))


def _read_lines(
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
            line.text, line.score = read_line(engine, pixels[line.frame], line)


def _find_lasting(
    scene: Scene, lines: Sequence[Line], frame: int, engine: ocr.Engine, settings: OverlaySettings
) -> list[Line]:
    """Find lines visible in the mean of all frames only: still, so burned in. frame: assigned to these lines."""
    lasting: list[Line] = []
    for line in find_lines(scene.mean, frame, engine, settings):
        line.motion = scene.lasts(line)
        # A sign in the centre of a zoom leaves a ghost in the mean; lines that a frame shows were judged there.
        is_new = not any(overlap(line.rect, seen.rect) > 0.1 for seen in (*lines, *lasting))
        if 2 * int(line.motion.still.sum()) > scene.count and is_new:
            line.overlay = line.certain = True
            line.text, line.score = read_line(engine, scene.mean, line)
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
    if any(line.overlay and is_text(line, shape[0] * shape[1], settings) for line in lines):
        return False
    # Signs move: the pictures between would show them at so many more places.
    alone = any(line.is_alone() and is_in_caption_band(line, shape) for line in lines)
    return alone and not any(moves_about(line, lines) for line in lines)


def _needs_more_frames(line: Line, pixels: int, settings: OverlaySettings, scene: Scene) -> bool:
    """Whether more frames may settle this line: burned in but not always visible, a ticker, or seen only once."""
    if line.motion is None or not is_text(line, pixels, settings):
        return False
    if line.overlay:
        return not line.motion.still.all()
    return may_run(line, scene) or line.is_alone()
