"""Messages between a decoder and its child process: requests are pickled, replies are plain values.

Each message is preceded by its length, 8 bytes, little endian. The parent never unpickles what comes from the child,
where a codec may have been taken over by the bytes that it decoded: a reply is MessagePack, read into the types below
and into nothing else, and its pixels are copied out of the arena after their sizes were checked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
import numpy as np

from infra.media.interface import FramePlan, Frames, MediaRef, StreamObserver
from infra.media.pixels import Limits

#: Bytes of a reply, pixels apart. Motion's is 100 bytes; the times of 100,000 frames are 1 MB (ours).
MAX_REPLY_BYTES = 64 * 2**20

Scalar: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True)
class DecodeRequest:
    """A request of the parent. number: the reply must carry it. A probe reads no more than the header needs."""

    number: int
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

    number: of the request; 0 for the first reply, which says that the child is ready. bug: a traceback, of a mistake
    in our own code, which must stop the job. used: bytes of the arena.
    """

    number: int = 0
    header: Mapping[str, Scalar] = field(default_factory=dict)
    frames: Mapping[str, ArenaFrames] = field(default_factory=dict)
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    error: str | None = None
    bug: str | None = None
    used: int = 0
    seconds: float = 0.0


class MalformedReply(Exception):
    """Bytes that no sound child sends: its memory was damaged, or a medium has taken it over."""


def encode_reply(reply: DecodeReply) -> bytes:
    """MessagePack of `reply`; numpy's scalars and arrays become numbers and lists. TypeError, ValueError or
    OverflowError for what is not plain."""
    return _ENCODER.encode(reply)


def decode_reply(content: bytes | bytearray) -> DecodeReply:
    """Read a reply. Raises MalformedReply."""
    try:
        return _DECODER.decode(content)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise MalformedReply(str(error)) from error


def copy_frames(arena: int, reply: DecodeReply, request: DecodeRequest) -> dict[str, Frames]:
    """The frames of a reply, copied from the file descriptor `arena`, by the name of their plan.

    Sizes and offsets are the child's word: nothing is allocated that the request did not allow, or read that is not in
    the arena. Raises MalformedReply.
    """
    if not reply.frames.keys() <= request.plans.keys() or not reply.streams.keys() <= request.observers.keys():
        raise MalformedReply("an answer that was not requested")
    size = min(os.fstat(arena).st_size, reply.used)
    return {
        name: _copy(arena, size, frames, request.plans[name], request.limits) for name, frames in reply.frames.items()
    }


def _copy(arena: int, size: int, frames: ArenaFrames, plan: FramePlan, limits: Limits) -> Frames:
    count, height, width = len(frames.offsets), frames.height, frames.width
    if height < 1 or width < 1 or len(frames.times) != count:
        raise MalformedReply(f"{count} frames of {width} x {height} at {len(frames.times)} times")
    frame_bytes = height * width * 3
    is_huge = height * width > max(limits.max_pixels, plan.size**2)
    if is_huge or count * frame_bytes > max(limits.max_frame_bytes, frame_bytes):
        raise MalformedReply(f"{count} frames of {width} x {height} are more than was requested")
    if any(not 0 <= offset <= size - frame_bytes for offset in frames.offsets):
        raise MalformedReply(f"frames outside the {size} bytes of the arena")
    pixels = np.empty((count, height, width, 3), dtype=np.uint8)
    # Read, not mapped: a file that a child shortens meanwhile gives fewer bytes here, and SIGBUS in a map.
    for row, offset in zip(pixels, frames.offsets, strict=True):
        view, done = memoryview(row.data).cast("B"), 0
        while done < frame_bytes:
            step = os.preadv(arena, [view[done:]], offset + done)
            if step == 0:
                raise MalformedReply("the arena has shrunk")
            done += step
    return Frames(pixels, np.asarray(frames.times, dtype=np.float64))


def _to_plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"an observer must return numbers, strings, lists and arrays, not {type(value).__name__}")


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_plain)
_DECODER = msgspec.msgpack.Decoder(DecodeReply)  # threads: safe, it keeps no state between calls
