"""Whether a picture shows anything: how far its colours spread, and whether neighbouring pixels are alike."""

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


class BlankSettings(Strict):
    """frames: of a video, spread evenly. size: long side of a picture in pixels. Both are ours: at 128 pixels noise is
    still noise, and small writing on a slide still changes the colours."""

    frames: int = Field(default=4, ge=1, le=64)
    size: int = Field(default=128, ge=32, le=1024)


class Blank(FrameAnnotator):
    """Black, white and one-colour pictures have no spread, noise no smoothness. Of several frames the largest counts,
    so that a video that begins in the dark is not blank."""

    name = "blank"
    keyed_by = "media"
    modalities = frozenset(VISUAL)
    columns: ClassVar[Mapping[str, Column]] = {
        "spread": Column(
            pa.float64(),
            "standard deviation of the channel that varies most, in levels of 0 to 255, largest of the frames",
        ),
        "smoothness": Column(
            pa.float64(),
            "correlation of neighbouring pixels, near 0 for noise, 1 for a plain picture, largest of the frames",
        ),
    }
    settings: BlankSettings

    @property
    def plan(self) -> FramePlan:
        return FramePlan(times="uniform", size=self.settings.size, fit="long", count=self.settings.frames)

    def measure_one(self, sample: Mapping[str, Any], content: Frames) -> Mapping[str, Any]:
        pictures = [picture.astype(np.float64) for picture in content.pixels]
        spreads = [float(picture.std(axis=(0, 1)).max()) for picture in pictures]
        # Plain frames say nothing about noise.
        shown = [picture for picture, spread in zip(pictures, spreads, strict=True) if spread > 0]
        smoothness = max((measure_smoothness(picture) for picture in shown), default=1.0)
        return {"spread": round(max(spreads), 6), "smoothness": round(smoothness, 6)}


def measure_smoothness(picture: NDArray[np.float64]) -> float:
    """Correlation, at most 1, of the pixels of (h, w, 3) with their neighbours below and to the right; 1 where all are
    equal or there are no neighbours. Noise gives about 0, photographs more than 0.7."""
    squares = [(np.diff(picture, axis=axis) ** 2).mean() for axis in (0, 1) if picture.shape[axis] > 1]
    variance = float(picture.var(axis=(0, 1)).mean())
    return 1.0 - float(np.mean(squares)) / (2 * variance) if squares and variance > 0 else 1.0
