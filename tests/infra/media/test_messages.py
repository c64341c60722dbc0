from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.media.interface import FramePlan, MediaRef
from infra.media.messages import (
    ArenaFrames,
    DecodeReply,
    DecodeRequest,
    MalformedReply,
    copy_frames,
    decode_reply,
    encode_reply,
)
from infra.media.pixels import Limits

LIMITS = Limits(max_pixels=10_000, max_frame_bytes=30_000)
REQUEST = DecodeRequest(1, MediaRef("a"), False, {"a": FramePlan("middle", 8, "long")}, {}, LIMITS)
ARENA_BYTES = 5_000


@pytest.fixture(scope="module")
def arena() -> Iterator[int]:
    fd = os.memfd_create("arena")
    os.write(fd, bytes(i % 251 for i in range(ARENA_BYTES)))
    yield fd
    os.close(fd)


def test_replies_keep_plain_values_and_turn_numpys_into_them() -> None:
    reply = DecodeReply(
        number=3,
        header={"width": np.int32(7), "fps": np.float64(2.5), "codec": "h264", "audio": False, "rate": None},
        streams={"shots": {"times": np.array([0.5, 1.0]), "count": 3, "names": ["a", "b"], "raw": b"\x00"}},
    )
    back = decode_reply(encode_reply(reply))
    assert back.number == 3
    assert back.header == {"width": 7, "fps": 2.5, "codec": "h264", "audio": False, "rate": None}
    assert back.streams == {"shots": {"times": [0.5, 1.0], "count": 3, "names": ["a", "b"], "raw": b"\x00"}}


@pytest.mark.parametrize("odd", [object(), {1, 2}.__iter__(), 2**70, "\ud800"])
def test_what_is_not_plain_is_a_mistake_of_the_observer(odd: object) -> None:
    with pytest.raises((TypeError, ValueError, OverflowError)):
        encode_reply(DecodeReply(streams={"a": {"b": odd}}))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_reply_or_malformed(content: bytes) -> None:
    try:
        decode_reply(content)
    except MalformedReply:
        return


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sides=st.tuples(*[st.integers(-(2**63), 2**63) | st.integers(-1, 60)] * 2),
    offsets=st.lists(st.integers(-(2**63), 2**63) | st.integers(-1, ARENA_BYTES), max_size=4),
    times=st.lists(st.floats(), max_size=4),
    used=st.integers(-1, 2**63) | st.just(ARENA_BYTES),
)
def test_any_sizes_give_frames_within_the_arena_or_are_malformed(
    arena: int, sides: tuple[int, int], offsets: list[int], times: list[float], used: int
) -> None:
    reply = DecodeReply(1, frames={"a": ArenaFrames(*sides, tuple(offsets), tuple(times))}, used=used)
    try:
        frames = copy_frames(arena, reply, REQUEST)["a"]
    except MalformedReply:
        return
    assert frames.pixels.shape == (len(offsets), *sides, 3) and len(frames.times) == len(times)
    assert sides[0] * sides[1] <= LIMITS.max_pixels and frames.pixels.nbytes <= LIMITS.max_frame_bytes
    for pixels, offset in zip(frames.pixels, offsets, strict=True):
        assert pixels.tobytes() == os.pread(arena, pixels.nbytes, offset)
