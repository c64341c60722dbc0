"""Media types of the members in shards, by suffix: one table for cards, for column types and for the loader."""

from __future__ import annotations

#: Suffix of a member as export writes it -> media type (IANA where it is registered). Others are binary.
MEDIA_TYPES = {
    "json": "application/json", "txt": "text/plain", "jpg": "image/jpeg", "png": "image/png", "gif": "image/gif",
    "webp": "image/webp", "bmp": "image/bmp", "tif": "image/tiff", "ppm": "image/x-portable-pixmap",
    "avif": "image/avif", "heic": "image/heic", "jp2": "image/jp2", "qoi": "image/qoi", "ico": "image/x-icon",
    "mp4": "video/mp4", "mkv": "video/x-matroska", "webm": "video/webm", "mov": "video/quicktime",
    "avi": "video/x-msvideo", "mpeg": "video/mpeg", "ts": "video/mp2t", "m2ts": "video/mp2t", "mts": "video/mp2t",
    "ps": "video/mpeg", "3gp": "video/3gpp", "3g2": "video/3gpp2", "flv": "video/x-flv", "wmv": "video/x-ms-wmv",
    "ogv": "video/ogg",
}  # fmt: skip

#: Of a member whose suffix says nothing.
BINARY = "application/octet-stream"


def get_media_type(suffix: str) -> str:
    """Return the media type of a member: "jpg" and "0.jpg" are image/jpeg, an unknown suffix is binary."""
    return MEDIA_TYPES.get(suffix.rsplit(".", 1)[-1], BINARY)
