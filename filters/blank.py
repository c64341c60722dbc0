"""Does the picture show anything? Black, white, one-colour pictures and noise go; no paper publishes such a rule."""

from __future__ import annotations

from pydantic import Field

from filters.interface import Filter, Threshold
from infra.config import Strict
from infra.media.interface import VISUAL


class BlankThresholds(Strict):
    """min_spread: standard deviation, in levels of 0 to 255, of the channel that varies most. min_smoothness:
    correlation of neighbouring pixels in small. Both are ours. Nearly empty slides pass, and nearly all photographs
    darkened to a tenth; at a fiftieth, with levels up to 5, they are black to the eye and go. A sky of nothing but
    stars goes as noise."""

    min_spread: float | None = Field(default=2.0, ge=0, le=255)
    min_smoothness: float | None = Field(default=0.3, ge=-1, le=1)


class BlankFilter(Filter):
    """Reasons: "one_colour" (black, white or any other), "noise", or "missing"."""

    name = "blank"
    modalities = frozenset(VISUAL)
    thresholds = (
        Threshold("min_spread", "blank.spread", "min", "one_colour"),
        Threshold("min_smoothness", "blank.smoothness", "min", "noise"),
    )
    settings: BlankThresholds
