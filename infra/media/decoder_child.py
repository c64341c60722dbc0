"""The decoder's child process: the one place where untrusted media meets a codec.

Run by infra.media.decoder as `python -m infra.media.decoder_child ARENA_FD MEMORY`. Requests and replies (see
infra.media.messages) go through stdin and stdout, pixels through the arena, an unnamed file that both sides have open.
The child ends when stdin ends. A request that hangs is ended by the parent or, should the parent have died, by an
alarm. Threads: it has one, so limits, warnings and OpenCV's settings here are no other's.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import sys
import time
import traceback
from dataclasses import replace
from typing import IO

from infra.errors import BadSample
from infra.media.messages import ArenaFrames, DecodeReply, DecodeRequest, encode_reply
from infra.media.pixels import Pixels, is_out_of_memory, open_medium

_TRIM_BYTES = 64 * 2**20  # an arena that grew beyond this releases its memory after use
_ALARM_AFTER_S = 30.0  # beyond the parent's own watchdog


class Arena:
    """The shared file, filled from the front, grown by doubling up to `max_bytes`; 0 for no limit."""

    def __init__(self, fd: int, max_bytes: int = 0) -> None:
        self._fd = fd
        self._max_bytes = max_bytes or sys.maxsize
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
        """Append `pixels` (C-contiguous); returns their offset. Raises MemoryError."""
        offset, end = self.used, self.used + pixels.nbytes
        if end > self._max_bytes:
            raise MemoryError
        if end > self._size:
            self._unmap()
            self._size = max(min(2 * self._size, self._max_bytes), end, 2**20)
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
    _send(replies, encode_reply(DecodeReply()))  # ready
    while (request := _receive(requests)) is not None:
        _send(replies, answer(request, arena))


def answer(payload: bytes, arena: Arena) -> bytes:
    """Handle one request; returns the encoded reply. Everything that a bad sample can cause is a reply with `error`;
    the rest is a bug."""
    arena.clear()
    started = time.perf_counter()
    number = 0
    try:
        request: DecodeRequest = pickle.loads(payload)  # noqa: S301  (from our own parent)
        number = request.number
        signal.setitimer(signal.ITIMER_REAL, request.limits.watchdog_s + _ALARM_AFTER_S)
        reply = _decode(request, arena)
        seconds = time.perf_counter() - started
        return encode_reply(replace(reply, number=number, used=arena.used, seconds=seconds))
    except Exception:  # noqa: BLE001  (the boundary: a mistake in our code or in an observer is reported to the parent)
        return encode_reply(DecodeReply(number, bug=_to_text(traceback.format_exc())))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _decode(request: DecodeRequest, arena: Arena) -> DecodeReply:
    try:
        return _image(request, arena) if request.ref.kind == "image" else _video(request, arena)
    except BadSample as error:
        return DecodeReply(error=_to_text(str(error)))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return DecodeReply(error=str(BadSample("memory", "decoding needs more than measure.decode_memory")))


def _to_text(text: str) -> str:
    """`text` without halves of surrogate pairs, which names of files may bring and MessagePack does not have."""
    return text.encode("utf-8", "backslashreplace").decode()


def _video(request: DecodeRequest, arena: Arena) -> DecodeReply:
    from infra.media.video import VideoReader, decode_frames

    with open_medium(request.ref, request.limits) as medium:
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


def _image(request: DecodeRequest, arena: Arena) -> DecodeReply:
    from infra.media.image import decode_picture, read_header, resize_for_plans

    with open_medium(request.ref, request.limits) as medium:
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


def _receive(file: IO[bytes]) -> bytes | None:
    head = file.read(8)
    if len(head) < 8:
        return None
    return file.read(int.from_bytes(head, "little"))


def _send(file: IO[bytes], payload: bytes) -> None:
    file.write(len(payload).to_bytes(8, "little") + payload)
    file.flush()


def _limit_memory(size: int) -> None:
    """Limit what this process may allocate, and the length of the arena, to `size` bytes each.

    RLIMIT_DATA counts writable private memory: heap, stacks of threads, large blocks. Unlike RLIMIT_AS it counts
    neither libraries nor the arena's maps. Other systems than Linux count the heap only.
    """
    import resource

    for limit in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
        hard = resource.getrlimit(limit)[1]
        size_allowed = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(limit, (size_allowed, size_allowed))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the child by closing stdin
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import av
    import cv2
    import PIL.Image  # noqa: F401

    av.logging.set_level(None)
    cv2.setNumThreads(1)
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # Codecs print to both; only our own replies may pass.
    silence = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(silence, fd)
    memory = int(sys.argv[2])
    if memory > 0:
        _limit_memory(memory)
    serve(requests, replies, Arena(int(sys.argv[1]), memory))


if __name__ == "__main__":
    main()
