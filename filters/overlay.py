"""Is too much of the picture covered by burned-in text? Drops videos with excessive overlaid text, as the Llama 3
video pipeline does (arXiv 2407.21783, section 7.1); its limit is unpublished."""

from __future__ import annotations

from pydantic import Field

from filters.interface import Filter, Threshold
from infra.config import Strict


class OverlayThresholds(Strict):
    """max_area: largest share of the picture (0..1, mean over the frames read) that burned-in text may cover.
    The default is ours: a corner logo passes, a line of subtitles shown throughout does not."""

    max_area: float = Field(default=0.01, ge=0, le=1)


class OverlayFilter(Filter):
    """value is the area, threshold max_area; reason "overlay_text", or "missing" where there is no area."""

    name = "overlay"
    modalities = frozenset({"video"})
    thresholds = (Threshold("max_area", "overlay.area", "max", "overlay_text"),)
    histograms = ("overlay.area", "overlay.text_area")
    settings: OverlayThresholds
