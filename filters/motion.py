"""Does it move, and not too wildly? Static pictures dressed as videos and strobing or shaking ones teach no events.

Thresholds are in frame diagonals a second; those of other tools are in other units and do not carry over.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from filters.interface import Judgement, missing, numbers
from infra.config import Strict
from infra.media import Modality

READS = ("motion.score",)
MODALITIES: frozenset[Modality] = frozenset({"video"})


class Settings(Strict):
    """min_score, max_score: diagonals a second, both ends pass; max_score None: no upper end.

    The default min_score is ours. Calibrated on H.264 (x264, CRF 23) made from photographs, 480x360, 25 fps: perfectly
    still clips score up to 0.00001, still ones under sensor noise (sigma 3 of 255) up to 0.0002 and under flicker of
    0.3 % up to 0.0004; a subject of 5 % of the area crossing at 5 % of the width a second scores 0.001, at 10 %
    0.0027, a pan of 1 % of the width a second 0.003 to 0.006, of 2 % 0.008 to 0.013. Not told apart: flicker of 0.6 %
    and more (0.0015 to 0.012 in still clips) passes as motion, and that subject at 2 % a second (0.0002) as none.
    """

    min_score: float = Field(default=0.0007, ge=0)
    max_score: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _has_room(self) -> Settings:
        if self.max_score is not None and self.max_score < self.min_score:
            raise ValueError(f"max_score {self.max_score:g} is below min_score {self.min_score:g}: nothing would pass")
        return self


def judge(signals: pa.Table, settings: Settings) -> Judgement:
    """Reasons: "static" below min_score, "frantic" above max_score, "missing" where there is no score."""
    value = numbers(signals, READS[0])
    lost = missing(signals, READS)
    ceiling = np.inf if settings.max_score is None else settings.max_score
    frantic = value > ceiling
    passed = ~lost & (value >= settings.min_score) & ~frantic
    reason = np.where(passed, "", np.where(lost, "missing", np.where(frantic, "frantic", "static")))
    return Judgement(passed, value, np.where(frantic, ceiling, settings.min_score), reason)
