"""Search an image for text: at its own size where its print is small, and upright where its page is turned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from annotators.overlay import ocr
from annotators.overlay.columns import covered, to_box, to_columns
from annotators.overlay.lines import find_lines, is_text, read_line, upright
from annotators.overlay.scene import Line, judge_lines, overlap
from annotators.overlay.settings import OverlaySettings
from infra.media.interface import Frames
from infra.media.pixels import fit_size, resize

_TURN_LINES = 5  # widest lines of a page that are read both ways up to see whether it is turned
_STRIP, _SHARED = 1000, 200  # height in pixels of the strips of a page, and of what two strips share
#: Print is small where a square of so many pixels of the picture, the one with the most edges, has so many lines, of a
#: median height below so many pixels once reduced to image_size: of lines of 12 pixels every word is read, of 10 half.
_SQUARE, _SMALL_LINES, _SMALL = 640, 4, 11


def look_at_images(frames: Frames, engine: ocr.Engine, settings: OverlaySettings) -> dict[str, Any]:
    """Measure the columns of an image or of several of one sample, each by itself; boxes lie on the images as they are,
    and their time is the number of the image."""
    all_lines: list[Line] = []
    boxes: list[dict[str, Any]] = []
    text_areas, areas = [], []
    for number, picture in enumerate(frames.pictures):
        page, turns, lines = _search_image(picture, engine, settings)
        shape = page.shape[0], page.shape[1]
        for line in lines:
            line.text, line.score = read_line(engine, page, line)
        judge_lines(lines, None, shape)
        lines = [line for line in lines if line.score >= settings.image_min_read]
        lines = [line for line in lines if is_text(line, shape[0] * shape[1], settings)]
        text_areas.append(covered([line.quad for line in lines], *shape))
        areas.append(covered([line.quad for line in lines if line.overlay], *shape))
        for line in lines:
            boxes.append(_turn_back(to_box(line, shape, float(frames.times[number])), turns))
            line.frame = number
        all_lines += lines
    return to_columns(all_lines, boxes, text_areas, areas)


def _turn_back(box: dict[str, Any], turns: int) -> dict[str, Any]:
    """Turn a box on a page clockwise by so many quarters, onto the image as it is."""
    for _ in range(turns):
        box["x0"], box["y0"], box["x1"], box["y1"] = 1 - box["y1"], box["x0"], 1 - box["y0"], box["x1"]
    return box


def _search_image(
    picture: NDArray[np.uint8], engine: ocr.Engine, settings: OverlaySettings
) -> tuple[NDArray[np.uint8], int, list[Line]]:
    """Find the lines of an image at image_size, or at its own size where it has small print. Returns the picture in
    which the lines lie, upright; the quarters by which it was turned counter-clockwise; the lines."""
    height, width = picture.shape[:2]
    reduction = max(height, width) / settings.image_size
    if reduction > 1.25:
        square = _cut_densest(picture)
        lines = find_lines(square, 0, engine, settings)
        sizes = [min(line.height, line.width) for line in lines]
        if len(sizes) >= _SMALL_LINES and np.median(sizes) < _SMALL * reduction:
            turns = _count_turns(square, lines, engine)
            page = np.ascontiguousarray(np.rot90(picture, turns))
            return page, turns, _find_in_strips(page, engine, settings)
    small = resize(picture, *fit_size(width, height, settings.image_size, "long"))
    lines = find_lines(small, 0, engine, settings)
    turns = _count_turns(small, lines, engine)
    page = np.ascontiguousarray(np.rot90(small, turns))
    return page, turns, find_lines(page, 0, engine, settings) if turns else lines


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
        for line in find_lines(np.ascontiguousarray(picture[top:bottom]), 0, engine, settings):
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
