"""Whether a picture shows anything: how far its colours spread, and whether neighbouring regions are alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from annotators.interface import Column, FrameAnnotator
from infra.config import Strict
from infra.media.interface import VISUAL, FramePlan, Frames
from infra.media.pixels import fit_size, resize


class BlankSettings(Strict):
    """frames: of a video, spread evenly. size: long side in pixels of the picture whose colours are measured. Both are
    ours: at 128 pixels small writing on a slide still changes the colours."""

    frames: int = Field(default=4, ge=1, le=64)
    size: int = Field(default=128, ge=32, le=1024)


class Blank(FrameAnnotator):
    """Black, white and one-colour pictures have no spread, noise no smoothness. Of several frames the largest counts,
    so that a video that begins in the dark is not blank.

    Smoothness is measured on the picture shrunk to a half and to a quarter of `size`, and the larger counts: noise with
    coarse grains or after JPEG is smooth at full size only, writing and patterns are at one of the two.
    """

    name = "blank"
    VERSION = 2
    keyed_by = "media"
    modalities = frozenset(VISUAL)
    columns: ClassVar[Mapping[str, Column]] = {
        "spread": Column(
            pa.float64(),
            "standard deviation of the channel that varies most, in levels of 0 to 255, largest of the frames",
        ),
        "smoothness": Column(
            pa.float64(),
            "correlation of neighbouring pixels in small, near 0 for noise, 1 for one colour, largest of the frames",
        ),
    }
    settings: BlankSettings

    @property
    def plan(self) -> FramePlan:
        return FramePlan(times="uniform", size=self.settings.size, fit="long", count=self.settings.frames)

    def measure_one(self, sample: Mapping[str, Any], content: Frames) -> Mapping[str, Any]:
        spreads = [float(picture.std(axis=(0, 1)).max()) for picture in content.pictures]
        # Plain frames say nothing about noise.
        shown = [picture for picture, spread in zip(content.pictures, spreads, strict=True) if spread > 0]
        sides = self.settings.size // 2, self.settings.size // 4
        smoothness = max(
            (measure_smoothness(shrink(picture, side)) for picture in shown for side in sides), default=1.0
        )
        return {"spread": round(max(spreads), 6), "smoothness": round(smoothness, 6)}


def shrink(picture: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """The picture (h, w, 3) with a long side of at most `side` pixels."""
    height, width = picture.shape[:2]
    return resize(picture, *fit_size(width, height, side, "long")).astype(np.float64)


def measure_smoothness(picture: NDArray[np.float64]) -> float:
    """Correlation, at most 1, of the pixels of (h, w, 3) with their neighbours below and to the right; 1 where all are
    equal or there are no neighbours. Noise gives about 0, photographs of 64 pixels more than 0.7."""
    squares = [(np.diff(picture, axis=axis) ** 2).mean() for axis in (0, 1) if picture.shape[axis] > 1]
    variance = float(picture.var(axis=(0, 1)).mean())
    return 1.0 - float(np.mean(squares)) / (2 * variance) if squares and variance > 0 else 1.0
