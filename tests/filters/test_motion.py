import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.motion import MotionFilter, MotionThresholds
from filters.rules import Judgement


def judge(signals: pa.Table, settings: MotionThresholds) -> Judgement:
    return MotionFilter(settings).judge(signals.append_column("modality", pa.repeat("video", signals.num_rows)))


def signals(scores: list[float | None]) -> pa.Table:
    return pa.table({"motion.score": pa.array(scores, pa.float64())})


def test_both_bounds_pass_and_failures_name_the_violated_bound() -> None:
    verdict = judge(signals([0.0099, 0.01, 0.2, 0.2001]), MotionThresholds(min_score=0.01, max_score=0.2))
    assert verdict.passed.tolist() == [False, True, True, False]
    assert verdict.reason.tolist() == ["static", "", "", "frantic"]
    assert verdict.threshold.tolist() == [0.01, 0.01, 0.01, 0.2]
    assert verdict.numbers.tolist() == [0.0099, 0.01, 0.2, 0.2001]


def test_no_score_never_passes() -> None:
    verdict = judge(signals([None, math.nan]), MotionThresholds(min_score=0.0))
    assert not verdict.passed.any()
    assert verdict.reason.tolist() == ["missing", "missing"]
    assert np.isnan(verdict.numbers).all()


def test_empty_chunk() -> None:
    assert len(judge(signals([]), MotionThresholds()).passed) == 0


def test_without_a_maximum_nothing_is_frantic() -> None:
    assert judge(signals([1e9, math.inf]), MotionThresholds()).passed.all()


@pytest.mark.parametrize("bad", [{"min_score": -1.0}, {"min_score": math.nan}, {"max_score": -0.1}, {"minimum": 0.1}])
def test_settings_are_strict(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        MotionThresholds(**bad)


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_score"):
        MotionThresholds(min_score=0.5, max_score=0.1)


scores = st.lists(st.none() | st.floats(0, 2) | st.just(math.nan), max_size=20)


@given(scores, st.floats(0, 1), st.none() | st.floats(1, 2))
def test_agrees_with_the_rule_row_by_row(values: list[float | None], low: float, high: float | None) -> None:
    verdict = judge(signals(values), MotionThresholds(min_score=low, max_score=high))
    for score, passed, reason in zip(values, verdict.passed, verdict.reason, strict=True):
        measured = score is not None and not math.isnan(score)
        assert passed == (measured and score >= low and (high is None or score <= high))
        assert (reason == "") == passed
        assert (reason == "missing") == (not measured)
