"""Does the caption describe the whole video? The second, dearer look after `alignment` saw one frame, in the order
of Llama 3 (arXiv 2407.21783, section 7.1); model and cut-off are unpublished."""

from __future__ import annotations

import pyarrow as pa

from filters import alignment
from filters.alignment import AlignmentThresholds as AlignmentThresholds
from filters.alignment import quantile_threshold as quantile_threshold
from filters.alignment import with_threshold as with_threshold
from filters.interface import Judgement

READS = ("video_alignment.score",)
MODALITIES = frozenset({"video"})


def default_threshold(model: str, pretrained: str) -> float | None:
    """None: no threshold for pooled frames or a video–text model is published; the config must give its own."""
    return None


def judge(signals: pa.Table, settings: AlignmentThresholds) -> Judgement:
    """value is the score over the video's frames, threshold min_score; reason "low_score", or "missing"."""
    return alignment.judge_score(signals, READS[0], settings)


Settings = AlignmentThresholds
