import pyarrow as pa
import pytest

from filters.video_alignment import MODALITIES, AlignmentThresholds, default_threshold, judge


def test_its_own_column_and_modality() -> None:
    scores = pa.array([0.3, 0.1, None], pa.float64())
    table = pa.table({"video_alignment.score": scores, "alignment.score": [0.0, 0.9, 0.9]})
    result = judge(table, AlignmentThresholds(min_score=0.2))
    assert result.passed.tolist() == [True, False, False]
    assert result.reason.tolist() == ["", "low_score", "missing"]
    assert {"video"} == MODALITIES


def test_no_limit_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="min_score"):
        judge(pa.table({"video_alignment.score": [0.3]}), AlignmentThresholds())


def test_no_threshold_is_made_up() -> None:
    assert default_threshold("ViT-B-32", "openai") is None
