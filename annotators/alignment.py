"""Agreement of picture and caption: the cosine between their embeddings by a CLIP or a video–text model.

Scores are raw cosines, -1..1, never multiplied by the model's logit scale, and a threshold belongs to one model.
Llama 3 filters image–text pairs by a CLIP score, and videos by the score of one frame and then that of a video model
(arXiv 2407.21783, section 7.1); models and thresholds are not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from annotators.interface import Column, FrameAnnotator
from infra.config import Strict
from infra.errors import BadSample, ConfigError
from infra.media.interface import VISUAL, FramePlan, Frames
from infra.weights import models


class VideoText(Strict):
    """A video–text model as TorchScript, for engine "video_text".

    The module normalises its input itself and has two exported methods:
        encode_video(frames: uint8 (1, t, size, size, 3) RGB, ascending in time) -> float (1, d)
        encode_text(tokens: int64 (1, context)) -> float (1, d)
    Tokens are those of CLIP's byte-pair vocabulary, padded with 0.

    weights: path or URL; sha256: of that file, 64 hex digits; size: side of the frames in pixels, cropped from
    the centre after the short side was scaled to it; context: tokens per text.
    """

    weights: str
    sha256: str
    size: int = Field(default=224, ge=16)
    context: int = Field(default=77, ge=3)

    _checked = field_validator("sha256")(staticmethod(models.check_sha256))


class AlignmentSettings(Strict):
    """The model and the device it runs on. `engine`, `frames` and `video_text` are for `video_alignment` only.

    model, pretrained: "local-dir:PATH" or "hf-hub:ORG/NAME" alone, or an open_clip architecture with a tag or a
        weights file. Only hub models and tags are ever downloaded.
    sha256: of the weights file; None: not checked (the file's hash enters the fingerprint all the same).
    cache: folder for downloads; None: the library's default.
    device, dtype: "cuda" and the half types give slightly different numbers, so they enter the fingerprint.
    batch: rows that pass through the model at once. A batch is always full (the last one is padded), because its
        shape changes the last bits; 1 makes rows independent by construction, a GPU wants more.
    engine: "pooled" averages the embeddings of `frames` frames; "video_text" uses a video–text model.
    """

    model: str | None = None
    pretrained: str | None = None
    sha256: str | None = None
    cache: str | None = None
    device: models.Device = "cpu"
    dtype: models.Dtype = "float32"
    batch: int = Field(default=1, ge=1, le=1024)
    engine: Literal["pooled", "video_text"] = "pooled"
    frames: int = Field(default=8, ge=1, le=64)
    video_text: VideoText | None = None

    @field_validator("sha256")
    @classmethod
    def _sha256(cls, sha256: str | None) -> str | None:
        return None if sha256 is None else models.check_sha256(sha256)

    @model_validator(mode="after")
    def _check_engine(self) -> AlignmentSettings:
        if self.engine == "pooled" and self.model is None:
            raise ValueError("model is missing: an open_clip name, local-dir:PATH or hf-hub:ORG/NAME")
        if (self.engine == "video_text") != (self.video_text is not None):
            raise ValueError('video_text goes with engine "video_text", and that engine needs it')
        if self.engine == "video_text" and (self.model or self.pretrained or self.sha256):
            raise ValueError('model, pretrained and sha256 are for engine "pooled"')
        return self

    @property
    def source(self) -> models.ClipSource:
        return models.ClipSource(self.model or "", self.pretrained, self.sha256, self.cache)


class Pairing(Protocol):
    """A model that embeds pictures and texts into one space."""

    @property
    def size(self) -> int:
        """Pixels of a frame's short side."""

    def fingerprint_inputs(self) -> Mapping[str, object]:
        """Weights and everything else that the embeddings depend on."""

    def picture(self, frames: Frames) -> NDArray[np.float64]:
        """(n, d): the unit vectors of these frames; NaN where the model returned none."""

    def text(self, text: str) -> NDArray[np.float64]:
        """(d,), unit length or NaN."""


class _Clip:
    """A CLIP; one vector per frame. Threads: safe, as the loaded models are; reading the size twice is harmless."""

    def __init__(self, settings: AlignmentSettings) -> None:
        self._settings = settings

    @cached_property
    def size(self) -> int:
        return models.clip_input_size(self._settings.source)

    def fingerprint_inputs(self) -> Mapping[str, object]:
        s = self._settings
        return models.clip_fingerprint_inputs(s.source, s.device, s.dtype, s.batch)

    def _model(self) -> models.ClipModel:
        s = self._settings
        return models.load_clip(s.source, s.device, s.dtype, s.batch)

    def picture(self, frames: Frames) -> NDArray[np.float64]:
        return self._model().encode_images(frames.pictures)

    def text(self, text: str) -> NDArray[np.float64]:
        vector: NDArray[np.float64] = self._model().encode_texts([text])[0]
        return vector


class _Pooled(_Clip):
    """A CLIP; the normalised mean of the frames' unit vectors."""

    def picture(self, frames: Frames) -> NDArray[np.float64]:
        return models.unit_rows(super().picture(frames).mean(axis=0, keepdims=True))


class _Script:
    """A video–text model from a TorchScript file."""

    def __init__(self, video_text: VideoText, device: models.Device, cache: str | None) -> None:
        self._settings, self._device, self._cache = video_text, device, cache

    @property
    def size(self) -> int:
        return self._settings.size

    def fingerprint_inputs(self) -> Mapping[str, object]:
        s = self._settings
        models.check_script(s.weights, s.sha256, self._cache, ("encode_video", "encode_text"))
        return {"weights_sha256": s.sha256, "size": s.size, "context": s.context, "device": self._device}

    def _model(self) -> Any:
        return models.load_script(self._settings.weights, self._settings.sha256, self._device, self._cache)

    def _embed(self, method: str, tensor: Any) -> NDArray[np.float64]:
        with models.import_torch().inference_mode():
            vector = getattr(self._model(), method)(tensor.to(self._device))
        return models.unit_rows(vector.float().cpu().numpy())

    def picture(self, frames: Frames) -> NDArray[np.float64]:
        pixels = np.stack([_crop_centre(picture, self.size) for picture in frames.pixels])
        return self._embed("encode_video", models.import_torch().from_numpy(pixels)[None])

    def text(self, text: str) -> NDArray[np.float64]:
        tokens = models.import_open_clip("video alignment").tokenize([text], context_length=self._settings.context)
        vector: NDArray[np.float64] = self._embed("encode_text", tokens)[0]
        return vector


def _crop_centre(picture: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Scale the short side of a picture to `size` and crop the central size × size pixels."""
    from PIL import Image

    high, wide = picture.shape[:2]
    scale = size / min(high, wide)
    if scale != 1:
        shape = (max(size, round(wide * scale)), max(size, round(high * scale)))
        picture = np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.BICUBIC))
        high, wide = picture.shape[:2]
    top, margin = (high - size) // 2, (wide - size) // 2
    return picture[top : top + size, margin : margin + size]


class _PairScore(FrameAnnotator):
    """One score per sample, by a model that embeds pictures and text."""

    keyed_by = "pair"
    depends_on = ("clean.text",)
    settings: AlignmentSettings
    pairing: Pairing

    def fingerprint_inputs(self) -> Mapping[str, object]:
        return self.pairing.fingerprint_inputs()

    def measure_one(self, sample: Mapping[str, Any], content: Frames) -> Mapping[str, Any]:
        if not sample["clean.text"]:
            raise BadSample("no_text", "the caption is empty")
        # Row-wise sums, not BLAS, whose results may depend on the shape of the array.
        products = self.pairing.picture(content) * self.pairing.text(sample["clean.text"])
        score = float(products.sum(axis=1).mean())
        if not np.isfinite(score):
            raise BadSample("model", "the embedding is not a finite, non-zero vector")
        return {"score": round(score, 6), "frames": len(content.pictures)}


class Alignment(_PairScore):
    """One score per sample: a video by its middle frame, an image, or the mean over the pictures of a multi_image.

    Frames come with the short side at the model's input size and then pass through open_clip's own evaluation
    transform, so the only difference between this score and open_clip's is the decoder's resampling filter.
    """

    name = "alignment"
    modalities = frozenset(VISUAL)
    columns: ClassVar[Mapping[str, Column]] = {
        "score": Column(pa.float64(), "cosine of picture and caption, -1 to 1"),
    }

    def __init__(self, settings: AlignmentSettings | None = None) -> None:
        super().__init__(settings)
        unused = {"engine", "frames", "video_text"} & self.settings.model_fields_set
        if unused:
            raise ConfigError(f"alignment does not use {', '.join(sorted(unused))}", hint="video_alignment does")
        self.pairing = _Clip(self.settings)

    @property
    def plan(self) -> FramePlan:
        return FramePlan(times="middle", size=self.pairing.size, fit="short")


class VideoAlignment(_PairScore):
    """One score per video, from several frames, by engine "pooled" or "video_text". frames: number of frames used."""

    name = "video_alignment"
    modalities = frozenset({"video"})
    columns: ClassVar[Mapping[str, Column]] = {
        "score": Column(pa.float64(), "cosine of video and caption, -1 to 1"),
        "frames": Column(pa.int32(), "frames that it rests on"),
    }

    def __init__(self, settings: AlignmentSettings | None = None) -> None:
        super().__init__(settings)
        own = self.settings
        if own.video_text is None:
            self.pairing = _Pooled(own)
        else:
            self.pairing = _Script(own.video_text, own.device, own.cache)

    @property
    def plan(self) -> FramePlan:
        return FramePlan(times="uniform", size=self.pairing.size, fit="short", count=self.settings.frames)

    def fingerprint_inputs(self) -> Mapping[str, object]:
        return {"engine": self.settings.engine, "frames": self.settings.frames, **self.pairing.fingerprint_inputs()}
