"""Does the caption describe what is seen? Llama 3 drops pairs with a low contrastive score (arXiv 2407.21783, section
7.1), for videos one frame first; model and cut-off are unpublished."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa
from pydantic import Field, model_validator

from filters.interface import Judgement, missing, numbers
from filters.rules import Rule, first_broken
from filters.rules import quantile_threshold as quantile_threshold
from infra.config import Strict

READS = ("alignment.score",)
MODALITIES = frozenset({"image", "multi_image", "video"})

#: (open_clip model, pretrained tag) -> raw cosine to keep. A threshold means nothing under other weights.
#: 0.28 is LAION-2B's rule for English pairs as DataComp reproduces it (arXiv 2304.14108), on OpenAI's ViT-B/32 scores.
THRESHOLDS: dict[tuple[str, str], float] = {
    ("ViT-B-32", "openai"): 0.28,
    ("ViT-B-32-quickgelu", "openai"): 0.28,
}


class AlignmentThresholds(Strict):
    """min_score: least raw cosine (not the 100-fold logit); it belongs to one model's weights, see THRESHOLDS.
    keep_top: share (0..1] of the scored rows to keep, in place of min_score. It needs all scores at once, so no
    measuring stops at it: until `with_threshold` has filled in its value, every scored row passes.
    modalities: which are asked; a model may know single pictures and no albums."""

    modalities: tuple[Literal["image", "multi_image", "video"], ...] = ("image", "multi_image", "video")
    min_score: float | None = Field(default=None, ge=-1, le=1)
    keep_top: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _one(self) -> AlignmentThresholds:
        if self.min_score is not None and self.keep_top is not None:
            raise ValueError("min_score and keep_top are two ways to set one limit: give one of them")
        return self


def default_threshold(model: str, pretrained: str) -> float | None:
    """The published threshold of these weights; None where there is none and the config must give its own."""
    return THRESHOLDS.get((model, pretrained))


def with_threshold(settings: AlignmentThresholds, min_score: float) -> AlignmentThresholds:
    """`settings` with its share replaced by the score that the share came to (`quantile_threshold`)."""
    return settings.model_copy(update={"min_score": min_score, "keep_top": None})


def judge(signals: pa.Table, settings: AlignmentThresholds) -> Judgement:
    """value is the score, threshold min_score; reason "low_score", or "missing"."""
    return judge_score(signals, READS[0], settings)


def judge_score(signals: pa.Table, column: str, settings: AlignmentThresholds) -> Judgement:
    """Keep rows whose `column` is at least min_score. Raises ValueError when the settings hold no limit at all."""
    if settings.min_score is None and settings.keep_top is None:
        raise ValueError("a filter on scores needs min_score or keep_top; the weights in use have no default")
    # A share that is not yet known drops nothing; rounding may put a cosine a hair below -1.
    limit = -2.0 if settings.min_score is None else settings.min_score
    return first_broken([Rule("low_score", numbers(signals, column), "min", limit)], missing(signals, (column,)))


Settings = AlignmentThresholds
