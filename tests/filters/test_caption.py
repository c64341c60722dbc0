import pyarrow as pa

from filters.caption import MODALITIES, Settings, judge


def signals() -> pa.Table:
    texts = pa.array(["a dog", "", None], pa.string())
    return pa.table({"clean.text": texts, "source": ["web", "web", "web"]})


def test_no_caption_and_missing() -> None:
    result = judge(signals(), Settings())
    assert result.passed.tolist() == [True, False, False]
    assert result.reason.tolist() == ["", "no_caption", "missing"]
    assert result.value.tolist()[:2] == [5.0, 0.0]
    assert result.threshold.tolist()[:2] == [1.0, 1.0]


def test_optional_captions_excuse_the_empty_not_the_missing() -> None:
    for settings in (Settings(optional=True), Settings(optional_sources=("web",))):
        assert judge(signals(), settings).reason.tolist() == ["", "", "missing"]
        assert judge(signals(), settings).passed.tolist() == [True, True, False]
    assert judge(signals(), Settings(optional_sources=("other",))).reason.tolist() == ["", "no_caption", "missing"]


def test_text_documents_have_no_medium() -> None:
    assert {"video", "image", "multi_image"} == MODALITIES
