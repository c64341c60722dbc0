import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.alignment import PUBLISHED_THRESHOLDS, AlignmentFilter, AlignmentThresholds
from filters.rules import Judgement, quantile_threshold


def judge(signals: pa.Table, settings: AlignmentThresholds) -> Judgement:
    return AlignmentFilter(settings).judge(signals.append_column("modality", pa.repeat("image", signals.num_rows)))


def table(scores: list[float | None]) -> pa.Table:
    return pa.table({"alignment.score": pa.array(scores, pa.float64())})


def test_low_score_and_missing() -> None:
    verdicts = judge(table([0.28, 0.279999, None, math.nan]), AlignmentThresholds(min_score=0.28))
    assert verdicts.passed.tolist() == [True, False, False, False]
    assert verdicts.reason.tolist() == ["", "low_score", "missing", "missing"]
    assert verdicts.numbers.tolist()[:2] == [0.28, 0.279999]
    assert verdicts.threshold.tolist()[:2] == [0.28, 0.28]


def test_zero_is_a_threshold() -> None:
    assert judge(table([-0.1, 0.0]), AlignmentThresholds(min_score=0.0)).passed.tolist() == [False, True]


def test_a_threshold_belongs_to_weights() -> None:
    assert AlignmentFilter().default_min_score("ViT-B-32-quickgelu", "openai") == 0.28
    assert AlignmentFilter().default_min_score("ViT-B-32-quickgelu", "/somewhere/own.pt") is None
    assert all(-1 <= threshold <= 1 for threshold in PUBLISHED_THRESHOLDS.values())
    with pytest.raises(ValueError, match="min_score or keep_top"):
        judge(table([0.5]), AlignmentThresholds())


def test_settings_are_one_limit() -> None:
    for wrong in ({"min_score": 0.2, "keep_top": 0.3}, {"keep_top": 0.0}, {"min_score": 28.0}, {"min": 0.2}):
        with pytest.raises(ValidationError):
            AlignmentThresholds(**wrong)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.none() | st.floats(-1, 1), min_size=1, max_size=15), st.floats(0.05, 1))
def test_a_share_passes_all_until_its_score_is_known(scores: list[float | None], share: float) -> None:
    asked = AlignmentThresholds(keep_top=share)
    measured = [score is not None for score in scores]
    assert judge(table(scores), asked).passed.tolist() == measured
    values = np.array([math.nan if score is None else score for score in scores])
    min_score = quantile_threshold(values, share)
    cut = AlignmentFilter(asked).with_settings(min_score=min_score, keep_top=None).settings
    verdicts = judge(table(scores), cut)
    assert verdicts.passed.sum() >= share * sum(measured) - 1e-9
    order = np.argsort(values)
    again = judge(table([scores[i] for i in order]), cut)
    assert again.passed.tolist() == verdicts.passed[order].tolist()
