from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import StageError
from infra.media.decoder import Decoder, Limits
from infra.media.interface import FramePlan, MediaRef
from infra.media.messages import ArenaFrames, DecodeReply, encode_reply
from tests.infra.media.clips import (
    Counter,
    Hoarding,
    Misbehaving,
    TakenOver,
    arrow,
    encoded,
    levels,
    write_sound,
    write_video,
)

OUT_OF_MEMORY = "memory: decoding needs more than measure.decode_memory"
#: What follows the size in a lossless WebP of one colour.
LOSSLESS_BLANK = bytes.fromhex("071011118888fe07")
EVERY = FramePlan("rate", 48, "short", count=1000, fps=10)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4")


def video(path: Path | str, **span: float) -> MediaRef:
    return MediaRef(str(path), **span)  # type: ignore[arg-type]


def image(path: Path | str) -> MediaRef:
    return MediaRef(str(path), kind="image")


def still(decoder: Decoder, path: Path, content: bytes, size: int = 4096) -> tuple[np.ndarray, dict[str, object]]:
    path.write_bytes(content)
    decoded = decoder.decode(image(path), {"a": FramePlan("middle", size, "long")}, {})
    assert decoded.error is None
    assert decoder.probe(image(path)).header == decoded.header
    pixels = decoded.frames["a"].pixels[0]
    if size == 4096:
        assert pixels.shape == (decoded.header["height"], decoded.header["width"], 3)
    return pixels, dict(decoded.header)


# Videos


@pytest.mark.parametrize(
    ("name", "codec", "how", "called", "container"),
    [
        ("a.mp4", "libx264", {}, "h264", "mov,mp4,m4a,3gp,3g2,mj2"),
        ("a.mov", "mpeg4", {}, "mpeg4", "mov,mp4,m4a,3gp,3g2,mj2"),
        ("a.mkv", "libx265", {"options": {"x265-params": "log-level=none"}}, "hevc", "matroska,webm"),
        ("a.webm", "libvpx-vp9", {"options": {"deadline": "realtime"}}, "vp9", "matroska,webm"),
        ("v.webm", "libvpx", {}, "vp8", "matroska,webm"),
        (
            "a1.mp4",
            "libsvtav1",
            {"options": {"preset": "12"}, "width": 64, "height": 64},
            "av1",
            "mov,mp4,m4a,3gp,3g2,mj2",
        ),
        ("a.ts", "mpeg2video", {"fps": 25}, "mpeg2video", "mpegts"),
        ("a.avi", "libx264", {}, "h264", "avi"),
        ("m.avi", "mpeg4", {"options": {"bf": "2", "b": "4000000"}}, "mpeg4", "avi"),
        ("a.flv", "libx264", {}, "h264", "flv"),
        (
            "f.mp4",
            "libx264",
            {"container": {"movflags": "frag_keyframe+empty_moov"}},
            "h264",
            "mov,mp4,m4a,3gp,3g2,mj2",
        ),
        ("a.gif", "gif", {"pix_fmt": "rgb8", "step": 11}, "gif", "gif"),
    ],
)
def test_every_format_gives_every_frame_in_order(decoder, tmp_path, name, codec, how, called, container) -> None:
    path = write_video(tmp_path / name, codec=codec, **how)
    fps, step = how.get("fps", 10), how.get("step", 10)
    decoded = decoder.decode(video(path), {"a": replace(EVERY, fps=fps)}, {"seen": Counter()})
    assert decoded.error is None
    if codec == "gif":  # dithered
        corners = decoded.frames["a"].pixels[:, -24:, -32:].mean(axis=(1, 2, 3))
        assert np.allclose(corners, 20 + step * np.arange(20), atol=8)
    else:
        assert levels(decoded.frames["a"].pixels, step) == list(range(20))
    assert np.allclose(decoded.frames["a"].times, np.arange(20) / fps, atol=0.002)
    assert decoded.streams["seen"]["frames"] == 20
    header = dict(decoded.header)
    assert header["codec"] == called
    assert header["container"] == container
    assert (header["kind"], header["width"], header["height"]) == ("video", 64, how.get("height", 48))
    assert header["frames"] == 20
    assert header["duration"] == pytest.approx(20 / fps, abs=0.005)
    assert header["fps"] == pytest.approx(fps, rel=0.01)
    assert header["bytes"] == path.stat().st_size
    assert (header["rotation"], header["audio"]) == (0, False)
    assert 0 < header["bit_rate"] < 8 * header["bytes"]
    assert decoder.probe(video(path)).header == header


def test_a_clip_is_decoded_once_for_all(clip: Path) -> None:
    plans = {
        "one": FramePlan("middle", 24, "short"),
        "some": FramePlan("uniform", 24, "skew", count=4),
        "more": FramePlan("rate", 16, "long", count=99, fps=2, ends=True),
    }
    with Decoder() as decoder:
        decoded = decoder.decode(video(clip), plans, {"x": Counter(motion_vectors=True), "y": Counter()})
        assert (decoder.decodes, decoder.probes) == (1, 0)
        assert 0 < decoder.child_seconds < decoder.decode_seconds
    assert decoded.streams["x"]["frames"] == decoded.streams["y"]["frames"] == 20
    assert decoded.streams["x"]["ordered"]
    assert decoded.streams["x"]["vectors"] > 10
    assert decoded.streams["x"]["pid"] != os.getpid()
    assert {name: frames.pixels.shape for name, frames in decoded.frames.items()} == {
        "one": (1, 24, 32, 3),
        "some": (4, 24, 24, 3),
        "more": (5, 12, 16, 3),
    }
    assert decoded.frames["one"].times.tolist() == [1.0]
    assert decoded.frames["some"].times.tolist() == [0.2, 0.7, 1.2, 1.7]  # the earlier of two that are as near
    assert decoded.frames["more"].times.tolist() == [0.0, 0.5, 1.0, 1.5, 1.9]
    assert levels(decoded.frames["more"].pixels) == [0, 5, 10, 15, 19]


some_plan = st.builds(
    FramePlan,
    times=st.sampled_from(["middle", "uniform", "rate"]),
    size=st.sampled_from([8, 24, 48, 64]),
    fit=st.sampled_from(["short", "long", "skew"]),
    count=st.integers(1, 30),
    fps=st.sampled_from([1.0, 3.0, 10.0, 30.0]),
    ends=st.booleans(),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from("abcd"), some_plan, min_size=2), st.booleans())
def test_what_one_plan_gets_does_not_depend_on_the_others(decoder, clip, plans, watched) -> None:
    observers = {"w": Counter(motion_vectors=True)} if watched else {}
    all_at_once = decoder.decode(video(clip), plans, observers)
    for name, plan in plans.items():
        alone = decoder.decode(video(clip), {name: plan}, {})
        assert np.array_equal(alone.frames[name].pixels, all_at_once.frames[name].pixels)
        assert np.array_equal(alone.frames[name].times, all_at_once.frames[name].times)
        assert alone.header == all_at_once.header


def test_too_many_bytes_of_frames_thins_that_plan_only(clip: Path) -> None:
    big, small = FramePlan("rate", 48, "short", count=20, fps=10), FramePlan("rate", 8, "skew", count=20, fps=10)
    with Decoder(Limits(max_frame_bytes=5 * 64 * 48 * 3)) as decoder:
        decoded = decoder.decode(video(clip), {"big": big, "small": small}, {})
    assert levels(decoded.frames["big"].pixels) == [0, 5, 10, 14, 19]
    assert len(decoded.frames["small"].pixels) == 20


def test_frames_by_number_are_those_frames_whatever_else_is_asked_for(decoder, clip) -> None:
    numbers = FramePlan("at", 48, "short", numbers=(0, 3, 4, 11, 500))
    decoded = decoder.decode(video(clip), {"n": numbers, "other": FramePlan("rate", 48, "short", count=9, fps=3)}, {})
    assert levels(decoded.frames["n"].pixels) == [0, 3, 4, 11, 19]
    assert decoded.frames["n"].times.tolist() == [0.0, 0.3, 0.4, 1.1, 1.9]
    with Decoder(Limits(max_frame_bytes=4 * 64 * 48 * 3)) as small:
        assert "too_large: 5 frames" in str(small.decode(video(clip), {"n": numbers}, {}).error)


def test_a_short_video_gives_each_frame_once(decoder, tmp_path) -> None:
    path = write_video(tmp_path / "a.mp4", count=3)
    decoded = decoder.decode(video(path), {"a": FramePlan("uniform", 48, "short", count=8)}, {})
    assert levels(decoded.frames["a"].pixels) == [0, 1, 2]
    path = write_video(tmp_path / "b.mp4", count=1)
    decoded = decoder.decode(video(path), {"a": replace(EVERY, ends=True)}, {})
    assert decoded.frames["a"].times.tolist() == [0.0]
    assert decoded.header["duration"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("degrees", "hflip", "rotation", "white"),
    [(0, False, 0, "tl"), (-90, False, 90, "tr"), (180, False, 180, "br"), (90, False, 270, "bl"), (0, True, 0, "tr")],
)
def test_display_matrix_is_applied(decoder, tmp_path, degrees, hflip, rotation, white) -> None:
    path = write_video(tmp_path / "a.mp4", degrees=degrees, hflip=hflip)
    decoded = decoder.decode(video(path), {"a": EVERY}, {})
    assert decoded.header["rotation"] == rotation
    pixels = decoded.frames["a"].pixels[0].astype(int)
    turned = rotation in (90, 270)
    assert pixels.shape[:2] == ((64, 48) if turned else (48, 64))
    assert (decoded.header["height"], decoded.header["width"]) == pixels.shape[:2]
    corners = {"tl": pixels[4, 4], "tr": pixels[4, -4], "bl": pixels[-4, 4], "br": pixels[-4, -4]}
    assert max(corners, key=lambda corner: corners[corner].sum()) == white
    assert sum(corner.mean() > 128 for corner in corners.values()) == 1


def test_a_span_is_decoded_like_a_separate_video(decoder, tmp_path) -> None:
    path = write_video(tmp_path / "a.mp4", count=78, step=3, options={"g": "10", "bf": "2", "crf": "1"})
    every = {"a": EVERY}
    for start, end, first, last in [(0.0, 1.0, 0, 9), (1.0, 2.0, 10, 19), (5.2, 6.0, 52, 59), (7.5, -1.0, 75, 77)]:
        decoded = decoder.decode(video(path, start_s=start, end_s=end), every, {"x": Counter()})
        assert decoded.error is None
        assert levels(decoded.frames["a"].pixels, 3) == list(range(first, last + 1))
        expected = np.arange(first, last + 1) / 10 - start
        assert np.allclose(decoded.frames["a"].times, expected, atol=1e-5)
        assert decoded.streams["x"]["frames"] == decoded.header["frames"] == last + 1 - first
        assert decoded.header["duration"] == pytest.approx((end if end > 0 else 7.8) - start)
        assert decoder.probe(video(path, start_s=start, end_s=end)).header == decoded.header
    assert decoder.decode(video(path, start_s=9.0), every, {}).error == "no_frames: none in the span"


def test_a_span_of_a_file_without_index_is_the_same(decoder, tmp_path) -> None:
    how = {"count": 78, "step": 3, "options": {"g": "40", "bf": "2", "crf": "1"}}
    for name in ("a.mkv", "a.ts", "a.avi"):
        path = write_video(tmp_path / name, fps=25, **how)
        decoded = decoder.decode(video(path, start_s=2.4, end_s=3.0), {"a": replace(EVERY, fps=25)}, {})
        assert decoded.error is None
        assert levels(decoded.frames["a"].pixels, 3) == list(range(60, 75))


def test_packets_too_big_to_keep_are_read_twice(tmp_path, monkeypatch) -> None:
    from infra.media import video as module
    from infra.media.pixels import open_medium

    path = write_video(tmp_path / "a.mkv")
    for span in ({}, {"start_s": 1.0, "end_s": 1.5}):
        seen = []
        for cache_bytes in (2**20, 100):
            monkeypatch.setattr(module, "_CACHED_BYTES", cache_bytes)
            with open_medium(video(path, **span), Limits()) as medium:
                opened = module.VideoReader(medium, video(path, **span), Limits())
                assert (opened.scan.packets is None) == (cache_bytes == 100)
                seen.append([(time, frame.to_ndarray().tobytes()) for frame, time in opened.frames()])
        assert seen[0] == seen[1]
        assert len(seen[0]) in (20, 5)


def test_a_byte_range_of_an_archive(decoder, tmp_path, clip) -> None:
    picture = encoded(pillow(arrow()), "PNG")
    content = clip.read_bytes()
    (tmp_path / "a.tar").write_bytes(b"x" * 1000 + content + b"y" * 700 + picture + b"z" * 50)
    inside = MediaRef(str(tmp_path / "a.tar"), 1000, len(content))
    alone, ranged = (decoder.decode(ref, {"a": EVERY}, {}) for ref in (video(clip), inside))
    assert alone.header == ranged.header
    assert np.array_equal(alone.frames["a"].pixels, ranged.frames["a"].pixels)
    ref = MediaRef(str(tmp_path / "a.tar"), 1000 + len(content) + 700, len(picture), kind="image")
    assert np.array_equal(decoder.decode(ref, {"a": EVERY}, {}).frames["a"].pixels[0], arrow())
    beyond = replace(inside, length=10**6)
    assert decoder.decode(beyond, {}, {}).error.startswith("truncated: bytes 1000 to 1001000 of a file of")


# Images


def pillow(pixels: np.ndarray, mode: str | None = None):
    from PIL import Image

    picture = Image.fromarray(pixels)
    return picture.convert(mode) if mode else picture


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF", "WEBP", "AVIF", "JPEG", "JPEG2000"])
def test_image_formats(decoder, tmp_path, kind) -> None:
    how = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}, "AVIF": {"quality": 99}}
    pixels, header = still(decoder, tmp_path / "misnamed.mp4", encoded(pillow(arrow()), kind, **how.get(kind, {})))
    assert np.abs(pixels.astype(int) - arrow()).mean() < 6
    assert (header["kind"], header["format"], header["frames"]) == ("image", kind, 1)
    assert header["bytes"] == (tmp_path / "misnamed.mp4").stat().st_size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_all_eight_orientations_come_out_upright(decoder, tmp_path, kind) -> None:
    from PIL import Image

    upright = arrow()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright.transpose(1, 0, 2), 2),
        8: np.rot90(upright, -1),
    }
    for orientation, pixels in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = encoded(pillow(np.ascontiguousarray(pixels)), kind, exif=exif)
        upright_pixels, header = still(decoder, tmp_path / "a", content)
        assert (header["width"], header["height"]) == (40, 24), orientation
        assert np.abs(upright_pixels.astype(int) - upright).mean() < 12, orientation


def test_every_pixel_mode_becomes_rgb(decoder, tmp_path) -> None:
    from PIL import Image

    path = tmp_path / "a"
    clear = np.dstack([arrow(), np.zeros((24, 40), np.uint8)])
    assert (still(decoder, path, encoded(pillow(clear), "PNG"))[0] == 255).all()
    half = np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 102, np.uint8)])
    assert (still(decoder, path, encoded(pillow(half), "PNG"))[0] == 153).all()
    palette = pillow(arrow(), "P")
    assert np.abs(still(decoder, path, encoded(palette, "PNG"))[0].astype(int) - arrow()).mean() < 20
    holes = Image.new("P", (4, 4), 0)
    holes.putpalette([0, 0, 0, 200, 0, 0])
    assert (still(decoder, path, encoded(holes, "GIF", transparency=0))[0] == 255).all()
    deep = Image.fromarray(np.full((4, 4), 0x80FF, np.uint16))
    pixels, header = still(decoder, path, encoded(deep, "PNG"))
    assert header["mode"] == "I;16"
    assert (pixels == 0x80).all()
    fractions = Image.fromarray(np.array([[0.0, 0.5], [1.0, np.nan]], np.float32))
    assert still(decoder, path, encoded(fractions, "TIFF"))[0][..., 0].tolist() == [[0, 128], [255, 0]]
    wide = Image.fromarray(np.array([[0, 100], [200, 255]], np.int32))
    assert still(decoder, path, encoded(wide, "TIFF"))[0][..., 0].tolist() == [[0, 100], [200, 255]]
    pixels, header = still(decoder, path, encoded(pillow(arrow(), "CMYK"), "JPEG", quality=98))
    assert header["mode"] == "CMYK"
    assert np.abs(pixels.astype(int) - arrow()).mean() < 12
    bits = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    assert (still(decoder, path, encoded(bits, "PNG"))[0][..., 0] == np.eye(8) * 255).all()
    grey = pillow(np.dstack([np.full((4, 4), 9, np.uint8), np.zeros((4, 4), np.uint8)]))
    assert (still(decoder, path, encoded(grey, "PNG"))[0] == 255).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_picture_of_an_animation_is_decoded(decoder, tmp_path, kind) -> None:
    pictures = [pillow(np.full((8, 8, 3), level, np.uint8)) for level in (0, 120, 240)]
    how = {} if kind == "TIFF" else {"duration": 100}
    content = encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **how)
    pixels, header = still(decoder, tmp_path / "a", content)
    assert header["frames"] == 3
    assert pixels.max() < 12
    if kind == "GIF":
        decoded = decoder.decode(video(tmp_path / "a"), {"a": EVERY}, {})
        assert decoded.frames["a"].pixels[:, 0, 0, 0].tolist() == pytest.approx([0, 120, 240], abs=2)


def test_an_image_gives_its_one_picture_to_every_plan(decoder, tmp_path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(pillow(arrow(400, 240)), "PNG"))
    plans = {
        "short": FramePlan("uniform", 24, "short", count=8),
        "long": FramePlan("rate", 40, "long", count=9),
        "same": FramePlan("middle", 40, "long"),
        "skew": FramePlan("middle", 30, "skew"),
        "larger": FramePlan("middle", 1000, "short"),
    }
    decoded = decoder.decode(image(path), plans, {"x": Counter()})
    assert {name: frames.pixels.shape[:3] for name, frames in decoded.frames.items()} == {
        "short": (1, 24, 40),
        "long": (1, 24, 40),
        "same": (1, 24, 40),
        "skew": (1, 30, 30),
        "larger": (1, 240, 400),
    }
    assert all(frames.times.tolist() == [0.0] for frames in decoded.frames.values())
    assert decoded.streams == {}
    assert np.array_equal(decoded.frames["short"].pixels[0], arrow())


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP"])
def test_texts_and_profiles_of_a_png_may_be_large(decoder, tmp_path, kind) -> None:
    content = encoded(pillow(arrow()), "PNG")
    long = b"a picture " * 300_000
    body = {
        "tEXt": b"Comment\0" + long,
        "zTXt": b"Comment\0\0" + zlib.compress(long),
        "iTXt": b"Comment\0\1\0\0\0" + zlib.compress(long),
        "iCCP": b"profile\0\0" + zlib.compress(long),
    }[kind]
    chunk = kind.encode() + body
    chunk = len(body).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
    pixels, _ = still(decoder, tmp_path / "a.png", content[:33] + chunk + content[33:])  # after the signature and IHDR
    assert np.array_equal(pixels, arrow())
    if kind != "iCCP":
        end = content.index(b"IEND") - 4
        pixels, _ = still(decoder, tmp_path / "b.png", content[:end] + chunk + content[end:])
        assert np.array_equal(pixels, arrow())


def test_a_damaged_exif_block_causes_no_rotation(decoder, tmp_path) -> None:
    content = encoded(pillow(arrow()), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert still(decoder, tmp_path / "a", content)[0].shape == (24, 40, 3)


# Bad samples


def test_bytes_that_are_no_medium_fail(decoder, tmp_path, clip) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"version https://git-lfs.github.com/spec/v1\n" * 9)
    (tmp_path / "zeros").write_bytes(bytes(5000))
    os.mkfifo(tmp_path / "pipe")
    for ref in (video, image):
        assert decoder.decode(ref(tmp_path / "empty"), {}, {}).error == "empty: 0 bytes"
        assert decoder.decode(ref(tmp_path / "text"), {}, {}).error.startswith("decode: ")
        assert decoder.decode(ref(tmp_path / "zeros"), {}, {}).error.startswith("decode: ")
        assert decoder.decode(ref(tmp_path / "none"), {}, {}).error == (
            "unreadable: FileNotFoundError: No such file or directory"
        )
        assert decoder.decode(ref(tmp_path), {}, {}).error == "unreadable: not a regular file"
        assert decoder.decode(ref(tmp_path / "pipe"), {}, {}).error == "unreadable: not a regular file"
    assert decoder.decode(image(clip), {}, {}).error.startswith("decode: UnidentifiedImageError")
    (tmp_path / "picture.mp4").write_bytes(encoded(pillow(arrow()), "PNG"))
    assert decoder.decode(video(tmp_path / "picture.mp4"), {}, {}).error.startswith("decode: ")
    assert decoder.decode(video(write_sound(tmp_path / "a.m4a")), {}, {}).error == "no_video: no video stream"


def test_a_video_without_frames_fails(decoder, tmp_path) -> None:
    content = write_video(tmp_path / "a.ts", codec="mpeg2video", fps=25, noise=30).read_bytes()
    (tmp_path / "b.ts").write_bytes(content[: 3 * 188])
    assert decoder.decode(video(tmp_path / "b.ts"), {}, {}).error == "no_frames: no packets of video"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mp4", {}),
        ("b.mp4", {"container": {"movflags": "faststart"}}),
        ("c.mp4", {"container": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mkv", {}),
        ("a.webm", {"codec": "libvpx"}),
        ("a.flv", {}),
        ("a.avi", {"codec": "mpeg4"}),
    ],
)
def test_a_truncated_video_fails(decoder, tmp_path, name, how) -> None:
    content = write_video(tmp_path / name, noise=40, **how).read_bytes()
    assert decoder.decode(video(tmp_path / name), {}, {}).error is None
    for share in (0.3, 0.6, 0.85):
        (tmp_path / f"cut_{name}").write_bytes(content[: int(len(content) * share)])
        error = decoder.decode(video(tmp_path / f"cut_{name}"), {"a": EVERY}, {}).error
        assert error is not None, share
        assert error.split(":")[0] in ("truncated", "decode", "no_frames"), error


def test_damage_in_the_middle_fails_whatever_is_asked_for(decoder, tmp_path) -> None:
    path = write_video(tmp_path / "a.mp4", noise=40, count=40, step=2, options={"g": "10"})
    content = bytearray(path.read_bytes())
    middle = content.index(b"mdat") + len(content) // 2
    content[middle : middle + 800] = bytes(800)
    path.write_bytes(bytes(content))
    first = {"a": FramePlan("rate", 8, "short", fps=0.1)}
    errors = {decoder.decode(video(path), plans, {}).error for plans in ({}, first, {"a": EVERY})}
    assert len(errors) == 1
    (error,) = errors
    assert error is not None
    assert error.startswith("decode: ")


def test_trailing_garbage_is_forgiven(decoder, clip, tmp_path) -> None:
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes() + b"\x00" * 3000)
    assert decoder.decode(video(tmp_path / "a.mp4"), {}, {}).error is None
    (tmp_path / "a.jpg").write_bytes(encoded(pillow(arrow()), "JPEG") + b"garbage" * 100)
    assert decoder.decode(image(tmp_path / "a.jpg"), {}, {}).error is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_image_fails(decoder, tmp_path, kind) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    content = encoded(pillow(noise), kind)
    (tmp_path / "a").write_bytes(content[: len(content) // 2])
    decoded = decoder.decode(image(tmp_path / "a"), {}, {})
    assert decoded.error is not None
    assert decoded.error.startswith("decode: ")
    assert (dict(decoded.header), dict(decoded.frames)) == ({}, {})


def test_limits_are_counted(clip, tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(pillow(np.zeros((100, 100), np.uint8)), "PNG"))
    cases = [
        (Limits(max_bytes=500), "too_large: "),
        (Limits(max_pixels=64 * 48 - 1), "too_large: 64 x 48 pixels, limit 3071"),
        (Limits(max_frames=19), "too_large: more than 19 frames"),
        (Limits(max_packets=19), "too_large: more than 19 packets"),
        (Limits(max_seconds=1.9), "too_large: 2 s, limit 2"),
        (Limits(max_pixels=64 * 48, max_frames=20, max_packets=20, max_seconds=2.01), None),
    ]
    with Decoder() as decoder:
        for limits, expected in cases:
            decoder.limits = limits
            for decoded in (decoder.decode(video(clip), {}, {}), decoder.probe(video(clip))):
                assert (decoded.error or "").startswith(expected or "")
                assert (decoded.error is None) == (expected is None)
        decoder.limits = Limits(max_pixels=9999)
        assert decoder.probe(image(tmp_path / "a.png")).error == "too_large: 100 x 100 pixels, limit 9999"
        decoder.limits = Limits(max_pixels=100)
        assert decoder.probe(image(tmp_path / "a.png")).error == "too_large: more than 100 pixels"


def test_a_bomb_is_refused_by_its_header(decoder, tmp_path) -> None:
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + kind + content + zlib.crc32(kind + content).to_bytes(4)

    head = (60000).to_bytes(4) * 2 + b"\x08\x02\x00\x00\x00"
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10000))) + chunk(b"IEND", b"")
    )
    (tmp_path / "a.png").write_bytes(content)
    assert decoder.decode(image(tmp_path / "a.png"), {}, {}).error.startswith("too_large: ")


@pytest.mark.parametrize("relative", [False, True])
def test_playlists_cannot_open_other_files(tmp_path, relative, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    segment = write_video(tmp_path / "seg.ts", codec="mpeg2video", fps=25)
    name = "seg.ts" if relative else str(segment)
    lists = {
        "a.m3u8": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{name}\n#EXT-X-ENDLIST\n",
        "b.mp4": f"ffconcat version 1.0\nfile {name}\n",
        "c.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    }
    with Decoder() as decoder:
        assert decoder.decode(video(segment), {}, {}).error is None
        for file, text in lists.items():
            (tmp_path / file).write_text(text)
            assert (decoder.decode(video(tmp_path / file), {}, {}).error or "").startswith("decode: ")


def test_errors_are_the_same_words_in_every_child(tmp_path, clip) -> None:
    for name, content in {"a": b"not a medium" * 50, "b": clip.read_bytes()[:900]}.items():
        (tmp_path / name).write_bytes(content)
    errors = []
    for _ in range(2):
        with Decoder() as decoder:
            errors.append([decoder.decode(ref(tmp_path / n), {}, {}).error for n in "ab" for ref in (video, image)])
    assert errors[0] == errors[1]
    assert not any("0x" in error or str(tmp_path) in error for error in errors[0])


# The child


def test_a_crash_or_a_hang_fails_one_sample_only(clip) -> None:
    with Decoder() as decoder:
        fine = decoder.decode(video(clip), {"a": EVERY}, {})
        for how, error in [
            ("crash", f"crash: signal {int(signal.SIGSEGV)}"),
            ("exit", "crash: exit 3"),
            ("hang", "watchdog: no answer within 1 s"),
        ]:
            decoder.limits = Limits(watchdog_s=1.0 if how == "hang" else 120.0)
            assert decoder.decode(video(clip), {"a": EVERY}, {"x": Misbehaving(how)}).error == error
            decoder.limits = Limits()
            again = decoder.decode(video(clip), {"a": EVERY}, {"x": Counter()})
            assert again.error is None
            assert np.array_equal(again.frames["a"].pixels, fine.frames["a"].pixels)


def test_an_observer_that_gives_up_fails_alone(decoder, clip) -> None:
    decoded = decoder.decode(video(clip), {"a": EVERY}, {"x": Misbehaving("give up"), "y": Counter()})
    assert decoded.error is None
    assert decoded.streams["x"] == {"error": "no_vectors: none at all"}
    assert decoded.streams["y"]["frames"] == len(decoded.frames["a"].pixels) == 20


def test_a_bug_stops_the_job(decoder, clip) -> None:
    with pytest.raises(StageError, match="KeyError: 'a mistake of ours'") as error:
        decoder.decode(video(clip), {}, {"x": Misbehaving("bug")})
    assert "clips.py" in error.value.hint
    assert decoder.decode(video(clip), {}, {}).error is None


def test_a_child_that_dies_between_two_samples_is_replaced_and_costs_neither(clip) -> None:
    with Decoder() as decoder:
        pid = decoder.decode(video(clip), {}, {"x": Counter()}).streams["x"]["pid"]
        os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
        assert decoder.decode(video(clip), {}, {}).error is None


def test_an_earlier_medium_does_not_fail_the_next(clip) -> None:
    with Decoder(Limits(memory=700 * 2**20)) as decoder:
        assert decoder.decode(video(clip), {}, {"x": Hoarding(300 * 2**20, keep=True)}).error is None
        assert decoder.decode(video(clip), {}, {"x": Hoarding(300 * 2**20)}).error is None


def test_a_decoder_is_for_one_thread_at_a_time(clip) -> None:
    errors: list[StageError] = []

    def use() -> None:
        try:
            decoder.decode(video(clip), {}, {})
        except StageError as error:
            errors.append(error)

    with Decoder(Limits(watchdog_s=3)) as decoder, ThreadPoolExecutor() as pool:
        first = pool.submit(decoder.decode, video(clip), {}, {"x": Misbehaving("hang")})
        while not decoder.probes + decoder.decodes:
            time.sleep(0.01)
        pool.submit(use).result()
        assert (first.result().error or "").startswith("watchdog: ")
        assert "two threads" in errors[0].what
        assert decoder.decode(video(clip), {}, {}).error is None


def test_the_reply_to_another_request_stops_the_job(clip) -> None:
    reply = encode_reply(DecodeReply(number=1, header={"width": 7}))
    late = len(reply).to_bytes(8, "little") + reply
    with Decoder() as decoder:
        assert decoder.decode(video(clip), {}, {"x": TakenOver(late, end=False)}).header["width"] == 7
        with pytest.raises(StageError, match="answered request 1, not 2"):
            decoder.decode(video(clip), {}, {})
        assert decoder.decode(video(clip), {}, {}).header["width"] == 64


class Evil:
    """Its unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_replies_of_a_compromised_child_run_no_code(clip, tmp_path) -> None:
    def framed(content: bytes) -> bytes:
        return len(content).to_bytes(8, "little") + content

    lie = {"a": ArenaFrames(48, 64, (0, 2**60), (0.0, 1.0))}
    replies = [
        framed(pickle.dumps(Evil(tmp_path / "code_ran"))),
        framed(b"\xc1"),
        (2**62).to_bytes(8, "little"),
        framed(encode_reply(DecodeReply(1, frames=lie, used=2**62))),
        framed(encode_reply(DecodeReply(1, frames={"another": lie["a"]}))),
        framed(encode_reply(DecodeReply(1, streams={"another": {}}))),
    ]
    for reply in replies:
        with Decoder() as decoder:
            media = decoder.decode(video(clip), {"a": EVERY}, {"x": TakenOver(reply)})
            assert (media.error or "").startswith("crash: it sent no valid reply"), reply
            assert decoder.decode(video(clip), {"a": EVERY}, {}).error is None
    assert not (tmp_path / "code_ran").exists()


def test_the_child_outlives_ctrl_c_but_not_its_parent(clip) -> None:
    script = f"""
import os, signal, sys
from infra.media.decoder import Decoder
from infra.media.interface import MediaRef
from tests.infra.media.clips import Counter
door = Decoder()
pid = door.decode(MediaRef({str(clip)!r}), {{}}, {{"x": Counter()}}).streams["x"]["pid"]
os.kill(pid, signal.SIGINT)
assert door.decode(MediaRef({str(clip)!r}), {{}}, {{"x": Counter()}}).streams["x"]["pid"] == pid
print(pid, flush=True)
os._exit(0)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    pid = int(run.stdout)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_closing_ends_the_child_and_allows_another_start(clip) -> None:
    decoder = Decoder()
    decoder.close()
    before = len(list(Path("/proc/self/fd").iterdir()))
    pid = decoder.decode(video(clip), {"a": EVERY}, {"x": Counter()}).streams["x"]["pid"]
    decoder.close()
    assert not _runs(pid)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert decoder.probe(video(clip)).error is None
    decoder.close()


def test_big_results_and_the_small_ones_after_them(decoder, tmp_path, clip) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (2400, 3200, 3), dtype=np.uint8)
    (tmp_path / "big.bmp").write_bytes(encoded(pillow(pixels), "BMP"))
    plans = {"a": FramePlan("middle", 5000, "long"), "b": FramePlan("middle", 3999, "long"), "c": EVERY}
    small = decoder.decode(video(clip), {"a": EVERY}, {})
    for _ in range(2):
        assert np.array_equal(decoder.decode(image(tmp_path / "big.bmp"), plans, {}).frames["a"].pixels[0], pixels)
        again = decoder.decode(video(clip), {"a": EVERY}, {})
        assert np.array_equal(again.frames["a"].pixels, small.frames["a"].pixels)


def test_memory_has_a_limit(tmp_path, clip) -> None:
    (tmp_path / "a.bmp").write_bytes(encoded(pillow(np.zeros((4000, 4000, 3), np.uint8)), "BMP"))
    (tmp_path / "a.webp").write_bytes(encoded(pillow(np.zeros((4000, 4000, 4), np.uint8)), "WEBP", lossless=True))
    many = {str(n): FramePlan("middle", 4000 - n, "long") for n in range(20)}  # frames of 916 MiB
    assert Limits().memory >= 2**31
    with Decoder(Limits(memory=512 * 2**20)) as decoder:
        assert decoder.decode(image(tmp_path / "a.bmp"), many, {}).error == OUT_OF_MEMORY
        assert decoder.decode(image(tmp_path / "a.bmp"), {"a": FramePlan("middle", 64, "long")}, {}).error is None
        assert decoder.decode(video(clip), {}, {"x": Hoarding(2**30)}).error == OUT_OF_MEMORY
    with Decoder(Limits(memory=200 * 2**20)) as decoder:
        for name in ("a.webp", "a.bmp"):
            media = decoder.decode(image(tmp_path / name), {"a": FramePlan("middle", 64, "long")}, {})
            assert media.error == OUT_OF_MEMORY


def test_a_frame_beyond_the_limit_is_refused_before_it_takes_memory(tmp_path) -> None:
    side = 8_000  # 61 MiB
    first, second = (pillow(np.full((side, side), level, np.uint8)) for level in (10, 20))
    first.save(tmp_path / "a.png", save_all=True, append_images=[second], compress_level=1)
    with Decoder(Limits(max_pixels=10**6)) as decoder:
        assert decoder.probe(image(tmp_path / "a.png")).error.startswith("too_large: ")
        before = _peak_memory(decoder)
        assert decoder.decode(video(tmp_path / "a.png"), {}, {}).error.startswith("decode: ")
        assert _peak_memory(decoder) - before < 40 * 2**20


def _peak_memory(decoder: Decoder) -> int:
    """Bytes that the child process has had in memory at most."""
    assert decoder._child is not None
    status = Path(f"/proc/{decoder._child._process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def test_a_blank_picture_of_a_few_bytes_is_refused_before_it_takes_memory(decoder, tmp_path) -> None:
    def webp(side: int) -> bytes:
        bits = (side - 1) | (side - 1) << 14 | 1 << 28
        body = b"VP8L" + (13).to_bytes(4, "little") + b"\x2f" + bits.to_bytes(4, "little") + LOSSLESS_BLANK
        return b"RIFF" + (len(body) + 5).to_bytes(4, "little") + b"WEBP" + body + b"\0"

    with Decoder(Limits(memory=256 * 2**20)) as small:
        for side, error in ((8192, "8192 x 8192 pixels in 34 bytes"), (16384, "16384 x 16384 pixels, limit 67108864")):
            (tmp_path / "a.webp").write_bytes(webp(side))
            for media in (small.decode(image(tmp_path / "a.webp"), {}, {}), small.probe(image(tmp_path / "a.webp"))):
                assert media.error == f"too_large: {error}"
    (tmp_path / "a.webp").write_bytes(webp(2000))
    assert decoder.decode(image(tmp_path / "a.webp"), {}, {}).header["width"] == 2000


def test_importing_the_decoder_loads_no_codec() -> None:
    script = "import sys, infra.media.decoder; print([n for n in ('av', 'cv2', 'PIL', 'fsspec') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


# The corpus

CORPUS = os.environ.get("REELMILL_CORPUS")
#: The reference opened this file by its path, which takes libtiff another way; through a file object it fails.
STRICTER = {"broken/pillow_crash-0da013a13571cc8eb457a39fee8db18f8a3c7127.tif"}
PICTURES = (".gif", ".jpg", ".jpeg", ".png", ".tif", ".bmp", ".webp", ".avif", ".heic")


@pytest.mark.skipif(CORPUS is None, reason="REELMILL_CORPUS is not set")
def test_the_broken_files_of_the_corpus(decoder) -> None:
    rows = [json.loads(line) for line in (Path(str(CORPUS)) / "MANIFEST.jsonl").read_text().splitlines()]
    checked = 0
    for row in rows:
        outcome = row.get("reference_outcome")
        if row["kind"] != "broken" or outcome is None:
            continue
        path = Path(str(CORPUS)) / row["path"]
        is_image = path.suffix in PICTURES
        decoded = decoder.decode(image(path) if is_image else video(path), {"a": EVERY}, {})
        sound = outcome.startswith("loads") or (outcome.startswith("decodes") and "decodes 0" not in outcome)
        sound = sound or "MAX_TEXT_CHUNK" in outcome  # a sound picture with a large text, which is not read
        assert (decoded.error is None) == (sound and row["path"] not in STRICTER), (row["path"], decoded.error, outcome)
        checked += 1
    assert checked > 90
