"""OCR engines behind one interface: RapidOCR, or PaddleOCR in its own environment.

Detection and recognition are separate calls: recognition is the more expensive one, and text that appears in many
frames needs to be recognised once only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from infra.config import Strict
from infra.errors import ConfigError, MissingExtra
from infra.hashing import file_sha256
from infra.pool import Pool
from infra.weights import model_files

#: The models inside the rapidocr package: nothing is downloaded.
_BUNDLED = {"det": "PP-OCRv6_det_small.onnx", "rec": "PP-OCRv6_rec_small.onnx"}
_MODULES = {"rapidocr": ("rapidocr", "ocr"), "paddle": ("paddleocr", "paddle")}


@dataclass(frozen=True)
class Region:
    """An area that may be text. quad: float32 (4, 2), corners (x, y) in pixels, clockwise from the text's top left;
    score: the detector's confidence, 0..1."""

    quad: NDArray[np.float32]
    score: float


class Engine(Protocol):
    """A text detector and recogniser, for one thread. Pictures are uint8 RGB (height, width, 3)."""

    def find(self, picture: NDArray[np.uint8]) -> list[Region]:
        """Find every area that may contain a line of text, in reading order."""

    def read(self, line: NDArray[np.uint8]) -> tuple[str, float]:
        """Return the text of an upright picture of one line and its confidence, 0..1; ("", 0.0) if there is none."""


class OcrSettings(Strict):
    """engine: "rapidocr" (extra ocr) or "paddle" (extra paddle, an environment of its own).
    det_model, rec_model: rapidocr: .onnx files, by default those in its package; paddle: model folders, required."""

    engine: Literal["rapidocr", "paddle"] = "rapidocr"
    det_model: str | None = None
    rec_model: str | None = None


def weights(settings: OcrSettings) -> Mapping[str, Path]:
    """Return the files or folders of the models in use. Raises MissingExtra or ConfigError if they are missing."""
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
        if path.is_dir() != (settings.engine == "paddle"):
            wanted = "a folder" if settings.engine == "paddle" else "an .onnx file"
            raise ConfigError(f"{role}_model is not {wanted}, which engine {settings.engine} reads: {path}")
        if path.is_file():
            model_files.check_onnx(path)
    return paths


def weights_sha256(settings: OcrSettings) -> Mapping[str, str]:
    """Return the sha256 of each model by role, or by role/file for folders."""
    hashes: dict[str, str] = {}
    for role, path in weights(settings).items():
        files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
        hashes |= {f"{role}/{f.relative_to(path).as_posix()}" if f != path else role: file_sha256(f) for f in files}
    return hashes


def borrow(settings: OcrSettings) -> AbstractContextManager[Engine]:
    """Lend an engine for a block, in one thread; it is created on first use and serves later blocks too."""
    return _engines.borrow(settings)


def _create(settings: OcrSettings) -> Engine:
    return RapidEngine(settings) if settings.engine == "rapidocr" else PaddleEngine(settings)


#: Threads: safe. Engines keep state between calls, so each thread at work has one for itself.
_engines: Pool[OcrSettings, Engine] = Pool(_create)


class RapidEngine:
    """PaddleOCR's models on ONNX Runtime, one thread, at the picture's own size."""

    def __init__(self, settings: OcrSettings) -> None:
        paths = weights(settings)
        import cv2
        from rapidocr import RapidOCR

        cv2.setNumThreads(1)  # threads: of the process, the same number wherever it is set
        self._ocr: Any = RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.text_score": 0.0,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.model_path": str(paths["det"]),
                "Rec.model_path": str(paths["rec"]),
                # "max" never enlarges; the other mode makes small pictures three times as expensive.
                "Det.limit_type": "max",
                "Det.limit_side_len": 4096,
                # The width that lines are padded to; with the default 320 a word costs as much as a sentence.
                "Rec.rec_img_shape": [3, 48, 160],
            }
        )

    # RapidOCR keeps the flags of a call for the next one, so each call passes all three.

    def find(self, picture: NDArray[np.uint8]) -> list[Region]:
        output = self._ocr(_bgr(picture), use_det=True, use_cls=False, use_rec=False)
        if output.boxes is None:
            return []
        quads = np.asarray(output.boxes, np.float32)
        return [Region(quad, float(score)) for quad, score in zip(quads, output.scores, strict=True)]

    def read(self, line: NDArray[np.uint8]) -> tuple[str, float]:
        output = self._ocr(_bgr(line), use_det=False, use_cls=False, use_rec=True)
        return (output.txts[0], float(output.scores[0])) if output.txts else ("", 0.0)


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
        output = self._det.predict(_bgr(picture), batch_size=1)[0]
        pairs = zip(output["dt_polys"], output["dt_scores"], strict=True)
        return [Region(np.asarray(quad, np.float32), float(score)) for quad, score in pairs]

    def read(self, line: NDArray[np.uint8]) -> tuple[str, float]:
        output = self._rec.predict(_bgr(line), batch_size=1)[0]
        return str(output["rec_text"]), float(output["rec_score"])


def _bgr(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(picture[:, :, ::-1])
