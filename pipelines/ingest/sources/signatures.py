"""Recognise media by their first bytes, where the suffix of their name says nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from infra import storage

#: Bytes that are read from a file of unknown suffix. Three packets of an .m2ts file begin in the first 388.
HEAD_BYTES = 1024

#: Concurrent reads of the first bytes of remote files (ours).
_READS = 16

#: Photographs as a sensor recorded them: TIFF by their first bytes, but what a TIFF reader shows is their thumbnail.
_RAW_SUFFIXES = (".arw", ".cr2", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw")

_BOTH = frozenset({"image", "video"})
_IMAGE = frozenset({"image"})
_VIDEO = frozenset({"video"})
_NEITHER = frozenset[str]()

#: Formats by the bytes that they begin with. The decoder decides whether a file is sound; a signature only lists it.
_PREFIXES: Sequence[tuple[bytes, frozenset[str]]] = (
    (b"\xff\xd8\xff", _IMAGE),  # JPEG
    (b"\x89PNG\r\n\x1a\n", _IMAGE),
    (b"GIF87a", _BOTH),
    (b"GIF89a", _BOTH),
    (b"II*\0", _IMAGE),  # TIFF
    (b"MM\0*", _IMAGE),
    (b"II+\0", _IMAGE),  # BigTIFF
    (b"MM\0+", _IMAGE),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _IMAGE),  # JPEG 2000, and its bare codestream
    (b"\xff\x4f\xff\x51", _IMAGE),
    (b"qoif", _IMAGE),
    (b"\x1a\x45\xdf\xa3", _VIDEO),  # Matroska, WebM
    (b"FLV\x01", _VIDEO),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", _VIDEO),  # ASF: .wmv
    (b"\0\0\x01\xba", _VIDEO),  # MPEG program stream, video elementary stream
    (b"\0\0\x01\xb3", _VIDEO),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", _VIDEO),  # MXF
)
_PNM = re.compile(rb"P[1-6]\s+[#\d]")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # sizes of the header after the file header
_RIFF: Mapping[bytes, frozenset[str]] = {b"WEBP": _IMAGE, b"AVI ": _VIDEO}
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_BRANDS_OF_NEITHER = (b"crx ", b"M4A ", b"M4B ", b"M4P ", b"F4A ")  # raw photographs, sound
_MOVIE_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip")  # QuickTime without a file type


def recognise(head: bytes, path: str = "") -> frozenset[str]:
    """Return which of "image" and "video" a file is that begins with `head`, HEAD_BYTES long; empty for neither.

    path: its name, which excludes raw photographs.
    """
    for prefix, kinds in _PREFIXES:
        if head.startswith(prefix):
            return _NEITHER if path.lower().endswith(_RAW_SUFFIXES) else kinds
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], _NEITHER)
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return _IMAGE if brand in _PICTURE_BRANDS else _NEITHER if brand in _BRANDS_OF_NEITHER else _VIDEO
    if head[:4] == b"OggS":
        return _VIDEO if b"theora" in head or b"BBCD" in head else _NEITHER  # others are sound
    if head[4:8] in _MOVIE_BOXES or _is_transport_stream(head):
        return _VIDEO
    is_bmp = head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS
    return _IMAGE if is_bmp or _PNM.match(head) else _NEITHER


def _is_transport_stream(head: bytes) -> bool:
    """Whether three packets of MPEG-TS begin 188 bytes apart, or 192 with a time stamp before each (.m2ts)."""
    return any(
        len(head) > first + 2 * step and all(head[first + n * step] == 0x47 for n in range(3))
        for first, step in ((0, 188), (4, 192))
    )


def recognise_files(entries: Sequence[storage.Entry], uri_of: Callable[[str], str]) -> dict[str, frozenset[str]]:
    """{path: kinds} of files, from one read of each. A file that cannot be read may be either: as an input it fails
    with the reason, and is not ignored."""

    def read(entry: storage.Entry) -> frozenset[str]:
        try:
            uri = uri_of(entry.path)
            head = storage.retry(lambda: storage.read_bytes(uri, 0, HEAD_BYTES)) if entry.size else b""
        except OSError:
            return _IMAGE | _VIDEO
        return recognise(head, entry.path)

    with ThreadPoolExecutor(_READS) as pool:
        return dict(zip((entry.path for entry in entries), pool.map(read, entries), strict=True))
