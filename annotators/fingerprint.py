"""Unit vectors for copy detection: SSCD per frame (arXiv 2202.10261), or the PDQ hash, which needs no weights.

PDQ's 256 bits are written as ±1/16, so a cosine is 1 − 2 · distance / 256 and one search serves both: PDQ's usual
limit of 31 bits is a cosine of 0.758. Images are hashed at their own size, as PDQ's authors do, so that the bits are
those of published lists. The bits survive re-encoding (at most 8 differ at JPEG quality 40, on photographs) and changes
of size (about 18 at half the size), but hardly a crop (about 52 bits at 3 % per side, 96 at 6 %) and no mirroring:
these need a learned descriptor.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from annotators.interface import Column, FrameAnnotator
from infra.config import Strict
from infra.errors import BadSample
from infra.media.interface import VISUAL, FramePlan, Frames
from infra.weights import models

#: A frame below either limit is not searched, because blank frames are all alike. The limits are ours.
MIN_QUALITY = 50
MIN_DEVIATION = 2.0
#: Long side in pixels up to which an image is hashed by PDQ at its own size: bounds memory and time (ours).
PDQ_IMAGE_SIZE = 4096

_GREY = np.array([0.299, 0.587, 0.114])
_PLAIN = 3.0  # grey levels within which a line is of one colour: JPEG's noise (ours)
_REVERSED = slice(None, None, -1)

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class FingerprintSettings(Strict):
    """engine: "pdq" needs no weights; "sscd" is any TorchScript module in SSCD's format: float (n, 3, h, w), RGB
        normalised by ImageNet's mean and deviation, to (n, d).
    weights, sha256: path or URL of that module, and its hash; a URL is downloaded once, into `cache`.
    size, fit: of a frame. By default 320 with "skew" (width and height ignored) for sscd, which SSCD's authors give
        beside "short" 288; 512 with "long" for the frames of videos by pdq, whose authors' tool shrinks pictures
        to 512 first to save time. By pdq, images keep their own size, up to PDQ_IMAGE_SIZE, unless size is set.
    fps, max_frames: a video is sampled at `fps` frames per second plus its first and last, at most `max_frames`.
    mirror: also store the fingerprints of the mirrored frames, for a search that finds mirrored copies.
    device: where sscd runs. batch: frames that pass through it at once, see `AlignmentSettings`.
    """

    engine: Literal["pdq", "sscd"] = "pdq"
    weights: str | None = None
    sha256: str | None = None
    cache: str | None = None
    size: int | None = Field(default=None, ge=32, le=1024)
    fit: Literal["skew", "short", "long"] | None = None
    fps: float = Field(default=1.0, gt=0, le=60)
    max_frames: int = Field(default=256, ge=1, le=4096)
    mirror: bool = False
    device: models.Device = "cpu"
    batch: int = Field(default=1, ge=1, le=1024)

    @field_validator("sha256")
    @classmethod
    def _sha256(cls, sha256: str | None) -> str | None:
        return None if sha256 is None else models.check_sha256(sha256)

    @model_validator(mode="after")
    def _whole(self) -> FingerprintSettings:
        has_weights = self.weights is not None, self.sha256 is not None
        if self.engine == "sscd" and not all(has_weights):
            raise ValueError("engine sscd needs weights and their sha256: a TorchScript file holds code")
        if self.engine == "pdq" and any(has_weights):
            raise ValueError("weights and sha256 are for engine sscd")
        return self

    @property
    def side(self) -> int:
        return self.size or (320 if self.engine == "sscd" else 512)

    @property
    def shape(self) -> Literal["skew", "short", "long"]:
        return self.fit or ("skew" if self.engine == "sscd" else "long")

    @property
    def image_size(self) -> int | None:
        return PDQ_IMAGE_SIZE if self.engine == "pdq" and self.size is None else None


class Fingerprint(FrameAnnotator):
    """Fingerprints of a medium's frames."""

    name = "fingerprint"
    VERSION = 2
    keyed_by = "media"
    modalities = frozenset(VISUAL)
    columns: ClassVar[Mapping[str, Column]] = {
        "frames": Column(pa.int32(), "frames sampled; an image has one, a multi_image one per picture"),
        "dim": Column(pa.int32(), "length of a vector"),
        "quality": Column(pa.float64(), "mean PDQ quality of the frames, 0 to 100"),
        "chroma": Column(pa.float64(), "mean difference of the strongest and weakest channel, 0 to 1; 0 for grey"),
        "border": Column(pa.float64(), "share of the picture in plain edges of one colour, 0 to 1, in every frame"),
        "vectors": Column(
            pa.large_binary(), "float16, little-endian, C order, (n, dim), of the n frames that can be searched"
        ),
        "times": Column(pa.list_(pa.float32()), "seconds of these n frames, ascending"),
        "mirrored": Column(pa.large_binary(), "as `vectors`, of the mirrored frames; null unless `mirror`"),
    }
    store_only = frozenset({"vectors", "times", "mirrored"})
    settings: FingerprintSettings

    @property
    def plan(self) -> FramePlan:
        s = self.settings
        return FramePlan(
            times="rate", size=s.side, fit=s.shape, count=s.max_frames, fps=s.fps, ends=True, image_size=s.image_size
        )

    def fingerprint_inputs(self) -> Mapping[str, object]:
        s = self.settings
        maker: dict[str, object] = {
            "engine": s.engine,
            "size": s.side,
            "fit": s.shape,
            "image_size": s.image_size,
            "fps": s.fps,
            "max_frames": s.max_frames,
            "mirror": s.mirror,
        }
        if s.engine == "sscd":
            models.check_script(str(s.weights), str(s.sha256), s.cache, ("forward",))
            maker |= {"weights_sha256": s.sha256, "device": s.device, "batch": s.batch}
        return maker

    def measure_one(self, sample: Mapping[str, Any], content: Frames) -> Mapping[str, Any]:
        pictures = [np.ascontiguousarray(picture) for picture in content.pictures]
        describe = None if self.settings.engine == "pdq" else self._sscd()
        small = [_shrink(picture) for picture in pictures]
        deviation = np.array([(picture @ _GREY).std() for picture in small])
        bits, quality = _pdq(pictures if describe is None else small)
        searchable = (quality >= MIN_QUALITY) & (deviation >= MIN_DEVIATION)
        distinct = [picture for picture, is_searchable in zip(pictures, searchable, strict=True) if is_searchable]
        flipped = [np.ascontiguousarray(picture[:, ::-1]) for picture in distinct] if self.settings.mirror else []
        if describe is None:
            vectors, mirrored = bits[searchable], _pdq(flipped)[0]
        else:
            # At least one picture, even when none can be searched: it gives the number of dimensions.
            described = describe([*distinct, *flipped] or pictures[:1])
            vectors, mirrored = described[: len(distinct)], described[len(distinct) : len(distinct) + len(flipped)]
            if not np.isfinite(described).all():
                raise BadSample("model", "the descriptor is not a finite, non-zero vector")
        return {
            "frames": len(pictures),
            "dim": vectors.shape[1],
            "quality": round(float(quality.mean()), 6),
            "chroma": round(float(np.mean([measure_chroma(picture) for picture in small])), 6),
            "border": round(min(measure_border(picture) for picture in small), 6),
            "vectors": vectors.astype("<f2").tobytes(),
            "times": content.times[searchable].astype(np.float32),
            "mirrored": mirrored.astype("<f2").tobytes() if self.settings.mirror else None,
        }

    def _sscd(self) -> Describe:
        s = self.settings
        torch = models.import_torch("engine sscd")
        model = models.load_script(str(s.weights), str(s.sha256), s.device, s.cache)
        mean, deviation = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (_MEAN, _DEVIATION))

        def describe(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
            rows = []
            for batch in _split_batches(pictures, s.batch):
                full = np.stack(batch + batch[-1:] * (s.batch - len(batch)))
                pixels = torch.from_numpy(full).permute(0, 3, 1, 2).float() / 255
                with torch.inference_mode():
                    out = model(((pixels - mean) / deviation).to(s.device))
                rows.append(out.float().cpu().numpy()[: len(batch)])
            return models.unit_rows(np.concatenate(rows))

        return describe


#: Pictures, uint8 RGB (h, w, 3), to float64 (n, dim): unit rows, or NaN where there is no descriptor.
Describe = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float64]]


def _split_batches(pictures: Sequence[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    """Split pictures, in order, into batches of at most `size` of one shape: several images of a sample differ."""
    for _, group in itertools.groupby(pictures, key=lambda picture: picture.shape):
        alike = list(group)
        for start in range(0, len(alike), size):
            yield alike[start : start + size]


def _pdq(pictures: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(bits as ±1/16 (n, 256), PDQ quality 0..100 (n,)) of n pictures."""
    import pdqhash

    hashes = [pdqhash.compute(picture) for picture in pictures]
    bits = np.array([hashed for hashed, _ in hashes], dtype=np.float64).reshape(len(hashes), 256)
    return (2.0 * bits - 1.0) / 16.0, np.array([score for _, score in hashes], dtype=np.float64)


def measure_chroma(picture: NDArray[np.uint8]) -> float:
    """Measure the mean difference, 0..1, between the strongest and the weakest channel of a picture (h, w, 3)."""
    return float((picture.max(axis=2).astype(np.int16) - picture.min(axis=2)).mean()) / 255


def measure_border(picture: NDArray[np.uint8]) -> float:
    """Measure the share, 0..1, of a picture (h, w, 3) in edges of one colour: letterboxes, frames, plain margins."""
    inside = 1.0
    for lines in (picture, picture.transpose(1, 0, 2)):
        values = lines.astype(np.float64)
        plain = values.std(axis=1).max(axis=1) < _PLAIN
        first, last = (_count_plain(values[order].mean(axis=1), plain[order]) for order in (slice(None), _REVERSED))
        inside *= max(0, len(lines) - first - last) / len(lines)
    return 1.0 - inside


def _count_plain(means: NDArray[np.float64], plain: NDArray[np.bool_]) -> int:
    """Count the plain lines from the first on that have its colour."""
    other = ~plain | (np.abs(means - means[0]).max(axis=1) > _PLAIN)
    return int(np.argmax(other)) if other.any() else len(plain)


def _shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale to 128 × 128: enough to recognise blank frames, in a fifth of the time."""
    import cv2

    cv2.setNumThreads(1)  # threads: of the process, the same number wherever it is set
    return np.asarray(cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA), dtype=np.uint8)
