import gc
import io
import math
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pytest
from av.sidedata.sidedata import SideDataContainer
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators import motion
from annotators.interface import StreamAnnotator
from annotators.motion import (
    _VECTOR,
    ChangeGate,
    Motion,
    MotionObserver,
    MotionVectorScore,
    OpticalFlowScore,
    blocks,
    displacement,
    spans,
)
from infra.media.interface import DecodedMedia

WIDTH, HEIGHT, RATE = 320, 240, 25
DIAGONAL = math.hypot(WIDTH, HEIGHT)


def scene(seed: int = 0) -> Any:
    """A texture with detail at several scales, as a photograph has."""
    chance = np.random.default_rng(seed)
    layers = [cv2.resize(chance.normal(0, 1, (24 * k, 48 * k)), (960, 480), interpolation=3) for k in (1, 2, 4, 8)]
    return np.clip(128 + 25 * sum(layers), 0, 255).astype(np.uint8)


def pan(speed: float, frames: int = 30) -> Iterator[Any]:
    """The texture moving by `speed` pixels a frame."""
    picture = scene()
    for i in range(frames):
        matrix = np.float32([[1, 0, 20 + speed * i], [0, 1, 20]])
        yield cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def encode(frames: Any, codec: str = "libx264", fmt: str = "mp4", step: int = 1, **options: str) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=fmt) as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = WIDTH, HEIGHT, "yuv420p", 1
        if codec in ("mpeg4", "libvpx"):
            stream.bit_rate = 2_000_000
        for i, gray in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(gray), format="gray").reformat(format="yuv420p")
            frame.pts = i * step
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def observe_video(video: bytes | str, **header: object) -> dict[str, Any]:
    """Drives the observer as the decoder does: pickled, told the header, shown every frame, asked once."""
    observer = pickle.loads(pickle.dumps(Motion().observer()))
    with av.open(io.BytesIO(video) if isinstance(video, bytes) else video) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        if observer.export_motion_vectors:
            stream.codec_context.flags2 |= av.codec.context.Flags2.export_mvs
        facts = {"codec": stream.codec_context.codec.canonical_name, "fps": float(stream.average_rate or RATE)}
        observer.start({**facts, **header})
        for frame in container.decode(stream):
            observer.frame(frame)
    return dict(observer.finish())


# Known speeds


@pytest.mark.parametrize("b_frames", ["0", "1", "3"])
@pytest.mark.parametrize("speed", [1.0, 3.0])
def test_a_pan_has_its_speed_with_and_without_b_frames(speed: float, b_frames: str) -> None:
    motion = observe_video(encode(pan(speed), bf=b_frames, crf="20"))
    assert motion["method"] == "vectors"
    assert motion["score"] == pytest.approx(speed * RATE / DIAGONAL, rel=0.25)
    assert motion["score"] == round(motion["score"], 6)
    assert 5 <= motion["frames"] <= 29


@pytest.mark.parametrize(
    ("codec", "fmt", "method", "options"),
    [
        ("mpeg4", "mp4", "vectors", {}),
        ("mpeg4", "avi", "vectors", {"bf": "2"}),
        ("libx264", "mp4", "flow", {"g": "1"}),
        ("libx265", "mp4", "flow", {"x265-params": "log-level=none:pools=1"}),
        ("libvpx-vp9", "webm", "flow", {"cpu-used": "8", "deadline": "realtime"}),
        ("libvpx", "webm", "flow", {"cpu-used": "8", "deadline": "realtime"}),
        ("libsvtav1", "mp4", "flow", {"preset": "12", "svtav1-params": "lp=1"}),
    ],
)
def test_every_codec_path_gives_the_same_unit(codec: str, fmt: str, method: str, options: dict[str, str]) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV has no {codec}")
    motion = observe_video(encode(pan(2.0), codec, fmt, **options))
    assert motion["method"] == method
    assert motion["score"] == pytest.approx(2.0 * RATE / DIAGONAL, rel=0.3)


def test_a_still_picture_scores_next_to_nothing() -> None:
    noise = np.random.default_rng(5)
    still = [scene()[:HEIGHT, :WIDTH]] * 25
    noisy = [np.clip(f + noise.normal(0, 2, f.shape), 0, 255).astype(np.uint8) for f in still]
    black = [np.zeros((HEIGHT, WIDTH), np.uint8)] * 25
    for frames, codec in [(still, "libx264"), (noisy, "libx264"), (black, "libx264"), (still, "libvpx")]:
        assert observe_video(encode(frames, codec, "mp4" if codec == "libx264" else "webm"))["score"] < 0.002


def test_a_faster_pan_has_a_higher_score() -> None:
    scores = [observe_video(encode(pan(speed, 16)))["score"] for speed in (0.1, 0.5, 1.5, 4)]
    assert scores == sorted(scores)
    assert scores[0] > 0.002


def test_repeated_frames_are_not_mistaken_for_a_still_video() -> None:
    once = observe_video(encode(pan(2.0, 40)))
    twice = observe_video(encode([frame for frame in pan(2.0, 20) for _ in range(2)]))
    assert 0.4 * once["score"] / 2 < twice["score"] < 1.2 * once["score"] / 2
    # Flow looks at few pairs: falling in step with the repetition it would see nothing, or twice the speed.
    frames = [frame for frame in pan(2.0, 50) for _ in range(2)]
    assert 0 < observe_video(encode(frames, g="1"))["score"] < 2.0 * RATE / DIAGONAL


def test_a_cut_between_the_frames_of_a_pair_is_no_motion() -> None:
    dark, light = scene(1)[:HEIGHT, :WIDTH] // 4, 255 - scene(2)[:HEIGHT, :WIDTH] // 4
    cuts = [dark, light] * 12
    assert observe_video(encode(cuts, g="1")) == {"error": "no_motion: 24 frames, none comparable"}


# Errors


def test_what_cannot_be_compared_is_an_error_and_no_score() -> None:
    assert observe_video(encode(pan(1.0, 1))) == {"error": "no_motion: single frame"}
    assert observe_video(encode(pan(1.0, 5)), fps=0.0) == {"error": "no_motion: no frame rate"}
    assert observe_video(encode(pan(1.0, 5)), fps=math.inf) == {"error": "no_motion: no frame rate"}
    empty = MotionObserver()
    empty.start({"codec": "h264", "fps": 25.0})
    assert empty.finish() == {"error": "no_motion: no frames"}


def test_measure_carries_scores_and_errors_row_by_row() -> None:
    annotator: StreamAnnotator = Motion()
    media = [
        DecodedMedia(streams={"motion": {"score": 0.1, "method": "flow", "frames": 3}}),
        None,
        DecodedMedia(error="decode: truncated"),
        DecodedMedia(),
        DecodedMedia(streams={"motion": {"error": "no_motion: single frame"}}),
    ]
    chunk = pa.table({"key": list("abcde"), "modality": ["video"] * 5})
    table = annotator.measure(chunk, media)
    assert table.schema == Motion.schema()
    assert table["score"].to_pylist() == [0.1, None, None, None, None]
    assert table["error"].to_pylist() == [
        None,
        "no_media: nothing was decoded",
        "decode: truncated",
        "no_motion: no video stream",
        "no_motion: single frame",
    ]
    assert annotator.measure(chunk.slice(0, 0), []).num_rows == 0


# The parts, against what they replace


vector = st.tuples(
    st.sampled_from([-1, 1]),
    st.sampled_from([(16, 16), (8, 16), (16, 8), (8, 8)]),
    st.integers(-300, 3000),
    st.integers(-300, 3000),
    st.integers(-(2**15), 2**15 - 1),
    st.integers(-(2**15), 2**15 - 1),
)


def rows(vectors: list[Any]) -> Any:
    table = np.zeros(len(vectors), _VECTOR)
    for row, (source, (w, h), x, y, dx, dy) in zip(table, vectors, strict=True):
        row["source"], row["shape"], row["x"], row["y"], row["dx"], row["dy"] = source, w | h << 8, x, y, dx, dy
        row["scale"] = 4
    return table


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(vector, max_size=12), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_displacement_against_a_plain_loop(frames: list[list[Any]], seed: int) -> None:
    width, height = 70, 50
    columns, count = 5, 20
    weight = np.random.default_rng(seed).random(count).astype(np.float32)
    displaced = displacement([rows(frame) for frame in frames], width, height, weight)
    diagonal = math.hypot(width, height)
    for frame, sums in zip(frames, displaced, strict=True):
        cells = [min(max((y >> 4) * columns + (x >> 4), 0), count - 1) for _, _, x, y, _, _ in frame]
        covered = dict.fromkeys(cells, 0.0)
        for cell, (_, (w, h), *_rest) in zip(cells, frame, strict=True):
            covered[cell] += w * h / 256
        expected = {-1: 0.0, 1: 0.0}
        some_forward = any(v[0] > 0 for some in frames for v in some)
        for cell, (source, (w, h), _, _, dx, dy) in zip(cells, frame, strict=True):
            length = min(math.hypot(dx, dy) / 4, diagonal) / diagonal
            shared = max(covered[cell], 1.0) if some_forward else 1.0
            expected[source] += length * w * h / 256 * float(weight[cell]) / shared / count
        assert sums.tolist() == pytest.approx([expected[-1], expected[1]], rel=1e-4, abs=1e-6)


def test_prediction_from_both_sides_counts_a_block_once() -> None:
    both = rows([(-1, (16, 16), 8, 8, 16, 0), (1, (16, 16), 8, 8, 0, 16)])
    past, future = displacement([both], 16, 16, np.ones(1, np.float32))[0]
    assert past + future == pytest.approx(4 / math.hypot(16, 16))


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_spans_against_a_plain_loop(rows_: int, columns: int, seed: int) -> None:
    picture = np.random.default_rng(seed).integers(-255, 256, (4 * rows_, 4 * columns), np.int16)
    cells = [picture[4 * r : 4 * r + 4, 4 * c : 4 * c + 4] for r in range(rows_) for c in range(columns)]
    assert spans(picture).tolist() == [int(c.max()) - int(c.min()) for c in cells]


class Shown:
    """A frame of 16 x 16 with these vectors, as far as Vectors and ChangeGate look at one."""

    width = height = 16

    def __init__(self, kind: int, vectors: list[Any]) -> None:
        self.pict_type, self.vectors = kind, rows(vectors) if vectors else None


def read(monkeypatch: pytest.MonkeyPatch, shown: list[Shown], rate: float, b_frames: bool = True) -> Any:
    monkeypatch.setattr(motion, "motion_vectors", lambda frame: frame.vectors)
    monkeypatch.setattr(motion.Gray8, "of", lambda *_: np.arange(16, dtype=np.uint8).reshape(4, 4) * 16)
    looks = ChangeGate(rate)
    vectors = MotionVectorScore(rate, looks, b_frames)
    for frame in shown:
        looks.add(frame)
        vectors.add(frame)
    frames, steps = vectors.finish()
    return frames.tolist(), (steps * math.hypot(16, 16)).tolist()


BLOCK = (16, 16), 8, 8
BACK, AHEAD = (-1, *BLOCK, 12, 0), (1, *BLOCK, 12, 0)


def test_distances_are_to_the_nearest_anchors(monkeypatch: pytest.MonkeyPatch) -> None:
    """I B B P P with vectors of 36 and 12 quarter pixels over 3 frames and 1. B-frames are not read."""
    shown = [Shown(1, []), Shown(3, [BACK]), Shown(3, [AHEAD]), Shown(2, [(-1, *BLOCK, 36, 0)]), Shown(2, [BACK])]
    assert read(monkeypatch, shown, MotionVectorScore.FRAMES_READ_PER_SECOND) == ([3, 4], pytest.approx([3, 3]))


def test_without_anchors_b_frames_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = MotionVectorScore.PATIENCE
    shown = [Shown(1, []), *[Shown(3, [AHEAD]) for _ in range(patience + 2)]]
    frames, steps = read(monkeypatch, shown, 1.0)
    assert frames == [patience + 1, patience + 2]
    assert steps == pytest.approx([3 / 2, 3 / 1])
    assert read(monkeypatch, shown, 1.0, b_frames=False) == ([], [])


@given(st.sampled_from([1, 2, 4]), st.sampled_from([8, 24, 30, 50, 60, 240]))
@settings(deadline=None, max_examples=20)
def test_about_as_many_frames_are_read_as_configured(gap: int, rate: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        shown = [Shown(1, [])] + [Shown(2 if i % gap == 0 else 3, [BACK]) for i in range(1, 4 * rate)]
        frames, _ = read(patch, shown, float(rate))
    assert len(frames) == pytest.approx(4 * min(MotionVectorScore.FRAMES_READ_PER_SECOND, rate / gap), rel=0.2)
    if rate > 8 * gap:  # and they fall on both of two repeated frames alike
        assert 0.2 < np.mean(np.array(frames) // gap % 2) < 0.8


# What really moved


def test_flicker_and_grain_are_no_motion() -> None:
    noise = np.random.default_rng(7)
    still = scene()[:HEIGHT, :WIDTH].astype(np.float64)
    flicker = [np.clip(still * (1 + 0.06 * math.sin(2.1 * i)), 0, 255).astype(np.uint8) for i in range(40)]
    grain = [np.clip(still + noise.normal(0, 3, still.shape), 0, 255).astype(np.uint8) for _ in range(40)]
    for frames in (flicker, grain):
        for group, method in (("250", "vectors"), ("1", "flow")):
            motion = observe_video(encode(frames, g=group, crf="5"))
            assert motion["method"] == method
            assert motion["score"] < 0.0005


def test_a_slow_subject_before_a_still_background_moves() -> None:
    frames = []
    for i in range(40):
        picture = scene()[:HEIGHT, :WIDTH].copy()
        picture[90:145, 100 + round(0.7 * i) : 155 + round(0.7 * i)] = scene(3)[:55, :55]
        frames.append(picture)
    for group in ("250", "1"):
        assert observe_video(encode(frames, g=group))["score"] > 0.001


def test_motion_counts_only_between_pictures_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at 0, 5, 10 and the last frame, 12: the same twice, then another picture."""
    pictures = iter([np.tile(np.arange(4, dtype=np.uint8) * 40, (4, 1))] * 2 + [np.eye(4, dtype=np.uint8) * 200] * 2)
    monkeypatch.setattr(motion.Gray8, "of", lambda *_: next(pictures))
    looks = ChangeGate(10.0)
    for _ in range(13):
        looks.add(Shown(2, []))
    looks.close(Shown(2, []))
    assert looks.moved(np.arange(13)).tolist() == [0.0] * 6 + [1.0] * 5 + [0.0] * 2
    assert ChangeGate(10.0).moved(np.arange(2)).tolist() == [1.0, 1.0]


def test_blocks_cover_the_frame() -> None:
    assert blocks(1, 1) == (1, 1)
    assert blocks(640, 361) == (40, 23)


def test_tiny_frames_have_a_flow() -> None:
    flow = OpticalFlowScore(25.0)
    for level in (10, 10, 11):
        flow.add(av.VideoFrame.from_ndarray(np.full((2, 2), level, np.uint8), format="gray"))
    assert flow.steps == [pytest.approx(0.0, abs=1e-3)]


def test_fingerprint_inputs_name_what_the_score_depends_on() -> None:
    assert Motion().fingerprint_inputs().keys() >= {"vector_codecs", "looks", "reads_a_second", "flow"}


def test_motion_vectors_are_released_as_soon_as_they_are_read() -> None:
    """PyAV's frame.side_data ties frame and vectors into a cycle that only the garbage collector undoes."""
    video = encode(pan(1.0, 20))
    gc.collect()
    gc.disable()
    try:
        before = sum(isinstance(container, SideDataContainer) for container in gc.get_objects())
        assert observe_video(video)["method"] == "vectors"
        assert sum(isinstance(container, SideDataContainer) for container in gc.get_objects()) == before
    finally:
        gc.enable()


def test_flow_sees_every_frame_when_vectors_never_come() -> None:
    observer = MotionObserver()
    observer.start({"codec": "h264", "fps": 2.0})
    with av.open(io.BytesIO(encode(pan(2.0, 7), g="1"))) as container:
        for frame in container.decode(video=0):
            observer.frame(frame)
    alone = OpticalFlowScore(2.0)
    with av.open(io.BytesIO(encode(pan(2.0, 7), g="1"))) as container:
        for frame in container.decode(video=0):
            alone.add(frame)
    motion = observer.finish()
    assert motion["frames"] == len(alone.steps) > 3
    assert motion["score"] == round(float(np.mean(alone.steps)) * 2, 6)


# Real media


@pytest.fixture
def corpus() -> Path:
    root = os.environ.get("REELMILL_CORPUS")
    if not root:
        pytest.skip("REELMILL_CORPUS is not set")
    return Path(root) / "videos"


def test_real_clips(corpus: Path) -> None:
    assert observe_video(str(corpus / "androidx_mp4_silent-black-10s.mp4"))["score"] < 0.001
    still = observe_video(str(corpus / "decord_rotation_0.mov"))
    turned = observe_video(str(corpus / "decord_rotation_90.mov"))
    assert {"error", "score"} & still.keys()
    assert turned.get("method") == still.get("method") == "vectors"
    assert observe_video(str(corpus / "mmaction_part_0.mp4"))["score"] > 0.05
    assert observe_video(str(corpus / "androidx_mkv_sample_av1.mkv"))["method"] == "flow"
    assert observe_video(str(corpus / "androidx_vp9_bear-vp9-odd-dimensions.webm"))["method"] == "flow"
