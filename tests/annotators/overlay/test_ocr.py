import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from annotators.overlay import ocr
from infra.errors import ConfigError, MissingExtra

SETTINGS = ocr.OcrSettings()


def _page(text: str) -> np.ndarray:
    page = np.full((90, 400, 3), 40, np.uint8)
    cv2.putText(page, text, (20, 55), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 240, 90), 2, cv2.LINE_AA)
    return page


@pytest.fixture
def engine() -> Iterator[ocr.Engine]:
    with ocr.borrow(SETTINGS) as engine:
        yield engine


def test_rapidocr_finds_a_line_and_reads_it(engine: ocr.Engine) -> None:
    (region,) = engine.find(_page("Hello World"))
    assert region.quad.shape == (4, 2) and 0.5 < region.score <= 1
    low, high = region.quad.min(axis=0), region.quad.max(axis=0)
    assert low[0] < 40 and low[1] < 40 and high[0] > 180 and high[1] > 50
    text, score = engine.read(_page("Hello World")[20:70])
    assert text.replace(" ", "") == "HelloWorld" and score > 0.9


def test_finding_after_reading_still_finds(engine: ocr.Engine) -> None:
    """The engine's switches stay set from call to call; each of ours must set them all."""
    before = engine.find(_page("One two"))
    engine.read(_page("One two"))
    after = engine.find(_page("One two"))
    assert len(before) == len(after) == 1 and np.array_equal(before[0].quad, after[0].quad)


def test_nothing_to_find_or_read(engine: ocr.Engine) -> None:
    assert engine.find(np.zeros((60, 80, 3), np.uint8)) == []
    assert engine.read(np.zeros((12, 40, 3), np.uint8))[0] == ""


def test_an_engine_serves_one_thread_at_a_time_and_then_the_next() -> None:
    engines: list[ocr.Engine] = []

    def use() -> None:
        with ocr.borrow(ocr.OcrSettings()) as engine:
            engines.append(engine)

    with ocr.borrow(SETTINGS) as own:
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
    use()
    assert engines[0] is not own and engines[1] is own


def test_weights_have_names_and_hashes(tmp_path: Path) -> None:
    hashes = ocr.weights_sha256(SETTINGS)
    assert set(hashes) == {"det", "rec"} and all(len(h) == 64 for h in hashes.values())
    (tmp_path / "a.onnx").write_bytes(b"\x08\x08\x3a\x00")  # a version and an empty graph
    replaced = ocr.weights_sha256(ocr.OcrSettings(det_model=str(tmp_path / "a.onnx")))
    assert replaced["det"] != hashes["det"] and replaced["rec"] == hashes["rec"]
    with pytest.raises(ConfigError, match=r"rec_model does not exist: .*b\.onnx"):
        ocr.weights(ocr.OcrSettings(rec_model=str(tmp_path / "b.onnx")))
    with pytest.raises(ConfigError, match=r"det_model is not an .onnx file, which engine rapidocr reads"):
        ocr.weights(ocr.OcrSettings(det_model=str(tmp_path)))


def test_an_engine_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "paddleocr", raising=False)
    paddle = ocr.OcrSettings(engine="paddle", det_model="d", rec_model="r")
    with pytest.raises(MissingExtra) as caught, ocr.borrow(paddle):
        pass
    assert "[paddle]" in str(caught.value)
