"""Samples copied whole from the tars of runs into one tar of a mixture: byte ranges, looked at on the way."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from infra import storage
from infra.errors import StageError

#: Bytes of a tar's header, and what everything in a tar is padded to.
BLOCK = 512

#: A tar ends with two empty blocks and is padded to this (ustar's record).
RECORD = 20 * BLOCK

#: Bytes that are read, hashed and written at a time (ours).
BUFFER_BYTES = 4 * 2**20

#: Tars of runs that are held open at once.
MAX_OPEN_TARS = 32

EXPORT_AGAIN = "`reelmill audit` on that run says what else is wrong; export it again, then run this command again"


@dataclass(frozen=True)
class SampleSpan:
    """A sample in a run's tar: `size` bytes from `offset`, headers and padding included.

    repeat: 0 where the key stands in the mixture for the first time; else the copy gets a key of its own.
    """

    key: str
    repeat: int
    tar: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """The key that the copy has: no reader sees one twice."""
        return name_copy(self.key, self.repeat)


def name_copy(key: str, repeat: int) -> str:
    """KEY for the first copy of a sample, KEY-r1 for the second, and so on; a dot would end a key."""
    return f"{key}-r{repeat}" if repeat else key


class SourceTars:
    """The tars that samples are copied from, opened when needed. Not for several threads."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, IO[bytes]] = OrderedDict()

    def read_into(self, tar: str, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset` of a tar.

        Raises StageError where the tar is missing or too short.
        """
        file = self._file(tar)
        done = 0
        if storage.is_local(tar):
            while done < len(view):
                count = os.preadv(file.fileno(), [view[done:]], offset + done)
                if not count:
                    break
                done += count
        else:
            file.seek(offset)
            data = file.read(len(view))
            done = len(data)
            view[:done] = data
        if done < len(view):
            raise StageError(f"a shard ends before byte {offset + len(view):,}", where=tar, hint=EXPORT_AGAIN)

    def _file(self, tar: str) -> IO[bytes]:
        if tar in self._open:
            self._open.move_to_end(tar)
            return self._open[tar]
        try:
            file = storage.open_read(tar)
        except FileNotFoundError:
            raise StageError("a shard is missing", where=tar, hint=EXPORT_AGAIN) from None
        self._open[tar] = file
        if len(self._open) > MAX_OPEN_TARS:
            self._open.popitem(last=False)[1].close()
        return file

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()


class TarWriter:
    """A tar under construction in a temporary file: hashed while it is written, and each piece read back at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._state = hashlib.sha256()
        self._buffer = bytearray(BUFFER_BYTES)
        self._back = bytearray(BUFFER_BYTES)
        self._used = 0
        self.size = 0

    def room(self, wanted: int) -> memoryview:
        """A place of up to `wanted` bytes in the buffer, at least one block; what is put there is written."""
        if self._used == BUFFER_BYTES:
            self._flush()
        start = self._used
        self._used = min(BUFFER_BYTES, start + wanted)
        return memoryview(self._buffer)[start : self._used]

    def whole(self, wanted: int) -> memoryview | None:
        """A place of exactly `wanted` bytes, or None where the buffer can never hold that."""
        if wanted > BUFFER_BYTES:
            return None
        if self._used + wanted > BUFFER_BYTES:
            self._flush()
        return self.room(wanted)

    def finish(self) -> tuple[str, int]:
        """End the tar and close the file; returns its sha256 and size."""
        end = 2 * BLOCK
        end += -(self.size + self._used + end) % RECORD
        while end:
            place = self.room(end)
            place[:] = bytes(len(place))
            end -= len(place)
        self._flush()
        self.close()
        return self._state.hexdigest(), self.size

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _flush(self) -> None:
        view = memoryview(self._buffer)[: self._used]
        self._state.update(view)
        done = 0
        while done < len(view):
            with report_disk_errors(self._path):
                done += os.pwrite(self._descriptor, view[done:], self.size + done)
        back = memoryview(self._back)[: self._used]
        count = os.preadv(self._descriptor, [back], self.size)
        # Two memoryviews are compared byte by byte in a slow loop, and slices are copies: whole buffers where they are.
        cut = None if self._used == BUFFER_BYTES else slice(self._used)
        same = self._back == self._buffer if cut is None else self._back[cut] == self._buffer[cut]
        if count != len(view) or not same:
            raise StageError("what was read back is not what was written", where=str(self._path), hint="check the disk")
        self.size += self._used
        self._used = 0


@contextmanager
def report_disk_errors(path: Path) -> Iterator[None]:
    """A full or broken disk as StageError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG):
            raise
        raise StageError(
            f"cannot write: {os.strerror(error.errno)}",
            where=str(path.parent),
            hint="make room and run the same command again: tars that are finished stay and are not made again",
        ) from None


def copy_samples(path: Path, spans: Iterable[SampleSpan], sources: SourceTars) -> tuple[str, int]:
    """Copy spans into a new tar at `path`, in the order given; returns its sha256 and size.

    Raises StageError where a span is not the sample that it should be, a tar is missing or short, or the disk is full.
    """
    writer = TarWriter(path)
    try:
        for span in spans:
            place = writer.whole(span.size)
            if place is not None:
                sources.read_into(span.tar, span.offset, place)
                at = 0
                while at < span.size:
                    at = _header(place[at : at + BLOCK], span, at)
                if at != span.size:
                    raise _wrong(span, "its last member ends elsewhere")
            else:
                _stream(writer, span, sources)
        return writer.finish()
    finally:
        writer.close()


def _stream(writer: TarWriter, span: SampleSpan, sources: SourceTars) -> None:
    """A sample larger than the buffer, piece by piece; pieces end where headers may begin."""
    at = header = 0
    while at < span.size:
        place = writer.room(span.size - at)
        sources.read_into(span.tar, span.offset + at, place)
        while header < at + len(place):
            header = _header(place[header - at : header - at + BLOCK], span, header)
        at += len(place)
    if header != span.size:
        raise _wrong(span, "its last member ends elsewhere")


def _header(block: memoryview, span: SampleSpan, at: int) -> int:
    """Look at a member's header at byte `at` of a span, give it the copy's key, and return where the next one is."""
    try:
        name, size = parse_header(bytes(block))
    except ValueError as error:
        raise _wrong(span, str(error)) from None
    key, dot, suffix = name.partition(".")
    if key != span.key or not dot:
        raise _wrong(span, f"{name!r} lies there")
    if span.repeat:
        block[:] = rename_header(bytes(block), f"{span.name}.{suffix}")
    return at + BLOCK + size + -size % BLOCK


def parse_header(block: bytes) -> tuple[str, int]:
    """(name, size of the content) of a ustar header as export writes it.

    Raises ValueError for a block that is none, or whose checksum is not its own.
    """
    try:
        size, checksum = int(block[124:135], 8), int(block[148:154], 8)
    except ValueError:
        raise ValueError("no tar header lies there") from None
    right = block[148:156] == b"%06o\0 " % checksum and block[156:157] in (b"0", b"\0")
    if not right or sum(block) - sum(block[148:156]) + 8 * 32 != checksum:
        raise ValueError("a tar header there is damaged")
    return block[:100].rstrip(b"\0").decode("ascii", "replace"), size


def rename_header(block: bytes, name: str) -> bytes:
    """A ustar header with another name, which must have at most 100 characters."""
    encoded = name.encode("ascii")
    if len(encoded) > 100:
        raise ValueError(f"{name!r} is too long for a tar header")
    block = encoded.ljust(100, b"\0") + block[100:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _wrong(span: SampleSpan, what: str) -> StageError:
    return StageError(
        f"sample {span.key} is not at byte {span.offset:,}: {what}",
        where=span.tar,
        hint=f"this is another shard than the one that the mixture was planned on, or it is damaged; {EXPORT_AGAIN}",
    )
