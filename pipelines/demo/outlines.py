"""Outlines of the subjects' shapes, as coloured polygons."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Polygon: TypeAlias = NDArray[np.float64]
#: A polygon (n, 2) in [-1, 1]², and its tone: a factor on the subject's colour, or a colour.
TonedPolygon: TypeAlias = tuple[Polygon, float | tuple[int, int, int]]


def _polygon(*xy: float) -> Polygon:
    return np.array(xy, dtype=np.float64).reshape(-1, 2)


def _oval(x: float, y: float, rx: float, ry: float, n: int = 48, turn: float = 0.0) -> Polygon:
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    px, py = rx * np.cos(a), ry * np.sin(a)
    return np.stack([x + px * math.cos(turn) - py * math.sin(turn), y + px * math.sin(turn) + py * math.cos(turn)], 1)


def _star() -> Polygon:
    a = np.arange(10) * np.pi / 5 - np.pi / 2
    r = np.where(np.arange(10) % 2 == 0, 0.98, 0.42)
    return np.stack([r * np.cos(a), r * np.sin(a)], 1)


def _heart() -> Polygon:
    a = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y = 13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
    return np.asarray(np.stack([16 * np.sin(a) ** 3, -y - 2], 1) / 17.5)


def _petals() -> list[TonedPolygon]:
    angles = np.arange(6) * np.pi / 3
    return [(_oval(0.55 * math.cos(a), 0.55 * math.sin(a), 0.42, 0.3, turn=a), 1.0) for a in angles]


#: Polygons by shape, back to front.
OUTLINES: dict[str, list[TonedPolygon]] = {
    "ball": [(_oval(0, 0, 0.92, 0.92), 1.0)],
    "star": [(_star(), 1.0)],
    "heart": [(_heart(), 1.0)],
    "flower": [*_petals(), (_oval(0, 0, 0.28, 0.28), (92, 58, 22))],
    "balloon": [
        (_polygon(-0.02, 0.5, 0.02, 0.5, 0.07, 0.75, 0.02, 0.99, -0.03, 0.99, 0.02, 0.75), 0.55),
        (_polygon(-0.12, 0.66, 0.12, 0.66, 0, 0.48), 0.75),
        (_oval(0, -0.2, 0.62, 0.76), 1.0),
    ],
    "fish": [
        (_polygon(0.45, 0, 0.97, -0.5, 0.82, 0, 0.97, 0.5), 0.75),
        (_polygon(-0.25, -0.35, 0.2, -0.72, 0.25, -0.3), 0.75),
        (_oval(-0.12, 0, 0.78, 0.47), 1.0),
        (_oval(-0.55, -0.1, 0.12, 0.12), (250, 250, 250)),
        (_oval(-0.57, -0.1, 0.06, 0.06), (10, 10, 10)),
    ],
    "boat": [
        (_polygon(-0.03, -0.95, 0.05, -0.95, 0.05, 0.4, -0.03, 0.4), (96, 66, 40)),
        (_polygon(0.1, -0.9, 0.85, 0.25, 0.1, 0.25), 1.0),
        (_polygon(-0.1, -0.7, -0.1, 0.25, -0.65, 0.25), 0.85),
        (_polygon(-0.98, 0.35, 0.98, 0.35, 0.6, 0.85, -0.6, 0.85), 0.62),
    ],
    "kite": [
        (_polygon(0, 0.6, 0.14, 0.78, -0.1, 0.86, 0.08, 0.99, 0.03, 0.99, -0.18, 0.86, 0.05, 0.78), 0.6),
        (_polygon(0, -0.98, 0.66, -0.25, 0, 0.68, -0.66, -0.25), 1.0),
        (_polygon(0, -0.98, 0.66, -0.25, 0, -0.25), 0.72),
        (_polygon(0, 0.68, -0.66, -0.25, 0, -0.25), 0.72),
    ],
    "house": [
        (_polygon(0.35, -0.8, 0.55, -0.8, 0.55, -0.3, 0.35, -0.5), 0.5),
        (_polygon(-0.72, -0.12, 0.72, -0.12, 0.72, 0.88, -0.72, 0.88), 1.0),
        (_polygon(0, -0.95, 0.98, -0.05, -0.98, -0.05), 0.66),
        (_polygon(-0.16, 0.3, 0.16, 0.3, 0.16, 0.88, -0.16, 0.88), 0.45),
        (_polygon(-0.58, 0.12, -0.28, 0.12, -0.28, 0.42, -0.58, 0.42), (200, 228, 246)),
        (_polygon(0.28, 0.12, 0.58, 0.12, 0.58, 0.42, 0.28, 0.42), (200, 228, 246)),
    ],
    "butterfly": [
        (_oval(-0.5, -0.35, 0.52, 0.4, turn=0.6), 1.0),
        (_oval(0.5, -0.35, 0.52, 0.4, turn=-0.6), 1.0),
        (_oval(-0.4, 0.42, 0.38, 0.34, turn=-0.5), 0.82),
        (_oval(0.4, 0.42, 0.38, 0.34, turn=0.5), 0.82),
        (_oval(0, 0.05, 0.09, 0.68), (48, 36, 30)),
    ],
    "car": [
        (_polygon(-0.55, -0.1, -0.32, -0.55, 0.35, -0.55, 0.62, -0.1), 0.72),
        (_polygon(-0.42, -0.12, -0.26, -0.45, 0, -0.45, 0, -0.12), (206, 230, 244)),
        (_polygon(0.08, -0.12, 0.08, -0.45, 0.3, -0.45, 0.48, -0.12), (206, 230, 244)),
        (_polygon(-0.98, -0.1, 0.85, -0.1, 0.98, 0.1, 0.98, 0.4, -0.98, 0.4), 1.0),
        (_oval(-0.52, 0.42, 0.24, 0.24), (30, 30, 32)),
        (_oval(0.52, 0.42, 0.24, 0.24), (30, 30, 32)),
        (_oval(-0.52, 0.42, 0.1, 0.1), (190, 190, 194)),
        (_oval(0.52, 0.42, 0.1, 0.1), (190, 190, 194)),
    ],
}
