"""Is too much of the picture covered by burned-in text? Drops videos with excessive overlaid text, as the Llama 3
video pipeline does (arXiv 2407.21783, section 7.1); its limit is unpublished."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field

from filters.interface import Judgement, numbers
from infra.config import Strict

READS = ("overlay.area",)
MODALITIES = frozenset({"video"})


class OverlayThresholds(Strict):
    """max_area: largest share of the picture (0..1, mean over the frames read) that burned-in text may cover.
    The default is ours: a corner logo passes, a line of subtitles that stays does not."""

    max_area: float = Field(default=0.01, ge=0, le=1)


def judge(signals: pa.Table, settings: OverlayThresholds) -> Judgement:
    """value is the area, threshold max_area; reason "overlay_text", or "missing" where there is no area."""
    area = numbers(signals, READS[0])
    passed = area <= settings.max_area
    reason = np.where(passed, "", np.where(np.isnan(area), "missing", "overlay_text"))
    return Judgement(passed, area, np.full(len(area), settings.max_area), reason)


Settings = OverlayThresholds
