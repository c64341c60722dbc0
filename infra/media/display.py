"""How stored frames are shown: upright, and in the shape that their pixels give them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from infra.media.pixels import Pixels

_MAX_PIXEL_ASPECT = 10  # beyond it, and below its inverse, a declared aspect is a mistake (ours)


def pixel_aspect(declared: Fraction | None) -> float:
    """Width of a pixel by its height, as the container or the codec declares it; 1 where neither does."""
    if declared is None or not Fraction(1, _MAX_PIXEL_ASPECT) <= declared <= _MAX_PIXEL_ASPECT:
        return 1.0
    return round(float(declared), 6)


def shown_size(width: int, height: int, aspect: float) -> tuple[int, int]:
    """(width, height) at which frames with pixels of that aspect are shown: one side grows, none shrinks."""
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


@dataclass(frozen=True)
class Orientation:
    """How a frame is brought upright: sides swapped first, then mirrored. degrees: clockwise, 0, 90, 180 or 270; of a
    mirrored frame 0 or 90."""

    swap: bool
    left_right: bool
    up_down: bool
    degrees: int

    @staticmethod
    def from_frame(frame: Any) -> Orientation:
        """From the display matrix, whose first two rows map the picture's x and y axes."""
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV cannot name some other side data, and then returns none at all
            return Orientation.from_degrees(round(-frame.rotation / 90) * 90 % 360)
        if matrix is None:
            return Orientation.from_degrees(0)
        xx, xy, _, yx, yy = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
        swap = abs(xy) > abs(xx)
        left_right, up_down = (yx < 0, xy < 0) if swap else (xx < 0, yy < 0)
        for degrees in (0, 90, 180, 270):
            if Orientation(swap, left_right, up_down, degrees) == Orientation.from_degrees(degrees):
                return Orientation.from_degrees(degrees)
        return Orientation(swap, left_right, up_down, 90 if swap else 0)

    @staticmethod
    def from_degrees(degrees: int) -> Orientation:
        return Orientation(degrees in (90, 270), degrees in (90, 180), degrees in (180, 270), degrees)

    def apply(self, pixels: Pixels) -> Pixels:
        if self.swap:
            pixels = pixels.transpose(1, 0, 2)
        if self.left_right:
            pixels = pixels[:, ::-1]
        if self.up_down:
            pixels = pixels[::-1]
        return pixels
