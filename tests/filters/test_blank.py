from __future__ import annotations

import pyarrow as pa
import pytest

from filters.blank import BlankFilter


@pytest.mark.parametrize(
    ("spread", "smoothness", "reason"),
    [
        (0.0, 1.0, "one_colour"),
        (1.99, 0.9, "one_colour"),
        (2.0, 0.3, ""),
        (60.0, 0.29, "noise"),
        (60.0, 0.9, ""),
        (70.0, 0.01, "noise"),
        (None, 0.9, "missing"),
    ],
)
def test_reasons(spread: float | None, smoothness: float, reason: str) -> None:
    signals = pa.table(
        {"modality": ["image"], "blank.spread": pa.array([spread], pa.float64()), "blank.smoothness": [smoothness]}
    )
    judgement = BlankFilter().judge(signals)
    assert (bool(judgement.passed[0]), judgement.reason[0]) == (reason == "", reason)
