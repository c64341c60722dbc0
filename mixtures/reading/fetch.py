"""Byte ranges of many samples in the order requested: read ahead, in few requests, within bounded memory.

The requested ranges are split into segments. While one segment is consumed, the next is prefetched: local files by
advising the kernel, remote files by merging nearby ranges into blocks that threads fetch.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from infra import storage
from infra.errors import StageError

#: Maximum bytes in memory or in flight, unless two samples alone exceed it (ours).
CACHE_BYTES = 256 * 2**20
#: Ranges closer than this are fetched in one request, up to BLOCK_BYTES (ours).
GAP_BYTES = 64 * 2**10
BLOCK_BYTES = 8 * 2**20
THREADS = 8

_SEGMENT_RANGES = 512  # a segment of small samples would otherwise be long, and delay its first sample
_OPEN_FILES = 128
_TRIES = 4
_PAUSE_S = 0.25
_COPIED_WHOLE = "was the shard copied completely? `reelmill audit` compares it with its card"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes to read: `file` is an index of Fetcher.files, `key` names the sample in errors, `tag` is passed through."""

    file: int
    offset: int
    size: int
    key: str = ""
    tag: Any = None


@dataclass(slots=True)
class _Block:
    """One request. `pending`: ranges that have not been taken from it yet."""

    file: int
    offset: int
    size: int
    key: str
    pending: int = 1
    future: Future[bytes] | None = None


@dataclass(slots=True)
class _Segment:
    ranges: list[ByteRange]
    blocks: dict[int, _Block] = field(default_factory=dict)  # by position in ranges; none for local files


def _close_files(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


class Fetcher:
    """Reader of byte ranges of `files` (paths or fsspec URIs). Belongs to one process and thread; a pickled copy starts
    empty.

    buffered, peak: remote bytes in memory or in flight, now and at most. requests: how many were made.
    """

    def __init__(
        self,
        files: Sequence[str],
        *,
        cache_bytes: int = CACHE_BYTES,
        gap_bytes: int = GAP_BYTES,
        block_bytes: int = BLOCK_BYTES,
        threads: int = THREADS,
    ) -> None:
        self.files = list(files)
        self.cache_bytes = cache_bytes
        self.gap_bytes = gap_bytes
        self.block_bytes = block_bytes
        self.threads = threads
        self._start()

    def _start(self) -> None:
        self._open: OrderedDict[int, int] = OrderedDict()
        weakref.finalize(self, _close_files, self._open)  # for readers that are dropped and not closed
        self._buffer = bytearray()
        self.buffered = self.peak = self.requests = 0

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("files", "cache_bytes", "gap_bytes", "block_bytes", "threads")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def close(self) -> None:
        """Close the open files; reading opens them again."""
        _close_files(self._open)

    def stream(self, ranges: Iterable[ByteRange]) -> Generator[tuple[ByteRange, memoryview], None, None]:
        """Yield each range with its bytes, in order. The bytes may be overwritten when the next are requested.

        Raises StageError that names the file where it is absent, shorter than the range, or cannot be read.
        """
        segments = self._split(iter(ranges))
        pool: ThreadPoolExecutor | None = None
        ahead: deque[_Segment] = deque()
        try:
            while True:
                while len(ahead) < 2 and (segment := next(segments, None)) is not None:
                    if segment.blocks and pool is None:
                        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fetch")
                    self._prefetch(segment, pool)
                    ahead.append(segment)
                if not ahead:
                    return
                current = ahead.popleft()
                for position, byte_range in enumerate(current.ranges):
                    block = current.blocks.get(position)
                    yield byte_range, self._read_local(byte_range) if block is None else self._take(block, byte_range)
        finally:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
            self.buffered = 0

    def _split(self, ranges: Iterator[ByteRange]) -> Iterator[_Segment]:
        """Split ranges into segments of at most half of cache_bytes each."""
        half = self.cache_bytes // 2
        segment: list[ByteRange] = []
        total = 0
        for byte_range in ranges:
            if segment and (total + byte_range.size > half or len(segment) == _SEGMENT_RANGES):
                yield self._merge(segment, half - total)
                segment, total = [], 0
            segment.append(byte_range)
            total += byte_range.size
        if segment:
            yield self._merge(segment, half - total)

    def _merge(self, ranges: list[ByteRange], spare: int) -> _Segment:
        """Merge nearby remote ranges into blocks; the gaps between them may cost `spare` bytes."""
        segment = _Segment(ranges)
        remote = [i for i, byte_range in enumerate(ranges) if not storage.is_local(self.files[byte_range.file])]
        block: _Block | None = None
        for i in sorted(remote, key=lambda i: (ranges[i].file, ranges[i].offset, i)):
            byte_range = ranges[i]
            if block is not None and block.file == byte_range.file:
                end = block.offset + block.size
                gap = max(0, byte_range.offset - end)
                size = max(end, byte_range.offset + byte_range.size) - block.offset
                if gap <= min(self.gap_bytes, spare) and size <= self.block_bytes:
                    spare -= gap
                    block.size = size
                    block.pending += 1
                    segment.blocks[i] = block
                    continue
            block = segment.blocks[i] = _Block(byte_range.file, byte_range.offset, byte_range.size, byte_range.key)
        return segment

    # -- local files --------------------------------------------------------------------------------------------

    def _read_local(self, byte_range: ByteRange) -> memoryview:
        descriptor = self._open_local(byte_range.file, byte_range.key)
        if len(self._buffer) < byte_range.size:
            self._buffer = bytearray(max(byte_range.size, 2 * len(self._buffer), 2**20))
        view = memoryview(self._buffer)[: byte_range.size]
        done = 0
        while done < byte_range.size:
            count = os.preadv(descriptor, [view[done:]], byte_range.offset + done)
            if not count:
                raise _truncated_error(self.files[byte_range.file], byte_range, done)
            done += count
        return view

    def _open_local(self, file: int, key: str = "") -> int:
        if file in self._open:
            self._open.move_to_end(file)
            return self._open[file]
        path = storage.local_path(self.files[file])
        try:
            descriptor = self._open[file] = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise _missing_error(self.files[file], key, error) from None
        while len(self._open) > _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return descriptor

    # -- remote files -------------------------------------------------------------------------------------------

    def _prefetch(self, segment: _Segment, pool: ThreadPoolExecutor | None) -> None:
        for position, byte_range in enumerate(segment.ranges):
            block = segment.blocks.get(position)
            if block is None:
                if hasattr(os, "posix_fadvise"):
                    with contextlib.suppress(StageError):  # reported when that sample is read
                        descriptor = self._open_local(byte_range.file)
                        os.posix_fadvise(descriptor, byte_range.offset, byte_range.size, os.POSIX_FADV_WILLNEED)
            elif block.future is None and pool is not None:
                self.buffered += block.size
                self.peak = max(self.peak, self.buffered)
                self.requests += 1
                block.future = pool.submit(fetch_range, self.files[block.file], block.offset, block.size, block.key)

    def _take(self, block: _Block, byte_range: ByteRange) -> memoryview:
        assert block.future is not None
        content = block.future.result()
        block.pending -= 1
        if not block.pending:
            block.future = None
            self.buffered -= block.size
        start = byte_range.offset - block.offset
        return memoryview(content)[start : start + byte_range.size]


def fetch_range(
    uri: str, offset: int, size: int, key: str = "", *, pause: Callable[[float], None] = time.sleep
) -> bytes:
    """Fetch one range of a remote file; retries where the connection, not the request, is at fault.

    Raises StageError where the file is absent, shorter than the range, or its server does not support ranges.
    """
    import aiohttp
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    failure = f"cannot fetch bytes {offset:,} to {offset + size:,}{_of_sample(key)}"
    for attempt in range(_TRIES):
        try:
            content = bytes(filesystem.cat_file(path, start=offset, end=offset + size))
        except FileNotFoundError as error:
            raise _missing_error(uri, key, error) from None
        except (OSError, aiohttp.ClientError) as error:
            status = getattr(error, "status", 0)
            if 400 <= status < 500 and status not in (408, 429):
                reason = "the file ends before them" if status == 416 else f"status {status}"
                raise StageError(f"{failure} ({reason})", where=uri, hint=_COPIED_WHOLE) from None
            if attempt + 1 == _TRIES:
                raise StageError(
                    f"{failure} after {_TRIES} tries ({type(error).__name__}: {error})",
                    where=uri,
                    hint="check the connection, then resume from the loader's last state",
                ) from None
            pause(_PAUSE_S * 2**attempt)
            continue
        if len(content) > size:
            raise StageError(
                "the server sent the whole file instead of the requested range",
                where=uri,
                hint="serve the shards with a server that supports HTTP ranges, or copy them to local disk",
            )
        if len(content) < size:
            raise _truncated_error(uri, ByteRange(0, offset, size, key), len(content))
        return content
    raise AssertionError("unreachable")


def _truncated_error(uri: str, byte_range: ByteRange, available: int) -> StageError:
    return StageError(
        f"the shard is truncated: {available:,} of {byte_range.size:,} bytes{_of_sample(byte_range.key)} from byte "
        f"{byte_range.offset:,} exist",
        where=uri,
        hint=_COPIED_WHOLE,
    )


def _of_sample(key: str) -> str:
    return f" of sample {key}" if key else ""


def _missing_error(uri: str, key: str, error: OSError) -> StageError:
    reason = error.strerror or "no such file"
    return StageError(
        f"the shard{_of_sample(key)} cannot be opened ({reason})",
        where=uri,
        hint="the mixture's runs must keep their location relative to the mixture",
    )
