"""Media facts from container and codec headers. At most a first frame is decoded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from annotators.interface import Annotator, Column
from infra.config import Strict
from infra.media.interface import VISUAL


class FactsSettings(Strict):
    """Facts has no settings."""


class Facts(Annotator):
    """One column per fact; a fact that a medium does not have (the fps of an image) is null."""

    name = "facts"
    keyed_by = "media"
    input = "header"
    modalities = frozenset(VISUAL)
    columns: ClassVar[Mapping[str, Column]] = {
        "codec": Column(pa.string(), 'of a video, by FFmpeg\'s name ("h264")'),
        "container": Column(pa.string(), 'of a video, by FFmpeg\'s names; of an image its format ("JPEG")'),
        "pix_fmt": Column(pa.string(), "FFmpeg's name, or Pillow's mode"),
        "width": Column(pa.int32(), "stored pixels, upright"),
        "height": Column(pa.int32(), "stored pixels, upright"),
        "fps": Column(pa.float64(), "frames per second, on average over the video"),
        "duration": Column(pa.float64(), "seconds"),
        "frames": Column(pa.int64(), "of a video or an animated image; 1 for a still"),
        "aspect": Column(pa.float64(), "width / height of the picture as it is shown: width × pixel_aspect / height"),
        "pixel_aspect": Column(pa.float64(), "width / height of a pixel, upright: 1 for square ones and for images"),
        "rotation": Column(pa.int32(), "degrees clockwise by which the stored frames are turned"),
        "audio": Column(pa.bool_(), "whether there is a sound track"),
        "bit_rate": Column(pa.int64(), "bits per second of the video stream"),
        "bytes": Column(pa.int64(), "of the medium"),
        "images": Column(pa.int32(), "of the sample, null for a video; all other facts are of its smallest image"),
    }
    settings: FactsSettings

    def measure_one(self, sample: Mapping[str, Any], content: Mapping[str, Any]) -> Mapping[str, Any]:
        return {name: fact(content) for name, fact in _FACTS.items()}


def _video(key: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda header: header[key] if header["kind"] == "video" else None


_FACTS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "codec": _video("codec"),
    "container": lambda header: header["container" if header["kind"] == "video" else "format"],
    "pix_fmt": lambda header: header["pix_fmt" if header["kind"] == "video" else "mode"],
    "width": lambda header: header["width"],
    "height": lambda header: header["height"],
    "fps": _video("fps"),
    "duration": _video("duration"),
    "frames": lambda header: header["frames"],
    "aspect": lambda header: round(header["width"] * header["pixel_aspect"] / header["height"], 6),
    "pixel_aspect": lambda header: header["pixel_aspect"],
    "rotation": _video("rotation"),
    "audio": _video("audio"),
    "bit_rate": _video("bit_rate"),
    "bytes": lambda header: header["bytes"],
    "images": lambda header: None if header["kind"] == "video" else header.get("images", 1),
}
