"""Does the caption describe the picture? Llama 3 drops pairs with a low contrastive score (arXiv 2407.21783, section
7.1), for videos first by one frame; model and cut-off are unpublished."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from filters.interface import Filter, Threshold
from filters.rules import Rule
from infra.config import Strict
from infra.media.interface import VISUAL

#: (open_clip model, pretrained tag) -> raw cosine to keep. A threshold means nothing under other weights.
#: 0.28 is LAION-2B's rule for English pairs as DataComp reproduces it (arXiv 2304.14108), on OpenAI's ViT-B/32 scores.
PUBLISHED_THRESHOLDS: dict[tuple[str, str], float] = {
    ("ViT-B-32-quickgelu", "openai"): 0.28,
}


class AlignmentThresholds(Strict):
    """min_score: minimum raw cosine (not the 100-fold logit); it belongs to one model's weights (PUBLISHED_THRESHOLDS).
    keep_top: share (0..1] of the scored rows to keep, instead of min_score. It needs all scores at once, so the
    cascade does not stop at it: until min_score is computed from it, every scored row passes.
    modalities: those to judge; a model may be unfit for albums."""

    modalities: tuple[Literal["image", "multi_image", "video"], ...] = ("image", "multi_image", "video")
    min_score: float | None = Field(default=None, ge=-1, le=1)
    keep_top: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _check_single_limit(self) -> AlignmentThresholds:
        if self.min_score is not None and self.keep_top is not None:
            raise ValueError("min_score and keep_top are two ways to set one limit: set only one of them")
        return self


class AlignmentFilter(Filter):
    """value is the score, threshold min_score; reason "low_score", or "missing".

    Raises ValueError when judging with neither min_score nor keep_top.
    """

    name = "alignment"
    modalities = frozenset(VISUAL)
    thresholds = (Threshold("min_score", "alignment.score", "min", "low_score"),)
    settings: AlignmentThresholds

    @property
    def needs_min_score(self) -> bool:
        return self.settings.min_score is None and self.settings.keep_top is None

    def default_min_score(self, model: str, weights: str) -> float | None:
        return PUBLISHED_THRESHOLDS.get((model, weights))

    def rules(self, signals: pa.Table, modality: NDArray[Any]) -> Iterator[Rule]:
        if self.settings.min_score is not None:
            yield from super().rules(signals, modality)
        elif self.needs_min_score:
            raise ValueError(f"filters.{self.name} needs min_score or keep_top; the weights in use have no default")
        else:  # drops nothing yet; rounding may give a cosine slightly below -1
            yield Rule("low_score", self.thresholds[0].numbers(signals), "min", -2.0)
