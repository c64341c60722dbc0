"""Shared by images and videos in the decoder's child: opening bytes, guarding library calls, resizing pixels."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from infra import storage
from infra.errors import BadSample
from infra.media.interface import FramePlan, MediaRef
from infra.pool import count_cores

Pixels = NDArray[np.uint8]

STRIP_ROWS = 64  # of a picture that is converted strip by strip
_OPENCV_NO_MEMORY = -4  # cv2.Error.StsNoMem


def machine_memory() -> int:
    """Bytes of memory that this process may use: the machine's, or the lowest limit of its control groups."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        groups = [line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        groups = []
    for controllers, path in groups:
        if controllers in ("", "memory"):
            root, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
            for folder in (Path(path), *Path(path).parents):
                limit = Path("/sys/fs/cgroup", root, str(folder).lstrip("/"), name)
                try:
                    sizes.append(int(limit.read_text()))
                except (OSError, ValueError):  # there is none here, or it is "max"
                    continue
    return min(sizes)


def share_of_memory() -> int:
    """The default of `Limits.memory`: the machine's memory divided by its cores, at least 2 GiB and at most 8 GiB
    (ours: the largest sound pictures need 1.5 GiB, and videos of 8K with many references up to 4 GiB)."""
    return min(max(machine_memory() // count_cores(), 2 * 2**30), 8 * 2**30)


@dataclass(frozen=True)
class Limits:
    """Maximum costs of one medium. All are counted, so that they decide alike on every machine; only `watchdog_s` is
    a time, and has an error of its own. The defaults are ours.

    max_bytes: of the medium. max_pixels: of one frame. max_packets, max_frames, max_seconds: of a video or of
    the span requested. max_frame_bytes: of the frames returned for one plan; a plan that would need more
    gets fewer frames, evenly spread, whatever the other plans are. memory: what the child may allocate, and what all
    frames of a medium may need, in bytes each; 0: no limit. It depends on the machine, and has an error of its own too.
    """

    max_bytes: int = 4 * 2**30
    max_pixels: int = 2**26
    max_packets: int = 1_000_000
    max_frames: int = 100_000
    max_seconds: float = 4 * 3600.0
    max_frame_bytes: int = 256 * 2**20
    watchdog_s: float = 120.0
    memory: int = field(default_factory=share_of_memory)


class CodecGuard:
    """Context around a library call on untrusted bytes: any exception means that the bytes are bad.

    Crafted files make libraries raise nearly anything (struct.error, TypeError, SyntaxError, …), so no list of
    types would be complete. Enclose the library's call and nothing of ours: a mistake of ours must stop the job.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None and is_out_of_memory(error):
            raise MemoryError from error
        if isinstance(error, Exception) and not isinstance(error, BadSample):
            raise BadSample(self.kind, describe(error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library failed for want of memory: each reports it in its own way."""
    is_opencv = type(error).__module__.startswith("cv2") and getattr(error, "code", None) == _OPENCV_NO_MEMORY
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and (error.errno == errno.ENOMEM or "out of memory" in str(error)))
        or is_opencv
    )


def describe(error: Exception) -> str:
    """Describe a library's error in one line, without addresses and paths, which change from run to run."""
    text = getattr(error, "strerror", None)
    if not isinstance(text, str) or not text:
        text = re.sub(r"(?:(file) )?(?:<_io[^<>]*>|<[^<>]* at 0x[0-9a-fA-F]+>)", _name_file, str(error))
    text = " ".join(text.split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _name_file(found: re.Match[str]) -> str:
    return "file" if found[1] else "the file"


class ByteRangeFile(io.RawIOBase):
    """`length` bytes of `file` from `offset`, as a read-only file without a name, by which a demuxer could find its
    neighbours."""

    def __init__(self, file: IO[bytes], offset: int, length: int) -> None:
        self._file = file
        self._offset = offset
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if at < 0:
            raise OSError(22, "seek before the start")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._length - self._at)
        if size <= 0:
            return 0
        with CodecGuard("unreadable"):
            self._file.seek(self._offset + self._at)
            content = self._file.read(size)
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


#: Largest remote medium that is read whole (ours), and bytes hashed at a time.
MAX_IN_MEMORY = 64 * 2**20
_BLOCK = 2**20


@dataclass(frozen=True)
class Medium:
    """The opened bytes of a medium: a seekable binary file and its size, which is not 0."""

    file: io.BufferedReader
    size: int

    def rewound(self) -> io.BufferedReader:
        self.file.seek(0)
        return self.file


@contextmanager
def open_medium(ref: MediaRef, limits: Limits) -> Iterator[Medium]:
    """Open the byte range of `ref` for a block. Raises BadSample unreadable, changed, truncated, empty, too_large.

    With `ref.sha256`, all bytes are hashed first, and a local file must be the same file, unwritten, when the block
    ends. A small remote object is read once, into memory, so that the bytes decoded are those that were hashed.
    """
    is_local = storage.is_local(ref.uri)
    file, total = _open_local(ref.uri.removeprefix("file://")) if is_local else _open_remote(ref.uri)
    try:
        size = ref.length if ref.length >= 0 else total - ref.offset
        state = _file_state(file)
        if ref.sha256:
            if state is None and 0 <= size <= MAX_IN_MEMORY:
                with CodecGuard("unreadable"):
                    file, total, ref = _read_range(file, ref, size), size, replace(ref, offset=0)
            _check_hash(file, ref)
        if size < 0 or ref.offset + size > total:
            raise BadSample("truncated", f"bytes {ref.offset} to {ref.offset + size} of a file of {total}")
        if size == 0:
            raise BadSample("empty", "0 bytes")
        if size > limits.max_bytes:
            raise BadSample("too_large", f"{size} bytes, limit {limits.max_bytes}")
        medium = Medium(io.BufferedReader(ByteRangeFile(file, ref.offset, size), 1 << 16), size)
        try:
            yield medium
        finally:
            if ref.sha256 and _file_state(file) != state:  # any other error may follow from it
                raise BadSample("changed", "the file was written to while it was decoded")
    finally:
        with suppress(OSError):  # read only: nothing can be lost
            file.close()


def _file_state(file: IO[bytes]) -> tuple[int, int, int] | None:
    """Size and times of a local file, which change when it is written to; None for others."""
    if not isinstance(file, io.FileIO):
        return None
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read_range(file: IO[bytes], ref: MediaRef, size: int) -> IO[bytes]:
    with file:
        file.seek(ref.offset)
        return io.BytesIO(file.read(size))


def _check_hash(file: IO[bytes], ref: MediaRef) -> None:
    """Raises BadSample changed unless the bytes of `ref` have its sha256."""
    digest = hashlib.sha256()
    with CodecGuard("unreadable"):
        file.seek(ref.offset)
        remaining = ref.length
        while block := file.read(_BLOCK if remaining < 0 else min(_BLOCK, remaining)):
            digest.update(block)
            remaining -= len(block) if remaining > 0 else 0
    if digest.hexdigest() != ref.sha256:
        raise BadSample("changed", "these are not the bytes that were ingested")


def _open_local(path: str) -> tuple[IO[bytes], int]:
    with CodecGuard("unreadable"):
        status = os.stat(path)  # noqa: PTH116  (a Path would normalise odd names)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise BadSample("unreadable", "not a regular file")
        return open(path, "rb", buffering=0), status.st_size


def _open_remote(uri: str) -> tuple[IO[bytes], int]:
    with CodecGuard("unreadable"):
        file = storage.open_read(uri)
        size = file.seek(0, io.SEEK_END)
        return file, int(size if size is not None else file.tell())


def fit_size(width: int, height: int, size: int, fit: Literal["short", "long", "skew"]) -> tuple[int, int]:
    """(width, height) of a frame after `fit`: see FramePlan. At least 1 × 1."""
    if fit == "skew":
        return size, size
    side = min(width, height) if fit == "short" else max(width, height)
    if side <= size:
        return width, height
    return max(1, (2 * width * size + side) // (2 * side)), max(1, (2 * height * size + side) // (2 * side))


def resize(pixels: Pixels, width: int, height: int) -> Pixels:
    """`pixels` (h, w, 3) at another size: area average where a side shrinks, linear where both grow."""
    import cv2

    old_height, old_width = pixels.shape[:2]
    if (old_width, old_height) == (width, height):
        return np.ascontiguousarray(pixels)
    method = cv2.INTER_AREA if width < old_width or height < old_height else cv2.INTER_LINEAR
    output = cv2.resize(np.ascontiguousarray(pixels), (width, height), interpolation=method)
    return np.asarray(output, dtype=np.uint8)


def blend_on_white(rgba: Pixels) -> Pixels:
    """(h, w, 4) with straight alpha -> (h, w, 3) on a white ground."""
    rgb = np.empty((*rgba.shape[:2], 3), dtype=np.uint8)
    for top in range(0, len(rgba), STRIP_ROWS):  # the wider numbers of a whole picture would take four times its size
        strip = rgba[top : top + STRIP_ROWS]
        alpha = strip[..., 3:].astype(np.uint16)
        mixed = strip[..., :3] * alpha + 255 * (255 - alpha)
        rgb[top : top + STRIP_ROWS] = (mixed + 127) // 255
    return rgb


def plan_times(plan: FramePlan, duration: float, at_most: int) -> list[float]:
    """Seconds from the start, ascending, of the frames of `plan`; `inf` means the last frame."""
    if plan.times == "middle":
        return [duration / 2]
    if plan.times == "uniform":
        count = max(1, min(plan.count, at_most))
        return [(i + 0.5) * duration / count for i in range(count)]
    # The small allowance excludes a frame at the very end of the duration, whatever the rounding.
    steps = max(1, int(np.ceil(duration * plan.fps - 1e-6)))
    times: Sequence[float] = [i / plan.fps for i in range(steps)]
    if plan.ends:
        times = [*times, float("inf")]
    count = max(1, min(plan.count, at_most))
    if len(times) <= count:
        return list(times)
    if count == 1:
        return [times[(len(times) - 1) // 2]]
    return [times[(2 * i * (len(times) - 1) + count - 1) // (2 * (count - 1))] for i in range(count)]
