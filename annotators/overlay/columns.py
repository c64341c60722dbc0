"""The columns of one sample, from the lines of text that its pictures show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotators.overlay.scene import Line

BOX = pa.struct(
    [(name, pa.float32()) for name in ("x0", "y0", "x1", "y1", "time", "score")]
    + [("overlay", pa.bool_()), ("text", pa.string())]
)


def to_columns(
    lines: Sequence[Line], boxes: Sequence[dict[str, Any]], text_areas: Sequence[float], areas: Sequence[float]
) -> dict[str, Any]:
    """boxes: one of each line. text_areas, areas: of each picture read, the share that any text and burned-in text
    cover."""
    return {
        "area": round(float(np.mean(areas)), 6),
        "text_area": round(float(np.mean(text_areas)), 6),
        "text": transcript(lines),
        "overlay_text": transcript([line for line in lines if line.overlay]),
        "boxes": boxes,
        "frames": len(areas),
    }


def to_box(line: Line, shape: tuple[int, int], time: float) -> dict[str, Any]:
    scale = np.array(shape[::-1], np.float32)
    corners = np.clip(np.concatenate([line.quad.min(axis=0) / scale, line.quad.max(axis=0) / scale]), 0, 1).tolist()
    box = dict(zip(("x0", "y0", "x1", "y1"), corners, strict=True))
    return box | {"time": time, "score": line.score, "overlay": line.overlay, "text": line.text}


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
