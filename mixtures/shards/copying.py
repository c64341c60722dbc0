"""Copy samples by byte range from the tars of runs into one tar of a mixture, checking their headers."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from infra import storage
from infra.errors import StageError
from mixtures.shards.ustar import BLOCK, count_end, count_padding, parse_header, rename_header

#: Bytes read, hashed and written at a time (ours).
BUFFER_BYTES = 4 * 2**20

#: Tars of runs that are open at once.
MAX_OPEN_TARS = 32

EXPORT_AGAIN = "`reelmill audit` on that run reports what else is wrong; export it again, then run this command again"


@dataclass(frozen=True)
class SampleSpan:
    """A sample in a run's tar: `size` bytes from `offset`, headers and padding included.

    repeat: 0 for the first copy of a key in the mixture; further copies get a key of their own.
    """

    key: str
    repeat: int
    tar: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        """The key of the copy: no reader sees a key twice."""
        return name_copy(self.key, self.repeat)


def name_copy(key: str, repeat: int) -> str:
    """KEY for the first copy of a sample, KEY-r1 for the second, and so on. A dot would end a key."""
    return f"{key}-r{repeat}" if repeat else key


class SourceTars:
    """The tars that samples are copied from, opened when needed. For one thread."""

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
            content = file.read(len(view))
            done = len(content)
            view[:done] = content
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
    """A tar under construction in a temporary file: hashed while it is written, each buffer read back at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage.report_disk_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._state = hashlib.sha256()
        self._buffer = bytearray(BUFFER_BYTES)
        self._back = bytearray(BUFFER_BYTES)
        self._used = 0
        self.size = 0

    def reserve(self, size: int) -> memoryview:
        """Reserve up to `size` bytes of the buffer, at least one block; their contents are written."""
        if self._used == BUFFER_BYTES:
            self._flush()
        start = self._used
        self._used = min(BUFFER_BYTES, start + size)
        return memoryview(self._buffer)[start : self._used]

    def reserve_whole(self, size: int) -> memoryview | None:
        """Reserve exactly `size` bytes; None where the buffer is too small."""
        if size > BUFFER_BYTES:
            return None
        if self._used + size > BUFFER_BYTES:
            self._flush()
        return self.reserve(size)

    def finish(self) -> tuple[str, int]:
        """End the tar and close the file; returns its sha256 and size."""
        end = count_end(self.size + self._used)
        while end:
            view = self.reserve(end)
            view[:] = bytes(len(view))
            end -= len(view)
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
            with storage.report_disk_errors(self._path):
                done += os.pwrite(self._descriptor, view[done:], self.size + done)
        back = memoryview(self._back)[: self._used]
        count = os.preadv(self._descriptor, [back], self.size)
        # Memoryviews compare byte by byte in a slow loop, and slices are copies: compare whole buffers where full.
        end = self._used
        same = self._back == self._buffer if end == BUFFER_BYTES else self._back[:end] == self._buffer[:end]
        if count != end or not same:
            raise StageError("bytes read back differ from those written", where=str(self._path), hint="check the disk")
        self.size += self._used
        self._used = 0


def copy_samples(path: Path, spans: Iterable[SampleSpan], sources: SourceTars) -> tuple[str, int]:
    """Copy spans in order into a new tar at `path`; returns its sha256 and size.

    Raises StageError where a span is not the expected sample, a tar is missing or short, or the disk is full.
    """
    writer = TarWriter(path)
    try:
        for span in spans:
            view = writer.reserve_whole(span.size)
            if view is None:
                header = _copy_large(writer, span, sources)
            else:
                sources.read_into(span.tar, span.offset, view)
                header = 0
                while header < span.size:
                    header = _check_header(view[header : header + BLOCK], span, header)
            if header != span.size:
                raise _mismatch_error(span, "its last member ends elsewhere")
        return writer.finish()
    finally:
        writer.close()


def _copy_large(writer: TarWriter, span: SampleSpan, sources: SourceTars) -> int:
    """Copy a sample larger than the buffer in whole blocks; returns where its last member ends."""
    done = header = 0
    while done < span.size:
        view = writer.reserve(span.size - done)
        sources.read_into(span.tar, span.offset + done, view)
        while header < done + len(view):
            header = _check_header(view[header - done : header - done + BLOCK], span, header)
        done += len(view)
    return header


def _check_header(block: memoryview, span: SampleSpan, offset: int) -> int:
    """Check a member's header at an offset of a span, rename it to the copy's key, and return the next one's offset."""
    try:
        name, size = parse_header(bytes(block))
    except ValueError as error:
        raise _mismatch_error(span, str(error)) from None
    key, dot, suffix = name.partition(".")
    if key != span.key or not dot:
        raise _mismatch_error(span, f"found {name!r}")
    if span.repeat:
        block[:] = rename_header(bytes(block), f"{span.name}.{suffix}")
    return offset + BLOCK + size + count_padding(size)


def _mismatch_error(span: SampleSpan, reason: str) -> StageError:
    return StageError(
        f"sample {span.key} is not at byte {span.offset:,}: {reason}",
        where=span.tar,
        hint=f"the shard is damaged, or is not the one that the mixture was planned on; {EXPORT_AGAIN}",
    )
