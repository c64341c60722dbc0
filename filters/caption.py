"""Is there a caption? A medium without one is no example of language."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.interface import Filter
from filters.rules import Rule
from infra.columns import to_floats
from infra.config import Strict
from infra.media.interface import VISUAL


class CaptionThresholds(Strict):
    """No thresholds; a source whose media may lack captions sets `captions: optional`."""


class CaptionFilter(Filter):
    """value is the number of characters of clean text, threshold 1; reason "no_caption", or "missing"."""

    name = "caption"
    modalities = frozenset(VISUAL)
    required = ("clean.text",)
    settings: CaptionThresholds

    def rules(self, signals: pa.Table, modality: NDArray[Any]) -> Iterator[Rule]:
        yield Rule("no_caption", to_floats(pc.utf8_length(signals["clean.text"])), "min", 1)
