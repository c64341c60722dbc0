"""Find the lines of text in one picture, and read them."""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

from annotators.overlay import ocr
from annotators.overlay.scene import LARGE, Line
from annotators.overlay.settings import OverlaySettings

_LEGIBLE = 288  # long side in pixels below which pictures are enlarged, at most twofold, before the search
_FILLING = 0.5  # share of the picture above which a box with few letters is texture (stripes, limbs)


def find_lines(picture: NDArray[np.uint8], frame: int, engine: ocr.Engine, settings: OverlaySettings) -> list[Line]:
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


def read_line(engine: ocr.Engine, picture: NDArray[np.uint8], line: Line) -> tuple[str, float]:
    text, score = engine.read(upright(picture, line.quad))
    return clean(text), round(float(score), 6)


def is_text(line: Line, pixels: int, settings: OverlaySettings) -> bool:
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
