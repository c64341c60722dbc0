"""Unit vectors that tell copies: SSCD per frame (arXiv 2202.10261), or the PDQ hash where no weights are given.

PDQ's 256 bits stand as ±1/16, so a cosine is 1 − 2 · distance / 256 and one search serves both: PDQ's customary limit
of 31 bits is a cosine of 0.758. What the bits survive, measured on photographs: re-encoding and any change of size
(at most 8 bits at JPEG quality 40, at most 8 at a third of the size), but hardly a crop (about 52 bits at 3 % a side,
96 at 6 %) and no mirror. A learned descriptor is for those.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from infra import models
from infra.config import Strict
from infra.media.interface import DecodedMedia, FramePlan

#: A frame below either is not searched, because blank and flat frames are all alike. The limits are ours.
MIN_QUALITY = 50
MIN_DEVIATION = 2.0

_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)


class FingerprintSettings(Strict):
    """engine: "pdq" needs no weights; "sscd" is any TorchScript module in SSCD's format: float (n, 3, h, w), RGB
        with ImageNet's mean and deviation taken off, to (n, d).
    weights, sha256: path or URL of that module, and its hash; a URL is downloaded once, into `cache`.
    size, fit: of a frame. By default 320 with "skew" (width and height ignored) for sscd, which SSCD's authors give
        beside "short" 288; 256 with "skew" for pdq, so that the size of the input hardly changes its bits.
    fps, max_frames: a video is sampled at `fps` frames a second plus its first and last, at most `max_frames`.
    mirror: also store the fingerprints of the frames seen in a mirror, for a search that is to find mirrored copies.
    device: where sscd runs. batch: frames that pass through it at once, see `Settings` of alignment.
    """

    engine: Literal["pdq", "sscd"] = "pdq"
    weights: str | None = None
    sha256: str | None = None
    cache: str | None = None
    size: int | None = Field(default=None, ge=32, le=1024)
    fit: Literal["skew", "short"] = "skew"
    fps: float = Field(default=1.0, gt=0, le=60)
    max_frames: int = Field(default=256, ge=1, le=4096)
    mirror: bool = False
    device: models.Device = "cpu"
    batch: int = Field(default=1, ge=1, le=1024)

    @field_validator("sha256")
    @classmethod
    def _sha256(cls, value: str | None) -> str | None:
        return None if value is None else models.check_sha256(value)

    @model_validator(mode="after")
    def _whole(self) -> FingerprintSettings:
        given = self.weights is not None, self.sha256 is not None
        if self.engine == "sscd" and not all(given):
            raise ValueError("engine sscd needs weights and their sha256: a TorchScript file holds code")
        if self.engine == "pdq" and any(given):
            raise ValueError("weights and sha256 are for engine sscd")
        return self

    @property
    def side(self) -> int:
        return self.size or (320 if self.engine == "sscd" else 256)


@dataclass(frozen=True)
class Print:
    """What one medium gave: how many frames, their mean PDQ quality (0..100); the rest is of the searchable ones.

    vectors: little-endian float16 (n, dim); mirrored: the same of the mirrored frames, or None; times: seconds (n,).
    """

    frames: int
    quality: float
    vectors: NDArray[np.float16]
    mirrored: NDArray[np.float16] | None
    times: NDArray[np.float64]


class Fingerprint:
    """Fingerprints of a medium's frames; an image has one frame, a multi_image one a picture.

    frames: how many were sampled. dim: length of a vector. quality: mean PDQ quality, 0..100.
    vectors: float16, little-endian, C order, (n, dim) for the n frames that can be searched; n may be 0.
    times: seconds of these n, ascending. mirrored: like vectors, for the mirrored frames; null unless `mirror`.
    """

    name: ClassVar[str] = "fingerprint"
    VERSION: ClassVar[int] = 1
    keyed_by: ClassVar[Literal["text", "media", "pair"]] = "media"
    input: ClassVar[Literal["text", "header", "stream", "frames"]] = "frames"
    modalities: ClassVar[frozenset[str]] = frozenset({"image", "multi_image", "video"})
    depends_on: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, pa.DataType]] = {
        "frames": pa.int32(),
        "dim": pa.int32(),
        "quality": pa.float64(),
        "vectors": pa.large_binary(),
        "times": pa.list_(pa.float32()),
        "mirrored": pa.large_binary(),
    }
    store_only: ClassVar[frozenset[str]] = frozenset({"vectors", "times", "mirrored"})

    def __init__(self, settings: FingerprintSettings) -> None:
        self.settings = settings

    @property
    def plan(self) -> FramePlan:
        s = self.settings
        return FramePlan(times="rate", size=s.side, fit=s.fit, count=s.max_frames, fps=s.fps, ends=True)

    def fingerprint_inputs(self) -> Mapping[str, object]:
        s = self.settings
        maker: dict[str, object] = {
            "engine": s.engine,
            "size": s.side,
            "fit": s.fit,
            "fps": s.fps,
            "max_frames": s.max_frames,
            "mirror": s.mirror,
        }
        if s.engine == "sscd":
            maker |= {"weights_sha256": s.sha256, "device": s.device, "batch": s.batch}
        return maker

    def measure(self, chunk: pa.Table, media: Sequence[DecodedMedia | None]) -> pa.Table:
        describe = None if self.settings.engine == "pdq" else self._sscd()
        found = [self._print(decoded, describe) for decoded in media]
        prints = [None if isinstance(p, str) else p for p in found]
        columns: dict[str, list[Any]] = {
            "frames": [p and p.frames for p in prints],
            "dim": [p and p.vectors.shape[1] for p in prints],
            "quality": [p and round(p.quality, 6) for p in prints],
            "vectors": [p and p.vectors.tobytes() for p in prints],
            "times": [p and p.times.astype(np.float32) for p in prints],
            "mirrored": [None if p is None or p.mirrored is None else p.mirrored.tobytes() for p in prints],
        }
        arrays = {name: pa.array(columns[name], kind) for name, kind in self.columns.items()}
        return pa.table({**arrays, "error": pa.array([p if isinstance(p, str) else None for p in found], pa.string())})

    def _print(self, decoded: DecodedMedia | None, describe: Describe | None) -> Print | str:
        """The fingerprint, or the error of the row."""
        if decoded is None or decoded.error is not None:
            return "no_media: nothing was decoded" if decoded is None or decoded.error is None else decoded.error
        frames = decoded.frames.get(self.name)
        if frames is None or len(frames.pixels) == 0:
            return "no_frames: the medium gave no picture"
        pictures = [np.ascontiguousarray(picture) for picture in frames.pixels]
        bits, quality, deviation = _pdq(pictures if describe is None else [_small(picture) for picture in pictures])
        searchable = (quality >= MIN_QUALITY) & (deviation >= MIN_DEVIATION)
        found = [picture for picture, wanted in zip(pictures, searchable, strict=True) if wanted]
        turned = [np.ascontiguousarray(picture[:, ::-1]) for picture in found] if self.settings.mirror else []
        if describe is None:
            vectors, mirrored = bits[searchable], _pdq(turned)[0]
        else:
            # One picture even when none can be searched: it tells the number of dimensions.
            both = describe([*found, *turned] or pictures[:1])
            vectors, mirrored = both[: len(found)], both[len(found) : len(found) + len(turned)]
            if not np.isfinite(both).all():
                return "model: the descriptor is not a finite, non-zero vector"
        return Print(
            frames=len(pictures),
            quality=float(quality.mean()),
            vectors=vectors.astype("<f2"),
            mirrored=mirrored.astype("<f2") if self.settings.mirror else None,
            times=frames.times[searchable],
        )

    def _sscd(self) -> Describe:
        s = self.settings
        torch = models.import_torch("engine sscd")
        model = models.load_script(str(s.weights), str(s.sha256), s.device, s.cache)
        mean, deviation = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (_MEAN, _DEVIATION))

        def describe(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
            rows = []
            for start in range(0, len(pictures), s.batch):
                part = list(pictures[start : start + s.batch])
                full = np.stack(part + part[-1:] * (s.batch - len(part)))
                pixels = torch.from_numpy(full).permute(0, 3, 1, 2).float() / 255
                with torch.inference_mode():
                    out = model(((pixels - mean) / deviation).to(s.device))
                rows.append(out.float().cpu().numpy()[: len(part)])
            return models.unit_rows(np.concatenate(rows))

        return describe


#: Pictures, uint8 RGB (h, w, 3) of one size, to float64 (n, dim): unit rows, or NaN where there is no descriptor.
Describe = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float64]]


def _pdq(
    pictures: Sequence[NDArray[np.uint8]],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Of n pictures: the bits as ±1/16 (n, 256), the PDQ quality 0..100 (n,) and the deviation of the grey values (n,),
    which a flat picture of whatever colour has none of."""
    import pdqhash

    found = [pdqhash.compute(picture) for picture in pictures]
    bits = np.array([hashed for hashed, _ in found], dtype=np.float64).reshape(len(found), 256)
    quality = np.array([value for _, value in found], dtype=np.float64)
    grey = np.array([0.299, 0.587, 0.114])
    return (2.0 * bits - 1.0) / 16.0, quality, np.array([(picture @ grey).std() for picture in pictures])


def _small(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """128 × 128: enough to see whether there is anything in it, at a fifth of the time."""
    import cv2

    cv2.setNumThreads(1)
    return np.asarray(cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA), dtype=np.uint8)
