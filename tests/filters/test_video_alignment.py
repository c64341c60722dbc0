import pyarrow as pa
import pytest

from filters.alignment import AlignmentThresholds
from filters.rules import Judgement
from filters.video_alignment import VideoAlignmentFilter


def judge(signals: pa.Table, settings: AlignmentThresholds) -> Judgement:
    return VideoAlignmentFilter(settings).judge(signals.append_column("modality", pa.repeat("video", signals.num_rows)))


def test_its_own_column_and_modality() -> None:
    scores = pa.array([0.3, 0.1, None], pa.float64())
    table = pa.table({"video_alignment.score": scores, "alignment.score": [0.0, 0.9, 0.9]})
    verdicts = judge(table, AlignmentThresholds(min_score=0.2))
    assert verdicts.passed.tolist() == [True, False, False]
    assert verdicts.reason.tolist() == ["", "low_score", "missing"]
    assert VideoAlignmentFilter.modalities == {"video"}


def test_settings_without_a_limit_are_refused() -> None:
    with pytest.raises(ValueError, match="min_score"):
        judge(pa.table({"video_alignment.score": [0.3]}), AlignmentThresholds())


def test_there_is_no_default_threshold() -> None:
    assert VideoAlignmentFilter().default_min_score("ViT-B-32-quickgelu", "openai") is None
