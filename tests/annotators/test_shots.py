import itertools
import pickle
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.interface import StreamAnnotator
from annotators.shots import Shots, ShotsObserver, Thumbnail, difference
from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, MediaRef
from tests.infra.media import clips

WIDTH, HEIGHT, RATE = 96, 72, 24


def scene(seed: int, width: int = 3 * WIDTH) -> Any:
    """A grey picture (HEIGHT, width) with large and small patches, as a photograph has."""
    chance = np.random.default_rng(seed)
    layers = [
        cv2.resize(chance.normal(0, 1, (3 * k, 4 * k)), (width, HEIGHT), interpolation=cv2.INTER_CUBIC) / k**0.5
        for k in (1, 2, 6)
    ]
    return np.clip(128 + 45 * sum(layers), 0, 255).astype(np.uint8)


def shot(seed: int, count: int, speed: float = 0.5, grain: float = 2.0) -> list[Any]:
    """`count` frames of a pan over a scene, with grain."""
    picture, chance = scene(seed), np.random.default_rng(100 + seed)
    frames = []
    for i in range(count):
        view = picture[:, int(speed * i) :][:, :WIDTH].astype(np.float64)
        frames.append(np.clip(view + chance.normal(0, grain, view.shape), 0, 255).astype(np.uint8))
    return frames


def flat(level: int, count: int) -> list[Any]:
    return [np.full((HEIGHT, WIDTH), level, np.uint8)] * count


def watch(
    frames: Sequence[Any], rate: int = RATE, *, start: int = 0, stamped: bool = True, **header: Any
) -> dict[str, Any]:
    """Drives the observer as the decoder does, without a codec between."""
    observer = pickle.loads(pickle.dumps(Shots().observer()))
    observer.start({"fps": float(rate), "container": "mov,mp4", **header})
    for i, picture in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray").reformat(format="yuv420p")
        if stamped:
            frame.pts, frame.time_base = start + i, Fraction(1, rate)
        observer.frame(frame)
    return dict(observer.finish())


def cuts(frames: Sequence[Any], rate: int = RATE, **how: Any) -> list[int]:
    """The numbers of the frames at which shots begin."""
    measured = watch(frames, rate, **how)
    assert measured["count"] == len(measured["times"]) + 1
    assert measured["times"] == sorted(measured["times"])
    return [round(time * rate) for time in measured["times"]]


# Cuts


@pytest.mark.parametrize("rate", [5, 12, 24, 30, 60])
def test_a_cut_is_found_at_its_frame(rate: int) -> None:
    before, after = max(rate, 8), 2 * rate + 1
    assert cuts([*shot(1, before), *shot(2, after)], rate) == [before]


@pytest.mark.parametrize("frame", range(20, 32))
def test_a_cut_is_found_at_any_offset_between_sampled_frames(frame: int) -> None:
    assert cuts([*shot(1, frame), *shot(2, 40)]) == [frame]


@settings(max_examples=25)
@given(st.lists(st.integers(12, 40), min_size=2, max_size=4), st.integers(0, 50))
def test_every_cut_is_found_and_nothing_else(lengths: list[int], seed: int) -> None:
    frames = [frame for i, length in enumerate(lengths) for frame in shot(10 * seed + i, length)]
    assert cuts(frames) == np.cumsum(lengths)[:-1].tolist()


def test_cuts_to_and_from_flat_pictures() -> None:
    frames = [*flat(16, 20), *shot(1, 20), *flat(235, 20), *flat(16, 20)]
    assert cuts(frames) == [20, 40, 60]


def test_a_blended_frame_between_two_shots_is_one_cut() -> None:
    first, second = shot(1, 25), shot(2, 25)
    blend = ((first[-1].astype(np.int32) + second[0]) // 2).astype(np.uint8)
    (cut,) = cuts([*first, blend, *second])
    assert cut in (25, 26)


def test_cuts_in_films_whose_frames_are_repeated() -> None:
    frames = [frame for frame in [*shot(1, 12, 2.0), *shot(2, 12, 2.0)] for _ in range(2)]
    assert cuts(frames) == [24]


# No cuts


@pytest.mark.parametrize("speed", [0.0, 0.5, 2.0, 4.0])
def test_a_pan_has_no_cut(speed: float) -> None:
    assert cuts(shot(3, 48, speed)) == []


def test_changing_light_is_no_cut() -> None:
    frames = shot(4, 60)
    lit = [
        np.clip(frame.astype(int) + (60 if i // 15 % 2 else 0), 0, 255).astype(np.uint8)
        for i, frame in enumerate(frames)
    ]
    assert cuts(lit) == []


@pytest.mark.parametrize("length", [1, 2, 4, 7])
def test_a_flash_is_no_cut(length: int) -> None:
    for at in range(20, 26):
        frames = shot(5, 60)
        frames[at : at + length] = flat(255, length)
        assert cuts(frames) == [], at


def test_a_slow_dissolve_is_missed() -> None:
    first, second = shot(1, 72), shot(2, 72)
    weights = np.clip((np.arange(72) - 24) / 24, 0, 1)
    mixed = [(a * (1 - w) + b * w).astype(np.uint8) for a, b, w in zip(first, second, weights, strict=True)]
    assert cuts(mixed) == []


def test_noise_and_near_black_frames_have_no_cut() -> None:
    chance = np.random.default_rng(0)
    assert cuts([chance.integers(16, 20, (HEIGHT, WIDTH)).astype(np.uint8) for _ in range(30)]) == []
    assert cuts(flat(16, 30)) == []


def test_an_object_moving_through_the_picture_is_no_cut() -> None:
    frames = shot(6, 48)
    for i, frame in enumerate(frames):
        cv2.circle(frame, (2 * i, 36), 14, 255, -1)
    assert cuts(frames) == []


# Times


def test_times_count_from_the_first_frame() -> None:
    frames = [*shot(1, 24), *shot(2, 24)]
    assert watch(frames, start=1000)["times"] == [1.0]
    assert watch(frames, stamped=False)["times"] == [1.0]
    assert watch(frames, start=7, container="avi")["times"] == [1.0]


def test_frames_without_a_frame_rate_are_compared_too() -> None:
    assert watch([*shot(1, 24), *shot(2, 24)], fps=0.0)["times"] == [1.0]
    assert watch([*shot(1, 24), *shot(2, 24)], fps=float("nan"))["times"] == [1.0]


def test_the_frame_size_may_change_within_a_video() -> None:
    small = [frame[::2, ::2] for frame in shot(1, 24, 0)]
    assert cuts([*shot(1, 24, 0), *small]) == []


def test_videos_of_no_frame_and_of_few_frames() -> None:
    assert watch([]) == {"error": "no_shots: no frames"}
    assert watch(shot(1, 1)) == {"times": [], "count": 1}
    assert watch(shot(1, 2)) == {"times": [], "count": 1}


# The difference


def test_the_difference_of_two_frames_by_hand() -> None:
    a, b = (Thumbnail(scene(seed)[:12, :16]) for seed in (1, 2))
    black, dark, grey, white = (Thumbnail(np.full((12, 16), level, np.uint8)) for level in (16, 17, 99, 235))
    assert difference(a, a) == (0.0, 0.0)
    assert difference(a, b) == difference(b, a)
    assert difference(black, white) == (1.0, 219.0)
    assert difference(black, dark)[0] < 0.1
    assert difference(a, grey)[0] == pytest.approx(1.0)
    lit = Thumbnail(scene(1)[:12, :16] // 2 + 100)
    assert difference(Thumbnail(scene(1)[:12, :16] // 2), lit)[0] == pytest.approx(0.0, abs=1e-6)
    many = [Thumbnail(cv2.resize(scene(i), (16, 12))) for i in range(40)]
    assert 0.5 < np.mean([difference(x, y)[0] for x, y in itertools.pairwise(many)]) < 0.9


# As an annotator


def test_through_a_codec_and_the_decoder(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for picture in [*shot(1, 30), *shot(2, 30)]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray").reformat(format="yuv420p")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    smooth = clips.write_video(tmp_path / "smooth.mp4", count=20)
    sound = clips.write_sound(tmp_path / "sound.mp4")
    shots = Shots()
    with Decoder() as decoder:
        media = [decoder.decode(MediaRef(str(p)), {}, {"shots": shots.observer()}) for p in (path, smooth, sound)]
        excerpt = decoder.decode(MediaRef(str(path), start_s=1.0, end_s=2.0), {}, {"shots": shots.observer()})
    answer = shots.measure(pa.table({"key": ["a", "b", "c", "d", "e"]}), [*media, excerpt, None])
    assert answer.schema == Shots.schema()
    times, counts, errors = (answer[name].to_pylist() for name in ("times", "count", "error"))
    assert times == [[1.25], [], None, [0.25], None]
    assert counts == [2, 1, None, 2, None]
    assert [error and error.split(":")[0] for error in errors] == [None, None, "no_video", None, "no_media"]


def test_a_decoder_that_watched_nothing_is_an_error() -> None:
    assert Shots().measure(pa.table({"key": ["a"]}), [DecodedMedia(header={})])["error"].to_pylist() == [
        "no_shots: no video stream"
    ]


def test_it_is_a_stream_annotator() -> None:
    annotator: StreamAnnotator = Shots()
    assert annotator.fingerprint_inputs()["looks_a_second"] == ShotsObserver.LOOKS_PER_SECOND
    assert not annotator.observer().export_motion_vectors
