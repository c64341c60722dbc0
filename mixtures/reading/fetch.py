"""Bytes of many samples in the order they are wanted: read ahead, in few requests, within a bound of memory.

What is wanted is cut into segments. While one is consumed, the next is on its way: from a local file the system is told
what will be read; from anywhere else neighbouring spans are joined to blocks that threads fetch.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from infra import storage
from infra.errors import StageError

#: Ours. Bytes held or under way at most, unless two samples alone are more.
CACHE_BYTES = 256 * 2**20
#: Ours. Spans nearer than this are fetched as one, up to so many bytes a request.
GAP_BYTES = 64 * 2**10
BLOCK_BYTES = 8 * 2**20
THREADS = 8

_SEGMENT_SPANS = 512  # of small samples a segment would be long, and the first would wait for its planning
_OPEN_FILES = 128
_TRIES = 4
_PAUSE_S = 0.25


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes wanted: `file` counts in Fetcher.files; `key` names the sample in errors, `tag` travels along."""

    file: int
    offset: int
    size: int
    key: str = ""
    tag: Any = None


@dataclass(slots=True)
class _Block:
    """One request. `waiting`: spans that are still to be cut out of it."""

    file: int
    offset: int
    size: int
    key: str
    waiting: int = 0
    future: Future[bytes] | None = None


@dataclass(slots=True)
class _Segment:
    spans: list[ByteRange]
    blocks: dict[int, _Block] = field(default_factory=dict)  # by place in spans; none for local files


class Fetcher:
    """Reads spans of `files` (paths or fsspec URIs). Of one process and one thread; a copy sent elsewhere starts anew.

    held, peak: bytes fetched from afar or under way, now and at most. requests: how many were made.
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
        self._buffer = bytearray()
        self.held = self.peak = self.requests = 0

    def __getstate__(self) -> dict[str, Any]:
        kept = ("files", "cache_bytes", "gap_bytes", "block_bytes", "threads")
        return {name: getattr(self, name) for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def close(self) -> None:
        """Close the files that are open; reading opens them again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def stream(self, wanted: Iterable[ByteRange]) -> Generator[tuple[ByteRange, memoryview], None, None]:
        """Each span with its bytes, in order. The bytes may be overwritten when the next are asked for.

        Raises StageError that names the file where it is absent, shorter than the span, or cannot be read.
        """
        segments = self._segments(iter(wanted))
        pool: ThreadPoolExecutor | None = None
        ahead: deque[_Segment] = deque()
        try:
            while True:
                while len(ahead) < 2 and (segment := next(segments, None)) is not None:
                    if segment.blocks and pool is None:
                        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="fetch")
                    self._ask(segment, pool)
                    ahead.append(segment)
                if not ahead:
                    return
                current = ahead.popleft()
                for place, span in enumerate(current.spans):
                    block = current.blocks.get(place)
                    yield span, self._local(span) if block is None else self._cut(block, span)
        finally:
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
            self.held = 0

    def _segments(self, wanted: Iterator[ByteRange]) -> Iterator[_Segment]:
        """Runs of spans of at most half of what may be held."""
        half = self.cache_bytes // 2
        spans: list[ByteRange] = []
        total = 0
        for span in wanted:
            if spans and (total + span.size > half or len(spans) == _SEGMENT_SPANS):
                yield self._blocked(spans, half - total)
                spans, total = [], 0
            spans.append(span)
            total += span.size
        if spans:
            yield self._blocked(spans, half - total)

    def _blocked(self, spans: list[ByteRange], spare: int) -> _Segment:
        """Join what lies close together; the gaps between may cost `spare` bytes."""
        segment = _Segment(spans)
        far = [i for i, span in enumerate(spans) if not storage.is_local(self.files[span.file])]
        block: _Block | None = None
        for i in sorted(far, key=lambda i: (spans[i].file, spans[i].offset, i)):
            span = spans[i]
            if block is not None and block.file == span.file:
                end = block.offset + block.size
                gap = max(0, span.offset - end)
                size = max(end, span.offset + span.size) - block.offset
                if gap <= min(self.gap_bytes, spare) and size <= self.block_bytes:
                    spare -= gap
                    block.size = size
                    block.waiting += 1
                    segment.blocks[i] = block
                    continue
            block = segment.blocks[i] = _Block(span.file, span.offset, span.size, span.key, 1)
        return segment

    # -- near ---------------------------------------------------------------------------------------------------

    def _local(self, span: ByteRange) -> memoryview:
        handle = self._handle(span.file, span.key)
        if len(self._buffer) < span.size:
            self._buffer = bytearray(max(span.size, 2 * len(self._buffer), 2**20))
        view = memoryview(self._buffer)[: span.size]
        got = 0
        while got < span.size:
            more = os.preadv(handle, [view[got:]], span.offset + got)
            if not more:
                raise _short(self.files[span.file], span, got)
            got += more
        return view

    def _handle(self, file: int, key: str = "") -> int:
        handle = self._open.get(file)
        if handle is not None:
            self._open.move_to_end(file)
            return handle
        path = storage.local_path(self.files[file])
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except OSError as error:
            raise _absent(self.files[file], key, error) from None
        self._open[file] = handle
        while len(self._open) > _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return handle

    # -- far ----------------------------------------------------------------------------------------------------

    def _ask(self, segment: _Segment, pool: ThreadPoolExecutor | None) -> None:
        for place, span in enumerate(segment.spans):
            block = segment.blocks.get(place)
            if block is None:
                if hasattr(os, "posix_fadvise"):
                    with contextlib.suppress(StageError):  # told when it is that sample's turn
                        os.posix_fadvise(self._handle(span.file), span.offset, span.size, os.POSIX_FADV_WILLNEED)
            elif block.future is None and pool is not None:
                self.held += block.size
                self.peak = max(self.peak, self.held)
                self.requests += 1
                block.future = pool.submit(fetch_range, self.files[block.file], block.offset, block.size, block.key)

    def _cut(self, block: _Block, span: ByteRange) -> memoryview:
        assert block.future is not None
        data = block.future.result()
        block.waiting -= 1
        if not block.waiting:
            block.future = None
            self.held -= block.size
        start = span.offset - block.offset
        return memoryview(data)[start : start + span.size]


def fetch_range(
    uri: str, offset: int, size: int, key: str = "", *, pause: Callable[[float], None] = time.sleep
) -> bytes:
    """One range of a remote file; tried again where the connection and not the request is at fault.

    Raises StageError where the file is absent, shorter than the range, or its server knows no ranges.
    """
    import aiohttp
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    span = ByteRange(0, offset, size, key)
    what = f"bytes {offset:,} to {offset + size:,}{_for(key)} cannot be had"
    for attempt in range(_TRIES):
        try:
            data = bytes(filesystem.cat_file(path, start=offset, end=offset + size))
        except FileNotFoundError as error:
            raise _absent(uri, key, error) from None
        except (OSError, aiohttp.ClientError) as error:
            status = getattr(error, "status", 0)
            if 400 <= status < 500 and status not in (408, 429):
                code = "its end lies before them" if status == 416 else f"status {status}"
                raise StageError(f"{what} ({code})", where=uri, hint=_WHOLE) from None
            if attempt + 1 == _TRIES:
                raise StageError(
                    f"{what} after {_TRIES} tries ({type(error).__name__}: {error})",
                    where=uri,
                    hint="check the connection, then go on from the loader's last state",
                ) from None
            pause(_PAUSE_S * 2**attempt)
            continue
        if len(data) > size:
            raise StageError(
                "the server sent the whole file where a range was asked for",
                where=uri,
                hint="serve the shards with a server that knows HTTP ranges, or copy them near",
            )
        if len(data) < size:
            raise _short(uri, span, len(data))
        return data
    raise AssertionError("unreachable")


_WHOLE = "was the shard copied whole? `reelmill audit` compares it with its card"


def _short(uri: str, span: ByteRange, got: int) -> StageError:
    return StageError(
        f"the shard is cut short: of the {span.size:,} bytes{_for(span.key)} from byte {span.offset:,} on "
        f"{got:,} are there",
        where=uri,
        hint=_WHOLE,
    )


def _for(key: str) -> str:
    return f" of sample {key}" if key else ""


def _absent(uri: str, key: str, error: OSError) -> StageError:
    why = error.strerror or "there is no such file"
    return StageError(
        f"the shard{_for(key)} cannot be opened ({why})",
        where=uri,
        hint="the mixture's runs must lie where they lay when it was made, beside it",
    )
