import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from filters.overlay import OverlayFilter, OverlayThresholds
from filters.rules import Judgement


def _judge(values: list[float | None], **settings: float) -> Judgement:
    signals = pa.table(
        {"overlay.area": pa.array(values, pa.float64()), "modality": pa.array(["video"] * len(values), pa.string())}
    )
    return OverlayFilter(OverlayThresholds.model_validate(settings)).judge(signals)


def test_a_video_passes_up_to_the_limit_and_fails_closed() -> None:
    got = _judge([0.0, 0.05, 0.050001, None, float("nan")], max_area=0.05)
    assert got.passed.tolist() == [True, True, False, False, False]
    assert got.reason.tolist() == ["", "", "overlay_text", "missing", "missing"]
    assert got.threshold.tolist() == [0.05] * 5
    assert got.numbers[:3].tolist() == [0.0, 0.05, 0.050001]
    assert np.isnan(got.numbers[3:]).all()


def test_no_rows() -> None:
    assert len(_judge([]).passed) == 0


@given(st.lists(st.floats(0, 1), max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_looser_limit_keeps_all_that_a_tighter_one_kept(areas: list[float], a: float, b: float) -> None:
    tight, loose = _judge(list(areas), max_area=min(a, b)), _judge(list(areas), max_area=max(a, b))
    assert (loose.passed | ~tight.passed).all()


def test_a_share_outside_0_and_1_is_refused() -> None:
    with pytest.raises(ValidationError):
        OverlayThresholds(max_area=5)
