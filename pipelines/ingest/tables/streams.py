"""Tables as streams of text: unpacked by content, decoded by their byte order mark, with a limit on the unpacked size.

Faults of the bytes raise BadSample; an OSError with a number is one of the storage and passes through.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, TextIO

import pyarrow as pa

from infra import storage
from infra.errors import BadSample

#: A row, a cell or a caption with more bytes than this is a failed input (ours).
MAX_ROW_BYTES = 16 * 2**20

#: A table may always unpack to this many bytes, and beyond that to MAX_RATIO times its size (ours; gzip reaches 1,032).
FREE_BYTES = 2**30
MAX_RATIO = 1000

#: First bytes of compressed files.
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

COMPRESSION_SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd")


def strip_compression(name: str) -> str:
    """A file's name without the suffix of its compression, in lower case."""
    name = name.lower()
    return next((name.removesuffix(suffix) for suffix in COMPRESSION_SUFFIXES if name.endswith(suffix)), name)


def with_compression(*suffixes: str) -> tuple[str, ...]:
    """Suffixes of tables, alone and followed by that of a compression."""
    return (*suffixes, *(suffix + packed for suffix in suffixes for packed in COMPRESSION_SUFFIXES))


def budget_for(size: int) -> int:
    """How many bytes a table of `size` bytes may unpack to."""
    return FREE_BYTES + MAX_RATIO * size


@contextmanager
def open_unpacked(uri: str) -> Iterator[io.BufferedReader]:
    """A table's bytes, unpacked while they are read."""
    with storage.open_read(uri) as file:
        size = file.seek(0, io.SEEK_END)
        kind = _find_kind(file)
        stream: Any = UnpackedStream(_unpack(file, kind), kind, budget_for(size))
        with io.BufferedReader(stream, 2**20) as reader:
            yield reader


def is_compressed(uri: str) -> bool:
    """Whether a file is compressed, by its first bytes."""
    with storage.open_read(uri) as file:
        return bool(_find_kind(file))


def _find_kind(file: IO[bytes]) -> str:
    """The compression of a file, "" for none; the file is at its beginning afterwards."""
    file.seek(0)
    head = file.read(6)
    file.seek(0)
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def _unpack(file: IO[bytes], kind: str) -> Any:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=file, mode="rb")
    if kind == "bz2":
        return bz2.BZ2File(file)
    if kind == "xz":
        return lzma.LZMAFile(file)
    if kind == "zstd":
        return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    return file


class UnpackedStream(io.RawIOBase):
    """A compressed file's content. Raises BadSample where it is damaged or unpacks to more than `budget` bytes."""

    def __init__(self, file: Any, kind: str, budget: int) -> None:
        self._file = file
        self._kind = kind
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            block = self._file.read(len(buffer))
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise BadSample("unreadable table", f"damaged {self._kind}: {error}") from None
        except OSError as error:
            if error.errno is not None or not self._kind:  # the storage, not the bytes
                raise
            raise BadSample("unreadable table", f"damaged {self._kind}: {error}") from None
        self._budget -= len(block)
        if self._budget < 0 and self._kind:
            raise BadSample("too_large", f"the table unpacks to more than {MAX_RATIO} times its size")
        buffer[: len(block)] = block
        return len(block)


def open_text(file: io.BufferedReader, encoding: str | None) -> TextIO:
    """The text of a table: in `encoding`, otherwise UTF-8, or UTF-16 or UTF-32 where its first bytes are.

    Bytes that are not in the encoding become lone surrogates, which `find_fault` reports.
    """
    encoding = encoding or json.detect_encoding(file.peek(4)[:4])
    errors = "surrogatepass" if encoding.lower().startswith(("utf-16", "utf-32")) else "surrogateescape"
    return io.TextIOWrapper(file, encoding=encoding, errors=errors, newline="")


def starts_as_json(file: io.BufferedReader) -> bool:
    """Whether the first character that is not blank opens an object or array."""
    return file.peek(64).lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")[:1] in (b"{", b"[")


def find_fault(text: str) -> str | None:
    """Why the text of a row cannot be used: it is too large, or its bytes are not in the table's encoding."""
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            byte = f"the byte 0x{code - 0xDC00:02x} is" if 0xDC80 <= code <= 0xDCFF else "a character is"
            return f"broken row: {byte} not in the table's encoding, give it as `encoding` of the source"
    return f"too_large: the row has more than {MAX_ROW_BYTES} bytes" if size > MAX_ROW_BYTES else None
