import pyarrow as pa

from filters.caption import CaptionFilter


def test_no_caption_and_missing() -> None:
    texts = pa.array(["a dog", "", None], pa.string())
    verdicts = CaptionFilter().judge(pa.table({"clean.text": texts, "modality": ["image"] * 3}))
    assert verdicts.passed.tolist() == [True, False, False]
    assert verdicts.reason.tolist() == ["", "no_caption", "missing"]
    assert verdicts.numbers.tolist()[:2] == [5.0, 0.0]
    assert verdicts.threshold.tolist()[:2] == [1.0, 1.0]


def test_text_documents_have_no_medium() -> None:
    assert CaptionFilter.modalities == {"video", "image", "multi_image"}
