"""What a container declares is a hint: marks of corruption, counts of frames, clocks, order of streams, pixels."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, FramePlan, MediaRef
from tests.infra.media.clips import levels, write_video

EVERY = FramePlan("rate", 48, "short", count=1000, fps=25)
GROUPS = {"g": "20", "bf": "2", "crf": "1"}


def decode(decoder: Decoder, path: Path, start: float = 0.0, end: float = -1.0) -> DecodedMedia:
    decoded = decoder.decode(MediaRef(str(path), start_s=start, end_s=end), {"a": EVERY}, {})
    assert decoded.error is None
    assert decoder.probe(MediaRef(str(path), start_s=start, end_s=end)).header == decoded.header
    return decoded


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_frames_that_an_avi_repeats_have_no_packets(decoder, tmp_path, codec) -> None:
    decoded = decode(decoder, write_video(tmp_path / "a.avi", codec=codec, fps=25, every=3))
    assert decoded.header["frames"] == 20
    assert np.allclose(decoded.frames["a"].times[:-1], np.arange(19) * 3 / 25)  # the last one's depends on the encoder
    assert decoded.header["duration"] == pytest.approx(58 / 25, abs=0.1)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 36000), (36000, 0), (95443, 0)])
def test_joined_transport_streams_are_one_video(decoder, tmp_path, first, second) -> None:
    how = {"fps": 25, "count": 75, "step": 3, "options": GROUPS}
    parts = [
        write_video(tmp_path / f"{number}.ts", container={"output_ts_offset": str(start)}, **how).read_bytes()
        for number, start in enumerate((first, second))
    ]
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join(parts))
    decoded = decode(decoder, path)
    assert (decoded.header["duration"], decoded.header["frames"]) == (6.0, 150)
    assert np.allclose(decoded.frames["a"].times, np.arange(150) / 25, atol=1e-4)
    assert levels(decoded.frames["a"].pixels, 3) == [*range(75), *range(75)]
    for start, numbers in ((4.0, range(25, 35)), (2.8, (70, 71, 72, 73, 74, 0, 1, 2, 3, 4))):
        span = decode(decoder, path, start, start + 0.4)
        assert levels(span.frames["a"].pixels, 3) == list(numbers)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_transport_stream_that_lost_packets_fails_and_a_joined_one_does_not(decoder, tmp_path, codec) -> None:
    options = {"x265-params": "log-level=none:keyint=20"} if codec == "libx265" else {"g": "20"}
    path = write_video(
        tmp_path / "a.ts", codec=codec, width=128, height=128, fps=25, count=40, step=2, noise=40, options=options
    )
    content = path.read_bytes()
    path.write_bytes(content + content)
    assert decode(decoder, path).header["frames"] == 80
    middle = len(content) // 188 // 2 * 188
    path.write_bytes(content[:middle] + content[middle + 3 * 188 :])
    error = decoder.decode(MediaRef(str(path)), {"a": EVERY}, {}).error
    assert error is not None
    assert error.split(":")[0] in ("decode", "truncated")


def test_an_hevc_stream_that_ends_in_the_middle_of_a_frame_fails(decoder, tmp_path) -> None:
    options = {"x265-params": "log-level=none:keyint=20"}
    path = write_video(tmp_path / "a.flv", codec="libx265", noise=40, options=options)
    path.write_bytes(path.read_bytes()[:-400])
    assert decoder.decode(MediaRef(str(path)), {"a": EVERY}, {}).error is not None


def test_the_stream_that_players_choose_is_decoded(decoder, tmp_path) -> None:
    import av

    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as out:
        streams = []
        for side, default in ((64, False), (96, True)):
            stream = out.add_stream("libx264", rate=10)
            stream.width = stream.height = side
            stream.pix_fmt = "yuv420p"
            stream.disposition = av.stream.Disposition.default if default else av.stream.Disposition(0)
            streams.append(stream)
        for number in range(10):
            for stream in streams:
                picture = np.full((stream.height, stream.width, 3), 20 + 10 * number, dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    header = decode(decoder, path).header
    assert (header["width"], header["height"], header["frames"]) == (96, 96, 10)


@pytest.mark.parametrize(
    ("declared", "degrees", "aspect", "shape"),
    [
        (Fraction(4, 1), None, 4.0, (48, 256)),
        (Fraction(1, 4), None, 0.25, (48, 16)),
        (Fraction(4, 1), 90, 0.25, (256, 48)),
        (Fraction(16, 15), None, 1.066667, (48, 68)),
        (Fraction(30_000, 1), None, 1.0, (48, 64)),  # a mistake: taken as square
    ],
)
def test_frames_have_the_shape_at_which_they_are_shown(decoder, tmp_path, declared, degrees, aspect, shape) -> None:
    decoded = decode(decoder, write_video(tmp_path / "a.mp4", pixel_aspect=declared, degrees=degrees))
    assert decoded.header["pixel_aspect"] == aspect
    stored = (48, 64) if degrees is None else (64, 48)
    assert (decoded.header["height"], decoded.header["width"]) == stored
    height, width = decoded.frames["a"].pixels.shape[1:3]
    assert width / height == pytest.approx(shape[1] / shape[0], rel=0.02)
    corners = decoded.frames["a"].pixels[0, [2, 2, -3, -3], [2, -3, 2, -3], 0]
    assert sum(corner > 200 for corner in corners) == 1
