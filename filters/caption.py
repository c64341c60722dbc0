"""Is there a caption at all? A medium without one teaches nothing about language."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.interface import Judgement, missing, numbers
from filters.rules import Rule, first_broken
from infra.config import Strict

READS = ("clean.text",)
MODALITIES = frozenset({"video", "image", "multi_image"})


class Settings(Strict):
    """optional: media without caption are no fault. optional_sources: the same for these sources only (those whose
    `captions` are optional in the config); needs the column `source` beside the signals."""

    optional: bool = False
    optional_sources: tuple[str, ...] = ()


def judge(signals: pa.Table, settings: Settings) -> Judgement:
    """value is the number of characters of clean text, threshold 1 (0 where optional); reason "no_caption"."""
    lengths = pc.utf8_length(signals["clean.text"])
    chars = numbers(pa.table({"chars": lengths}), "chars")
    lost = missing(signals, READS)
    result = first_broken([Rule("no_caption", chars, "min", 1)], lost)
    optional = np.full(len(lost), settings.optional)
    if settings.optional_sources:
        optional |= pc.is_in(signals["source"], pa.array(settings.optional_sources)).to_numpy(zero_copy_only=False)
    excused = optional & ~lost
    return Judgement(
        result.passed | excused,
        result.value,
        np.where(excused, 0.0, result.threshold),
        np.where(excused, "", result.reason),
    )
