from __future__ import annotations

import errno
import hashlib
import io
import math
from contextlib import nullcontext

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import BadSample
from infra.media.interface import FramePlan, MediaRef
from infra.media.pixels import (
    ByteRangeFile,
    CodecGuard,
    Limits,
    blend_on_white,
    describe,
    fit_size,
    open_medium,
    plan_times,
    resize,
)


@given(
    st.binary(max_size=200),
    st.integers(0, 50),
    st.lists(st.tuples(st.sampled_from(["read", "seek", "end", "on"]), st.integers(0, 120)), max_size=12),
)
def test_a_byte_range_is_the_slice(content: bytes, offset: int, steps: list[tuple[str, int]]) -> None:
    length = max(0, len(content) - offset) // 2
    ours = io.BufferedReader(ByteRangeFile(io.BytesIO(content), offset, length), 16)
    theirs = io.BytesIO(content[offset : offset + length])
    for step, argument in steps:
        if step == "read":
            assert ours.read(argument) == theirs.read(argument)
        elif step == "seek":
            assert ours.seek(argument) == theirs.seek(argument)
        elif step == "on":
            assert ours.seek(argument, io.SEEK_CUR) == theirs.seek(argument, io.SEEK_CUR)
        else:
            assert ours.seek(-min(argument, length), io.SEEK_END) == theirs.seek(-min(argument, length), io.SEEK_END)
        assert ours.tell() == theirs.tell()


def test_a_byte_range_has_no_name(tmp_path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"abcdef")
    with open_medium(MediaRef(str(tmp_path / "a.mp4"), 2, 3), Limits()) as medium:
        assert medium.file.read() == b"cde"
        assert not hasattr(medium.file.raw, "name")


def test_other_stores_are_read_too() -> None:
    import fsspec

    with fsspec.open("memory://shelf/x.bin", "wb") as file:
        file.write(b"0123456789")
    for sha256 in ("", hashlib.sha256(b"3456").hexdigest()):
        with open_medium(MediaRef("memory://shelf/x.bin", 3, 4, sha256=sha256), Limits()) as medium:
            assert (medium.size, medium.file.read()) == (4, b"3456")
    with pytest.raises(BadSample, match="unreadable"), open_medium(MediaRef("memory://shelf/none.bin"), Limits()):
        pass


@pytest.mark.parametrize("content", [b"", b"012", b"0123x5", b"0123456789" * 2])
def test_bytes_that_are_not_those_promised_are_changed_and_nothing_else(content: bytes, tmp_path) -> None:
    path = tmp_path / "a.bin"
    promised = MediaRef(str(path), 3, 3, sha256=hashlib.sha256(b"345").hexdigest())
    path.write_bytes(b"0123456789")
    with open_medium(promised, Limits()) as medium:
        assert medium.file.read() == b"345"
    path.write_bytes(content)
    with nullcontext() if content[3:6] == b"345" else pytest.raises(BadSample, match="changed"):  # noqa: SIM117
        with open_medium(promised, Limits()):
            pass


def test_a_file_that_is_written_to_while_it_is_open_is_changed(tmp_path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"0123456789")
    promised = MediaRef(str(path), sha256=hashlib.sha256(b"0123456789").hexdigest())
    with pytest.raises(BadSample, match="changed"), open_medium(promised, Limits()):
        path.write_bytes(b"012345678x")
        raise BadSample("decode", "which follows from it")


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 1000), st.sampled_from(["short", "long", "skew"]))
def test_pictures_are_fitted_to_the_plan(width: int, height: int, size: int, fit: str) -> None:
    new_width, new_height = fit_size(width, height, size, fit)  # type: ignore[arg-type]
    if fit == "skew":
        assert (new_width, new_height) == (size, size)
        return
    side = min if fit == "short" else max
    assert side(new_width, new_height) == min(size, side(width, height))
    assert new_width <= width
    assert new_height <= height
    scale = side(new_width, new_height) / side(width, height)
    assert abs(new_width - max(1, width * scale)) <= 0.5 + 1e-9
    assert abs(new_height - max(1, height * scale)) <= 0.5 + 1e-9


plans = st.builds(
    FramePlan,
    times=st.sampled_from(["middle", "uniform", "rate"]),
    size=st.just(32),
    fit=st.just("short"),
    count=st.integers(1, 40),
    fps=st.sampled_from([0.5, 1.0, 2.0, 3.0, 7.5]),
    ends=st.booleans(),
)


@given(plans, st.floats(0, 100), st.integers(1, 60))
def test_targets_ascend_within_the_duration_and_the_count(plan: FramePlan, duration: float, at_most: int) -> None:
    times = plan_times(plan, duration, at_most)
    assert times == sorted(times)
    assert len(set(times)) == len(times) or duration == 0 or plan.times == "uniform"
    assert 1 <= len(times) <= max(1, min(plan.count, at_most)) or plan.times == "middle"
    inside = [t for t in times if not math.isinf(t)]
    assert all(0 <= t <= duration for t in inside)
    assert len(times) - len(inside) <= int(plan.times == "rate" and plan.ends)


def test_target_times_by_hand() -> None:
    def rate(duration: float, count: int, ends: bool, fps: float = 1.0) -> list[float]:
        return plan_times(FramePlan("rate", 8, "short", count=count, fps=fps, ends=ends), duration, 1000)

    last = float("inf")
    assert rate(3.0, 99, ends=False) == [0, 1, 2]
    assert rate(3.2, 99, ends=True) == [0, 1, 2, 3, last]
    assert rate(1.0, 99, ends=False, fps=4) == [0, 0.25, 0.5, 0.75]
    assert rate(100.0, 3, ends=True) == [0, 50, last]
    assert rate(9.0, 5, ends=False) == [0, 2, 4, 6, 8]
    assert rate(0.0, 9, ends=True) == [0, last]
    assert plan_times(FramePlan("uniform", 8, "short", count=4), 8.0, 1000) == [1, 3, 5, 7]
    assert plan_times(FramePlan("middle", 8, "short"), 8.0, 1000) == [4]


def test_transparent_pixels_are_blended_on_white() -> None:
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 100, 255, 51]]], dtype=np.uint8)
    assert blend_on_white(rgba).tolist() == [[[10, 20, 30], [255, 255, 255], [204, 224, 255]]]


def test_resizing_averages_areas() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (12, 20, 3), dtype=np.uint8)
    blocks = pixels.reshape(6, 2, 10, 2, 3).mean(axis=(1, 3))
    assert np.abs(resize(pixels, 10, 6).astype(float) - blocks).max() <= 0.5 + 1e-6
    assert resize(pixels, 20, 12).tolist() == pixels.tolist()


def test_errors_of_the_codec_library_and_only_those_become_bad_samples() -> None:
    with pytest.raises(BadSample, match="decode: TypeError: odd"), CodecGuard("decode"):
        raise TypeError("odd")
    with pytest.raises(BadSample, match="empty"), CodecGuard("decode"):
        raise BadSample("empty")
    no_memory = cv2.error("(-4:Insufficient memory)")
    no_memory.code = cv2.Error.StsNoMem
    for error in (MemoryError(), OSError(errno.ENOMEM, "a name"), OSError("out of memory error"), no_memory):
        with pytest.raises(MemoryError), CodecGuard("decode"):
            raise error
    with pytest.raises(KeyboardInterrupt), CodecGuard("decode"):
        raise KeyboardInterrupt


def test_error_texts_name_no_memory_address_and_no_path() -> None:
    assert describe(FileNotFoundError(2, "No such file", "/a/secret/place")) == "FileNotFoundError: No such file"
    assert describe(ValueError("cannot identify <_io.BytesIO object at 0x7f1234abcd>")) == (
        "ValueError: cannot identify the file"
    )
    assert describe(ValueError("no image file <_io.BytesIO object at 0x7f1234abcd>")) == "ValueError: no image file"
    assert len(describe(ValueError("x" * 5000))) < 300
