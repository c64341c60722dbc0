"""Media facts: what the container and the codec say. Nothing is decoded beyond a first frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import pyarrow as pa

from infra.config import Strict
from infra.media.interface import DecodedMedia


class FactsSettings(Strict):
    """There is nothing to set."""


class Facts:
    """One column per fact; a fact that a medium does not have (the fps of an image) is null.

    codec, container: of a video, by FFmpeg's names ("h264", "mov,mp4,m4a,3gp,3g2,mj2"); of an image, container is
    its format ("JPEG") and codec is null. pix_fmt: FFmpeg's name, or Pillow's mode. width, height: pixels, upright.
    fps: frames a second, on average over the video. duration: seconds. frames: of a video, or of an animated image,
    1 for a still. aspect: width / height. rotation: degrees clockwise by which the stored frames are turned.
    audio: whether there is a sound track. bit_rate: bits a second of the video stream. bytes: of the medium.
    images: how many the sample has, null for a video; the other facts are those of its first image.
    """

    name: ClassVar[str] = "facts"
    VERSION: ClassVar[int] = 1
    keyed_by: ClassVar[Literal["text", "media", "pair"]] = "media"
    input: ClassVar[Literal["text", "header", "stream", "frames"]] = "header"
    modalities: ClassVar[frozenset[str]] = frozenset({"video", "image", "multi_image"})
    depends_on: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, pa.DataType]] = {
        "codec": pa.string(),
        "container": pa.string(),
        "pix_fmt": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "fps": pa.float64(),
        "duration": pa.float64(),
        "frames": pa.int64(),
        "aspect": pa.float64(),
        "rotation": pa.int32(),
        "audio": pa.bool_(),
        "bit_rate": pa.int64(),
        "bytes": pa.int64(),
        "images": pa.int32(),
    }
    store_only: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: FactsSettings | None = None) -> None:
        self.settings = settings or FactsSettings()

    def fingerprint_inputs(self) -> Mapping[str, object]:
        return {}

    def measure(self, chunk: pa.Table, media: Sequence[DecodedMedia | None]) -> pa.Table:
        """See annotators.interface. A medium that failed passes its error on; one that was not opened has
        "not_opened"."""
        if len(media) != chunk.num_rows:
            raise ValueError(f"{len(media)} media for {chunk.num_rows} rows")
        errors = ["not_opened" if medium is None else medium.error for medium in media]
        headers = [
            None if error is not None or medium is None else medium.header
            for medium, error in zip(media, errors, strict=True)
        ]
        values = {
            name: [None if header is None else _FACTS[name](header) for header in headers] for name in self.columns
        }
        arrays = [pa.array(values[name], type=kind) for name, kind in self.columns.items()]
        return pa.table([*arrays, pa.array(errors, pa.string())], names=[*self.columns, "error"])


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
    "aspect": lambda header: round(header["width"] / header["height"], 6),
    "rotation": _video("rotation"),
    "audio": _video("audio"),
    "bit_rate": _video("bit_rate"),
    "bytes": lambda header: header["bytes"],
    "images": lambda header: None if header["kind"] == "video" else header.get("images", 1),
}
