"""Engines that find and read text in pictures, behind one small interface: RapidOCR, or PaddleOCR in its own
environment. Finding and reading are two calls, because reading is the dearer one and the same text seen in many
frames needs to be read once."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.config import Strict
from infra.errors import ConfigError, MissingExtra
from infra.hashing import file_sha256

#: The models inside the rapidocr package, so that nothing is fetched.
_BUNDLED = {"det": "PP-OCRv6_det_small.onnx", "rec": "PP-OCRv6_rec_small.onnx"}
_MODULES = {"rapidocr": ("rapidocr", "ocr"), "paddle": ("paddleocr", "paddle")}


@dataclass(frozen=True)
class Region:
    """Where text may be. quad: float32 (4, 2), corners (x, y) in pixels, clockwise from the text's top left;
    score: the detector's confidence, 0..1."""

    quad: NDArray[np.float32]
    score: float


class Engine(Protocol):
    """Pictures are uint8 RGB (height, width, 3). An engine is used by one thread only."""

    def find(self, picture: NDArray[np.uint8]) -> list[Region]:
        """Every place that may hold a line of text, in reading order."""

    def read(self, line: NDArray[np.uint8]) -> tuple[str, float]:
        """The text of an upright picture of one line, and its confidence in 0..1; ("", 0.0) for none."""


class OcrSettings(Strict):
    """engine: "rapidocr" (extra ocr) or "paddle" (extra paddle, an environment of its own).
    det_model, rec_model: rapidocr: .onnx files, by default those in its package; paddle: model folders, required."""

    engine: Literal["rapidocr", "paddle"] = "rapidocr"
    det_model: str | None = None
    rec_model: str | None = None


def weights(settings: OcrSettings) -> Mapping[str, Path]:
    """The files or folders of the models in use. Raises MissingExtra or ConfigError where they are not there."""
    package, extra = _MODULES[settings.engine]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingExtra(package, extra, f"text recognition with engine {settings.engine}")
    named = {"det": settings.det_model, "rec": settings.rec_model}
    if settings.engine == "paddle" and not all(named.values()):
        raise ConfigError("engine paddle needs det_model and rec_model: folders of inference models")
    bundled = Path(spec.origin).parent / "models"
    paths = {role: Path(path) if path else bundled / _BUNDLED[role] for role, path in named.items()}
    for role, path in paths.items():
        if not path.exists():
            raise ConfigError(f"{role}_model does not exist: {path}")
    return paths


def weights_sha256(settings: OcrSettings) -> Mapping[str, str]:
    """sha256 by role, or by role/file for folders."""
    hashes: dict[str, str] = {}
    for role, path in weights(settings).items():
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        hashes |= {f"{role}/{f.relative_to(path).as_posix()}" if f != path else role: file_sha256(f) for f in files}
    return hashes


_loaded = threading.local()


def load(settings: OcrSettings) -> Engine:
    """This thread's engine for `settings`, made on first use: the engines keep state between calls."""
    engines: dict[OcrSettings, Engine] = _loaded.__dict__.setdefault("engines", {})
    if settings not in engines:
        engines[settings] = RapidEngine(settings) if settings.engine == "rapidocr" else PaddleEngine(settings)
    return engines[settings]


class RapidEngine:
    """PaddleOCR's models on ONNX Runtime, one thread, at the size of the picture given."""

    def __init__(self, settings: OcrSettings) -> None:
        paths = weights(settings)
        import cv2
        from rapidocr import RapidOCR

        cv2.setNumThreads(1)
        self._ocr: Any = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.text_score": 0.0,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.model_path": str(paths["det"]),
                "Rec.model_path": str(paths["rec"]),
                # "max" never enlarges; its other mode makes small pictures three times as dear.
                "Det.limit_type": "max",
                "Det.limit_side_len": 4096,
                # The least width that a line is padded to; the default 320 makes one word as dear as a sentence.
                "Rec.rec_img_shape": [3, 48, 160],
            }
        )

    # The flags of a call stay set for the next one, so each call gives all three.

    def find(self, picture: NDArray[np.uint8]) -> list[Region]:
        result = self._ocr(_bgr(picture), use_det=True, use_cls=False, use_rec=False)
        if result.boxes is None:
            return []
        quads = np.asarray(result.boxes, np.float32)
        return [Region(quad, float(score)) for quad, score in zip(quads, result.scores, strict=True)]

    def read(self, line: NDArray[np.uint8]) -> tuple[str, float]:
        result = self._ocr(_bgr(line), use_det=False, use_cls=False, use_rec=True)
        return (result.txts[0], float(result.scores[0])) if result.txts else ("", 0.0)


class PaddleEngine:
    """PaddleOCR >= 3 with local model folders."""

    def __init__(self, settings: OcrSettings) -> None:
        paths = weights(settings)
        from paddleocr import TextDetection, TextRecognition  # type: ignore[import-not-found]

        self._det: Any = TextDetection(
            model_dir=str(paths["det"]), device="cpu", cpu_threads=1, limit_type="max", limit_side_len=4096
        )
        self._rec: Any = TextRecognition(model_dir=str(paths["rec"]), device="cpu", cpu_threads=1)

    def find(self, picture: NDArray[np.uint8]) -> list[Region]:
        result = self._det.predict(_bgr(picture), batch_size=1)[0]
        pairs = zip(result["dt_polys"], result["dt_scores"], strict=True)
        return [Region(np.asarray(quad, np.float32), float(score)) for quad, score in pairs]

    def read(self, line: NDArray[np.uint8]) -> tuple[str, float]:
        result = self._rec.predict(_bgr(line), batch_size=1)[0]
        return str(result["rec_text"]), float(result["rec_score"])


def _bgr(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture[:, :, ::-1])
