"""Is there a caption at all? A medium without one teaches nothing about language."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from filters.interface import Judgement, missing, numbers
from filters.rules import Rule, first_broken
from infra.config import Strict

READS = ("clean.text",)
MODALITIES = frozenset({"video", "image", "multi_image"})


class CaptionThresholds(Strict):
    """None: where media without caption are no fault, their source says so (`captions: optional`)."""


def judge(signals: pa.Table, settings: CaptionThresholds) -> Judgement:
    """value is the number of characters of clean text, threshold 1; reason "no_caption", or "missing"."""
    chars = numbers(pa.table({"chars": pc.utf8_length(signals["clean.text"])}), "chars")
    return first_broken([Rule("no_caption", chars, "min", 1)], missing(signals, READS))


Settings = CaptionThresholds
