"""Does the video move, and not too much? Still pictures as videos, strobing and shaking ones show no events.

Thresholds are in frame diagonals per second; those of other tools have other units and cannot be used here.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from filters.interface import Filter, Threshold
from infra.config import Strict


class MotionThresholds(Strict):
    """min_score, max_score: diagonals per second, both limits pass; max_score None: no upper limit.

    The default min_score is ours, calibrated on three photographs at 192x144, 320x240 and 640x360 and one at 1280x720,
    24 fps, in H.264, MPEG-4 part 2 (vectors), HEVC, VP9 and AV1 (flow); scores in thousandths. Perfectly still: 0, in
    MPEG-4 up to 0.4. A subject of 5 % of the area crossing at 5 % of the width per second: H.264 1.4 to 2.3, the others
    0.4 to 4; at 10 %: 2.2 and more. A pan of 0.5 % of the width per second: 1.2 and more, of 2 %: 7 and more. Grain
    (sigma 3 of 255) in a still: 0, flicker of 2 %: 0 to 0.3. Limits: in coarse HEVC flicker (up to 7), in
    coarse MPEG-4 flicker and grain (up to 37) pass as motion; that subject at 2 % per second (0.1 to 2) mostly as none.
    """

    min_score: float = Field(default=0.0007, ge=0)
    max_score: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _has_room(self) -> MotionThresholds:
        if self.max_score is not None and self.max_score < self.min_score:
            raise ValueError(f"max_score {self.max_score:g} is below min_score {self.min_score:g}: nothing would pass")
        return self


class MotionFilter(Filter):
    """Reasons: "static" below min_score, "frantic" above max_score, "missing" where there is no score."""

    name = "motion"
    modalities = frozenset({"video"})
    thresholds = (
        Threshold("min_score", "motion.score", "min", "static"),
        Threshold("max_score", "motion.score", "max", "frantic"),
    )
    settings: MotionThresholds
