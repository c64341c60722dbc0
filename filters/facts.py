"""Is the medium of a usable size, shape, length and rate?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from filters.interface import Filter, Floats, Threshold
from filters.rules import Rule
from infra.columns import equals, is_null, to_floats, to_mask
from infra.config import Strict
from infra.media.interface import VISUAL

_VIDEO = frozenset({"video"})


class FactsThresholds(Strict):
    """All optional; null: not applied.

    min_side: shorter side in stored pixels, and max_aspect: longer by shorter side of the picture as it is shown, with
    pixels that aren't square. 200 and 3 are DataComp's basic filter for images (arXiv 2304.14108). Llama 3 (arXiv
    2407.21783) filters its videos by neither and reports 320p to 4K, nearly all between 1:2 and 2:1, more than 99 %
    under a minute; settings like these are min_side 320, max_aspect 2, max_duration 60. max_pixels, min_duration,
    max_duration (seconds), min_fps and codecs (names as FFmpeg gives them) are off. Duration, rate and codec apply to
    videos only.
    """

    min_side: int | None = Field(default=200, ge=1)
    max_aspect: float | None = Field(default=3.0, ge=1)
    max_pixels: int | None = Field(default=None, ge=1)
    min_duration: float | None = Field(default=None, ge=0)
    max_duration: float | None = Field(default=None, ge=0)
    min_fps: float | None = Field(default=None, ge=0)
    codecs: tuple[str, ...] | None = None


def shorter_side(signals: pa.Table) -> Floats:
    """float64 (n,): pixels."""
    return np.minimum(*_sides(signals))


def aspect(signals: pa.Table) -> Floats:
    """float64 (n,): longer by shorter side as shown, infinite for a medium without extent."""
    width, height = _sides(signals)
    width = width * to_floats(signals["facts.pixel_aspect"])
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    no_ratio = np.where(np.isnan(shorter), np.nan, np.inf)
    return np.divide(longer, shorter, out=no_ratio, where=shorter > 0)


def pixels(signals: pa.Table) -> Floats:
    """float64 (n,): width times height."""
    return np.multiply(*_sides(signals))


def _sides(signals: pa.Table) -> tuple[Floats, Floats]:
    return to_floats(signals["facts.width"]), to_floats(signals["facts.height"])


class FactsFilter(Filter):
    """Reasons in order: too_small, too_wide, too_large, too_brief, too_lengthy, too_few_frames, codec (value 0,
    threshold 1: a name has no number); "missing" where a fact that a threshold needs was not measured."""

    name = "facts"
    modalities = frozenset(VISUAL)
    thresholds = (
        Threshold("min_side", "facts.width", "min", "too_small", compute=shorter_side),
        Threshold("max_aspect", "facts.width", "max", "too_wide", compute=aspect),
        Threshold("max_pixels", "facts.width", "max", "too_large", compute=pixels),
        Threshold("min_duration", "facts.duration", "min", "too_brief", _VIDEO),
        Threshold("max_duration", "facts.duration", "max", "too_lengthy", _VIDEO),
        Threshold("min_fps", "facts.fps", "min", "too_few_frames", _VIDEO),
    )
    required = ("facts.width", "facts.height", "facts.pixel_aspect")
    reads = ("facts.codec",)
    histograms = ("facts.duration", "facts.width", "facts.height", "facts.aspect", "facts.fps")
    settings: FactsThresholds

    def rules(self, signals: pa.Table, modality: NDArray[Any]) -> Iterator[Rule]:
        yield from super().rules(signals, modality)
        if self.settings.codecs is not None:
            codec = signals["facts.codec"]
            is_allowed = to_mask(pc.is_in(codec, pa.array(self.settings.codecs, pa.string())))
            numbers = np.where(is_null(codec), np.nan, is_allowed)
            yield Rule("codec", numbers, "min", 1.0, equals(signals["modality"], "video"))
