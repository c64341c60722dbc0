"""The decoder's child process: the one place where untrusted media meets a codec.

Run by infra.media.decoder as `python -m infra.media.decoder_child ARENA_FD ADDRESS_SPACE`. Requests and replies are
pickles preceded by their length (8 bytes, little endian) on stdin and stdout. Pixels go through the arena, an unnamed
file that both sides map. The child ends when stdin ends. A request that hangs is ended by the parent or, should the
parent have died, by an alarm.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from infra.errors import BadSample
from infra.media.interface import FramePlan, MediaRef, StreamObserver
from infra.media.pixels import Limits, Medium, Pixels, open_medium

_TRIM_BYTES = 64 * 2**20  # an arena that grew beyond this releases its memory after use
_ALARM_AFTER_S = 30.0  # beyond the parent's own watchdog


@dataclass(frozen=True)
class DecodeRequest:
    """A request of the parent. A probe reads no more than the header needs."""

    ref: MediaRef
    probe: bool
    plans: Mapping[str, FramePlan]
    observers: Mapping[str, StreamObserver]
    limits: Limits


@dataclass(frozen=True)
class ArenaFrames:
    """Locations of one plan's frames in the arena: `height` × `width` × 3 bytes each."""

    height: int
    width: int
    offsets: tuple[int, ...]
    times: tuple[float, ...]


@dataclass(frozen=True)
class DecodeReply:
    """The answer to a request.

    bug: a traceback, of a mistake in our own code, which must stop the job. used: bytes of the arena.
    """

    header: Mapping[str, Any] = field(default_factory=dict)
    frames: Mapping[str, ArenaFrames] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str | None = None
    bug: str | None = None
    used: int = 0
    seconds: float = 0.0


class Arena:
    """The shared file, filled from the front, grown by doubling."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None
        self._size = 0
        self.used = 0

    def clear(self) -> None:
        self.used = 0
        if self._size > _TRIM_BYTES:
            self._unmap()
            os.ftruncate(self._fd, 0)
            self._size = 0

    def put(self, pixels: Pixels) -> int:
        """Append `pixels` (C-contiguous); returns their offset."""
        offset, end = self.used, self.used + pixels.nbytes
        if end > self._size:
            self._unmap()
            self._size = max(2 * self._size, end, 2**20)
            os.ftruncate(self._fd, self._size)
        if self._map is None:
            self._map = mmap.mmap(self._fd, self._size)
        self._map[offset:end] = pixels.reshape(-1).data
        self.used = end
        return offset

    def _unmap(self) -> None:
        if self._map is not None:
            self._map.close()
            self._map = None


def serve(requests: IO[bytes], replies: IO[bytes], arena: Arena) -> None:
    """Answer until `requests` ends."""
    _send(replies, DecodeReply())  # ready
    while (request := _receive(requests)) is not None:
        _send(replies, answer(request, arena))


def answer(payload: bytes, arena: Arena) -> DecodeReply:
    """Handle one request. Everything that a bad sample can cause is a reply with `error`; the rest is a bug."""
    arena.clear()
    started = time.perf_counter()
    try:
        request: DecodeRequest = pickle.loads(payload)  # noqa: S301  (from our own parent)
        signal.setitimer(signal.ITIMER_REAL, request.limits.watchdog_s + _ALARM_AFTER_S)
        try:
            reply = _image(request, arena) if request.ref.kind == "image" else _video(request, arena)
        except BadSample as error:
            reply = DecodeReply(error=str(error))
        except MemoryError:
            reply = DecodeReply(error="memory: the decoder ran out of memory")
    except Exception:  # noqa: BLE001  (the boundary: a mistake in our code or in an observer is reported to the parent)
        reply = DecodeReply(bug=traceback.format_exc())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.perf_counter() - started
    return DecodeReply(reply.header, reply.frames, reply.streams, reply.error, reply.bug, arena.used, seconds)


def _video(request: DecodeRequest, arena: Arena) -> DecodeReply:
    from infra.media.video import VideoReader, decode_frames

    medium = open_medium(request.ref, request.limits)
    try:
        reader = VideoReader(medium, request.ref, request.limits)
        try:
            if request.probe:
                frame, _ = next(reader.frames())
                return DecodeReply(header=reader.header(frame))
            offsets: dict[tuple[int, int, int], int] = {}

            def keep(number: int, pixels: Pixels) -> None:
                offsets[number, pixels.shape[1], pixels.shape[0]] = arena.put(pixels)

            header, selectors, streams = decode_frames(reader, request.plans, request.observers, request.limits, keep)
            frames = {}
            for name, selector in selectors.items():
                width, height = selector.width, selector.height
                taken = tuple(offsets[number, width, height] for number in selector.numbers)
                frames[name] = ArenaFrames(height, width, taken, tuple(selector.times))
            return DecodeReply(header=header, frames=frames, streams=streams)
        finally:
            reader.close()
    finally:
        _close(medium)


def _image(request: DecodeRequest, arena: Arena) -> DecodeReply:
    from infra.media.image import decode_picture, read_header, resize_for_plans

    medium = open_medium(request.ref, request.limits)
    try:
        image, header, orientation = read_header(medium, request.limits)
        if request.probe:
            return DecodeReply(header=header)
        pixels = decode_picture(image, orientation)
        offsets: dict[int, int] = {}
        frames = {}
        for name, image_pixels in resize_for_plans(pixels, request.plans).items():
            if id(image_pixels) not in offsets:
                offsets[id(image_pixels)] = arena.put(image_pixels)
            height, width, _ = image_pixels.shape
            frames[name] = ArenaFrames(height, width, (offsets[id(image_pixels)],), (0.0,))
        return DecodeReply(header=header, frames=frames)
    finally:
        _close(medium)


def _close(medium: Medium) -> None:
    try:
        medium.file.close()
    except OSError:  # read only: nothing can be lost
        return


def _receive(file: IO[bytes]) -> bytes | None:
    head = file.read(8)
    if len(head) < 8:
        return None
    return file.read(int.from_bytes(head, "little"))


def _send(file: IO[bytes], reply: DecodeReply) -> None:
    payload = pickle.dumps(reply, protocol=pickle.HIGHEST_PROTOCOL)
    file.write(len(payload).to_bytes(8, "little") + payload)
    file.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the child by closing stdin
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    address_space = int(sys.argv[2])
    if address_space > 0:
        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))
    import av
    import cv2
    import PIL.Image  # noqa: F401

    av.logging.set_level(None)
    cv2.setNumThreads(1)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Codecs print to both; only our own pickles may pass.
    silence = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(silence, fd)
    serve(requests, replies, Arena(int(sys.argv[1])))


if __name__ == "__main__":
    # Pickles name classes by module: the parent must not receive classes of `__main__`.
    from infra.media import decoder_child

    decoder_child.main()
