"""Is the medium of a usable size, shape, length and rate?"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from filters.interface import Judgement, missing, numbers
from filters.rules import Rule, first_broken, where
from infra.config import Strict

READS = ("facts.width", "facts.height", "facts.duration", "facts.fps", "facts.codec")
MODALITIES = frozenset({"video", "image", "multi_image"})
_SIZE = READS[:2]


class FactsThresholds(Strict):
    """All optional; null: not asked.

    min_side: shorter side in pixels, and max_aspect: longer by shorter side. 200 and 3 are DataComp's basic filter
    for images (arXiv 2304.14108). Llama 3 (arXiv 2407.21783) filters its videos by neither and reports 320p to 4K,
    nearly all between 1:2 and 2:1, more than 99 % under a minute; a set like it is min_side 320, max_aspect 2,
    max_duration 60. max_pixels, min_duration, max_duration (seconds), min_fps and codecs (names as FFmpeg gives
    them) are off. Duration, rate and codec are asked of videos only.
    """

    min_side: int | None = Field(default=200, ge=1)
    max_aspect: float | None = Field(default=3.0, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)
    min_duration: float | None = Field(default=None, ge=0)
    max_duration: float | None = Field(default=None, ge=0)
    min_fps: float | None = Field(default=None, ge=0)
    codecs: tuple[str, ...] | None = None


def judge(signals: pa.Table, settings: FactsThresholds) -> Judgement:
    """Reasons in order: too_small, too_wide, too_large, too_brief, too_lengthy, too_few_frames, codec (value 0,
    threshold 1: a name has no number); "missing" where a fact that a rule asks for was not measured.
    `signals` has the column `modality` beside those in READS."""
    width, height, duration, fps = (numbers(signals, name) for name in READS[:4])
    short, long = np.minimum(width, height), np.maximum(width, height)
    aspect = np.divide(long, short, out=np.full(len(short), np.inf), where=short > 0)
    size = [
        Rule("too_small", short, "min", settings.min_side),
        Rule("too_wide", aspect, "max", settings.max_aspect),
        Rule("too_large", width * height, "max", settings.max_pixels),
    ]
    known = np.ones(len(width)) if settings.codecs is None else _among(signals, settings.codecs)
    time = [
        Rule("too_brief", duration, "min", settings.min_duration),
        Rule("too_lengthy", duration, "max", settings.max_duration),
        Rule("too_few_frames", fps, "min", settings.min_fps),
        Rule("codec", known, "min", None if settings.codecs is None else 1.0),
    ]
    needed = {
        "facts.duration": settings.min_duration is not None or settings.max_duration is not None,
        "facts.fps": settings.min_fps is not None,
        "facts.codec": settings.codecs is not None,
    }
    lost = missing(signals, _SIZE)
    lost_video = lost | missing(signals, tuple(name for name, is_needed in needed.items() if is_needed))
    is_video = np.asarray(pc.equal(signals["modality"], "video").to_numpy(), dtype=bool)
    return where(is_video, first_broken([*size, *time], lost_video), first_broken(size, lost))


def _among(signals: pa.Table, names: tuple[str, ...]) -> np.ndarray:
    found = pc.is_in(signals["facts.codec"], pa.array(names, pa.string()))
    return np.asarray(found.to_numpy(), dtype=np.float64)


Settings = FactsThresholds
