"""Clips are made here: photographs that move, with text burned in over them or standing in the scene."""

import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.interface import FrameAnnotator
from annotators.overlay import ocr
from annotators.overlay.overlay import (
    Overlay,
    OverlaySettings,
    clean,
    covered,
    look,
    look_at_image,
    split_strips,
    transcript,
)
from annotators.overlay.scene import Line, placed_like_overlay
from infra.media.interface import DecodedMedia, Frames

images = pytest.importorskip("skimage.data")
WHITE, BLACK, YELLOW = (255, 255, 255), (0, 0, 0), (255, 230, 40)
HEIGHT, WIDTH = 180, 320
Picture = np.ndarray


def _write(
    picture: Picture, text: str, at: tuple[int, int], scale: float, colour=WHITE, thick=1, outline=False
) -> None:
    if outline:
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, BLACK, thick + 3, cv2.LINE_AA)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)


def _photo(name: str, height: int, width: int) -> Picture:
    return cv2.resize(getattr(images, name)(), (width, height), interpolation=cv2.INTER_AREA)


def _clip(
    draw: Callable[[Picture, int], None], scene: Picture | None = None, speed: float = 9, photo="coffee"
) -> Frames:
    """Eight frames of a pan over a photograph (or over `scene`), each drawn upon, with a JPEG's damage."""
    scene = _photo(photo, HEIGHT + 80, WIDTH + 120) if scene is None else scene
    frames = []
    for i in range(8):
        x, y = round(10 + speed * i), round(10 + 0.6 * speed * i)
        frame = scene[y : y + HEIGHT, x : x + WIDTH].copy()
        draw(frame, i)
        good, code = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 70])
        assert good
        frames.append(cv2.imdecode(code, cv2.IMREAD_COLOR)[:, :, ::-1])
    return Frames(np.stack(frames), np.arange(8) * 0.25)


def _look(frames: Frames, video: bool = True) -> dict:
    with ocr.borrow(OverlaySettings()) as engine:
        return look(frames, video, engine, OverlaySettings())


def _nothing(frame: Picture, i: int) -> None:
    pass


# Burned in


def _subtitle(frame: Picture, i: int) -> None:
    _write(frame, "people walk over the bridge", (20, 165), 0.6, outline=True)


def _two_lines(frame: Picture, i: int) -> None:
    _write(frame, "the first line is here", (50, 145), 0.55, YELLOW)
    _write(frame, "and the second below", (55, 168), 0.55, YELLOW)


def _changing(frame: Picture, i: int) -> None:
    _write(frame, "good morning" if i < 4 else "where are we going", (60, 165), 0.6, outline=True)


def _watermark(frame: Picture, i: int) -> None:
    layer = frame.copy()
    _write(layer, "www.clips.tv", (190, 25), 0.6, thick=2)
    frame[:] = cv2.addWeighted(layer, 0.5, frame, 0.5, 0)


def _title(frame: Picture, i: int) -> None:
    if 2 <= i < 6:
        _write(frame, "CHAPTER TWO", (30, 100), 1.2, thick=3, outline=True)


def _ticker(frame: Picture, i: int, step: int = 14) -> None:
    frame[150:176] = (20, 20, 90)
    _write(frame, "markets rise again today while rain is near the coast", (60 - step * i, 169), 0.6)


def _slow_ticker(frame: Picture, i: int) -> None:
    _ticker(frame, i, 4)  # a fifth of its height from frame to frame, as in a clip of 2 s


BURNED = [_subtitle, _changing, _watermark, _ticker, _slow_ticker]  # lines and titles: below


@pytest.mark.parametrize("draw", BURNED)
def test_burned_in_text_is_found_in_a_moving_scene(draw: Callable[[Picture, int], None]) -> None:
    got = _look(_clip(draw))
    assert got["area"] > 0.01
    assert got["area"] <= got["text_area"] <= 1
    assert got["overlay_text"]


def test_what_is_burned_in_is_read_once_and_in_order() -> None:
    got = _look(_clip(_two_lines))
    assert got["overlay_text"].split("\n") == ["the first line is here", "and the second below"]
    assert got["frames"] == 2 and len({box["time"] for box in got["boxes"]}) == 2
    # Each line is about 250 x 20 of 320 x 180 pixels, boxes a little larger.
    assert 0.12 < got["area"] < 0.25


def test_text_that_is_there_half_the_time_counts_half() -> None:
    always = _look(_clip(lambda frame, i: _title(frame, 3)))["area"]
    assert 0.4 * always < _look(_clip(_title))["area"] < 0.6 * always


def test_overlay_text_is_recognised_over_a_moving_subject_with_a_still_camera() -> None:
    def draw(frame: Picture, i: int) -> None:
        cv2.circle(frame, (40 + 35 * i, 130), 45, (200, 60, 30), -1)
        _write(frame, "middle of nowhere", (15, 135), 0.5)

    got = _look(_clip(draw, speed=0))
    assert got["area"] > 0.01


LINES = ("where are we going", "no idea", "we wait for the train", "come with me", "it is late", "so what now")


def _each_frame_another(frame: Picture, i: int) -> None:
    text = LINES[i % len(LINES)]
    wide = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)[0][0]
    _write(frame, text, ((WIDTH - wide) // 2, 165), 0.6, outline=True)


@pytest.mark.parametrize("speed", [9, 12])
def test_captions_of_which_no_two_frames_share_one_are_burned_in(speed: float) -> None:
    got = _look(_clip(_each_frame_another, np.tile(_photo("coffee", 300, 320), (1, 3, 1)), speed=speed))
    assert got["area"] > 0.01
    assert len(got["overlay_text"].split("\n")) >= 2


def test_captions_with_long_gaps_are_searched_between_the_pictures_too() -> None:
    def draw(frame: Picture, i: int) -> None:
        if i in (2, 5):
            _each_frame_another(frame, i)

    assert _look(_clip(draw))["frames"] == 8
    assert len(_look(_clip(draw))["overlay_text"].split("\n")) == 2


def test_other_words_in_the_same_row_elsewhere_are_signs() -> None:
    def draw(frame: Picture, i: int) -> None:
        _write(frame, LINES[i % len(LINES)], (10 + 29 * i % 97, 165), 0.4, outline=True)

    assert _look(_clip(draw))["area"] == 0


def test_rows_of_a_board_that_pass_one_place_in_turn_are_signs() -> None:
    scene = _photo("coffee", HEIGHT + 8 * 27, WIDTH + 120)
    for row, text in enumerate(
        ("PLATFORM NINE", "RETURN TICKET", "LEFT LUGGAGE", "DEPARTURES", "FRESH COFFEE", "WAY OUT")
    ):
        _write(scene, text, (90, 40 + 60 * row), 0.8, thick=2, outline=True)
    frames = _clip(_nothing).pixels.copy()
    for i in range(8):
        frames[i] = scene[27 * i : 27 * i + HEIGHT, 40 : 40 + WIDTH]
    assert _look(Frames(frames, np.arange(8) * 0.25))["area"] == 0


# Of the scene


def _page_under_a_camera(across: float, down: float, rows: int) -> Frames:
    """A plain page, whose lines are the only texture, passes under the camera."""
    page = np.full((HEIGHT + 60, WIDTH + 260, 3), 235, np.uint8)
    for row in range(rows):
        _write(page, f"{row} {LINES[row]} and {LINES[row + 1]}", (20, 190 - 45 * row), 0.7, BLACK, 2)
    frames = [page[(y := round(8 + down * i)) : y + HEIGHT, (x := round(4 + across * i)) : x + WIDTH] for i in range(8)]
    return Frames(np.stack(frames), np.arange(8) * 0.25)


@pytest.mark.parametrize(("across", "down", "rows"), [(32, 0, 4), (4, 3, 1)], ids=["cut by the border", "drifting row"])
def test_lines_of_a_page_that_moves_are_not_burned_in(across: float, down: float, rows: int) -> None:
    got = _look(_page_under_a_camera(across, down, rows))
    assert got["area"] == 0 and got["text_area"] > 0.01


def _with_signs() -> Picture:
    scene = _photo("coffee", HEIGHT + 80, WIDTH + 120)
    for text, (x, y) in {"EXIT": (90, 90), "PLATFORM 9": (200, 190), "TAXI": (260, 110)}.items():
        cv2.rectangle(scene, (x - 8, y - 24), (x + 18 * len(text), y + 10), (30, 60, 30), -1)
        _write(scene, text, (x, y), 0.7, thick=2)
    return scene


@pytest.mark.parametrize("speed", [2, 9])
def test_signs_move_with_the_camera_and_are_not_burned_in(speed: float) -> None:
    got = _look(_clip(_nothing, _with_signs(), speed=speed))
    assert got["area"] == 0
    assert got["text_area"] > 0.01 and "EXIT" in got["text"]


def test_a_subtitle_is_distinguished_from_signs_behind_it() -> None:
    got = _look(_clip(_subtitle, _with_signs()))
    assert "people walk over" in got["overlay_text"]
    assert not any(sign in got["overlay_text"] for sign in ("EXIT", "PLATFORM", "TAXI"))
    assert "TAXI" in got["text"]


@pytest.mark.parametrize("step", [3, -12])
def test_a_label_on_a_moving_subject_is_not_burned_in(step: int) -> None:
    def draw(frame: Picture, i: int) -> None:
        x = 110 + step * i
        cv2.rectangle(frame, (x - 40, 60), (x + 100, 130), (190, 180, 60), -1)
        _write(frame, "BUS 42", (x, 100), 0.7, BLACK, 2)

    got = _look(_clip(draw, speed=0))
    assert got["area"] == 0 and "42" in got["text"]


@pytest.mark.parametrize(("photo", "speed"), [("coffee", 0), ("rocket", 9)])
def test_photographs_have_no_overlay(photo: str, speed: float) -> None:
    assert _look(_clip(_nothing, speed=speed, photo=photo))["area"] == 0


# Where nothing moves


def test_in_a_still_clip_the_position_of_text_decides() -> None:
    assert _look(_clip(_subtitle, speed=0))["area"] > 0.01

    def sign(frame: Picture, i: int) -> None:
        _write(frame, "EXIT", (70, 80), 0.7, thick=2, outline=True)

    got = _look(_clip(sign, speed=0))
    assert got["area"] == 0 and got["text"] == "EXIT"


def test_an_image_is_judged_by_the_position_of_text_and_has_no_time() -> None:
    clip = _clip(_subtitle)
    got = _look(Frames(clip.pixels[:1], clip.times[:1]), video=False)
    assert got["area"] > 0.01 and got["frames"] == 1
    assert {box["time"] for box in got["boxes"]} == {0.0}


@pytest.mark.parametrize("degrees", [0, 8])
def test_slanted_text_is_not_placed_like_an_overlay(degrees: float) -> None:
    turn = np.deg2rad(degrees)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    quad = np.array([[0, 0], [100, 0], [100, 12], [0, 12]]) @ matrix + (20, 160)
    assert placed_like_overlay(quad.astype(np.float32), (180, 320)) == (degrees == 0)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_page_is_read_upright_and_its_boxes_lie_on_the_picture(turns: int) -> None:
    page = np.full((500, 800, 3), 255, np.uint8)
    for row in range(6):
        _write(page, f"number {row} of the lines that stand here", (40, 60 + 50 * row), 0.9, BLACK, 2)
    turned = np.ascontiguousarray(np.rot90(page, turns))
    with ocr.borrow(OverlaySettings()) as engine:
        got = look_at_image(Frames(turned[None], np.zeros(1)), engine, OverlaySettings())
    assert got["text"].split("\n")[0].startswith("number 0") and len(got["text"].split("\n")) == 6
    for box in got["boxes"]:
        height, width = turned.shape[:2]
        inside = turned[
            int(box["y0"] * height) : int(box["y1"] * height), int(box["x0"] * width) : int(box["x1"] * width)
        ]
        assert inside.min() == 0


@pytest.mark.parametrize(("score", "kept"), [(0.7, False), (0.8, True)])
def test_text_of_an_image_that_was_read_badly_is_not_joined(score: float, kept: bool) -> None:
    clip = _clip(_nothing)
    engine = Scripted(LINE, "people walk", score)
    got = look(Frames(clip.pixels[:1], np.zeros(1)), False, engine, OverlaySettings())
    assert bool(got["text"]) is kept


class Recording:
    """Keeps the sizes of the pictures that a real engine searches."""

    def __init__(self, engine: ocr.Engine) -> None:
        self.engine, self.read, self.sizes = engine, engine.read, []

    def find(self, picture: Picture) -> list[ocr.Region]:
        self.sizes.append(picture.shape[:2])
        return self.engine.find(picture)


@pytest.mark.parametrize(("turns", "scale"), [(0, 0.4), (1, 0.35), (0, 1.2)])
def test_small_print_of_a_large_page_is_searched_in_strips_and_each_line_read_once(turns: int, scale: float) -> None:
    page = np.full((2560, 900, 3), 255, np.uint8)
    for row in range(19):
        _write(page, f"{row} small print", (40, 60 + 130 * row), scale, BLACK, 1)
    turned = np.ascontiguousarray(np.rot90(page, turns))
    with ocr.borrow(OverlaySettings()) as engine:
        recording = Recording(engine)
        got = look_at_image(Frames(turned[None], np.zeros(1)), recording, OverlaySettings())
    assert recording.sizes == [(640, 640), *([(987, 900), (986, 900), (987, 900)] if scale < 1 else [(1280, 450)])]
    side = "x" if turns else "y"
    middles = sorted(1280 * (box[f"{side}0"] + box[f"{side}1"]) for box in got["boxes"])
    assert [round((middle - 60 + 10 * scale) / 130) for middle in middles] == list(range(19))


@given(st.integers(1, 5000))
def test_strips_cover_a_page_and_share_rows(height: int) -> None:
    strips = split_strips(height)
    assert strips[0][0] == 0 and strips[-1][1] == height
    assert all(0 < bottom - top <= 1001 for top, bottom in strips)
    assert all(above - below >= 199 for (_, above), (below, _) in pairwise(strips))


# The annotator


def test_rows_stand_alone_and_errors_are_not_scores() -> None:
    annotator = Overlay()
    assert isinstance(annotator, FrameAnnotator)
    assert annotator.plan.count == 2 * annotator.settings.frames and annotator.plan.fit == "long"
    clip, still = DecodedMedia(frames={"overlay": _clip(_subtitle)}), DecodedMedia(frames={"overlay": _clip(_nothing)})
    media = [clip, DecodedMedia(error="codec: broken"), still, DecodedMedia(), clip]
    chunk = pa.table({"key": list("abcde"), "modality": ["video"] * 5, "text": [""] * 5})
    got = annotator.measure(chunk, media)
    assert got.schema == Overlay.schema()
    rows = got.to_pylist()
    assert rows[1]["error"] == "codec: broken" and rows[3]["error"].startswith("no_frames")
    assert all(rows[i][name] is None for i in (1, 3) for name in Overlay.columns)
    assert rows[0] == rows[4] and rows[0]["area"] > 0.01 and rows[2]["area"] == 0 and rows[0]["error"] is None
    alone = annotator.measure(chunk.slice(4), media[4:])
    assert alone.to_pylist() == rows[4:]


def test_fingerprint_inputs_contain_weights_and_settings() -> None:
    maker = Overlay().fingerprint_inputs()
    json.dumps(maker)
    assert maker != Overlay(OverlaySettings(frames=3)).fingerprint_inputs()
    assert set(maker["weights"]) == {"det", "rec"}  # type: ignore[call-overload]


class Scripted:
    """An engine that finds what it is told: the junk that real detectors give is rare in small tests."""

    def __init__(
        self,
        quad: list[list[float]],
        text: str,
        score: float,
        is_seen: Callable[[Picture], bool] = lambda picture: True,
    ) -> None:
        self.region, self.line, self.is_seen = ocr.Region(np.array(quad, np.float32), 0.9), (text, score), is_seen
        self.searched: list[Picture] = []

    def find(self, picture: Picture) -> list[ocr.Region]:
        self.searched.append(picture.copy())
        return [self.region] if picture.shape[:2] == (HEIGHT, WIDTH) and self.is_seen(picture) else []

    def read(self, line: Picture) -> tuple[str, float]:
        return self.line


def test_a_box_around_the_whole_picture_that_reads_as_nothing_is_dropped() -> None:
    whole = [[0.0, 0.0], [WIDTH, 0.0], [WIDTH, HEIGHT], [0.0, HEIGHT]]
    got = look(_clip(_nothing, speed=0), True, Scripted(whole, "", 0.0), OverlaySettings(size=384))
    assert got["text_area"] == 0 and got["boxes"] == []


@pytest.mark.parametrize(("text", "kept"), [("YO", False), ("0000", False), ("SALE", True)])
def test_a_letter_or_two_that_fill_the_picture_are_stripes(text: str, kept: bool) -> None:
    # Seen on a large striped star: one box around everything, read as "YO" with 0.97.
    most = [[4.0, 4.0], [WIDTH - 4.0, 4.0], [WIDTH - 4.0, HEIGHT - 4.0], [4.0, HEIGHT - 4.0]]
    got = look(_clip(_nothing, speed=0), True, Scripted(most, text, 0.97), OverlaySettings(size=384))
    assert (got["text_area"] > 0.5) is kept


def test_a_script_that_cannot_be_read_counts_when_it_stands_in_a_moving_scene() -> None:
    line = [[15.0, 148.0], [310.0, 148.0], [310.0, 174.0], [15.0, 174.0]]
    unread = Scripted(line, "", 0.1)
    assert look(_clip(_subtitle), True, unread, OverlaySettings())["area"] == pytest.approx(
        295 * 26 / (320 * 180), rel=0.05
    )
    assert look(_clip(_nothing), True, unread, OverlaySettings())["text_area"] == 0


# How many pictures are searched


LINE = [[20.0, 145.0], [300.0, 145.0], [300.0, 170.0], [20.0, 170.0]]


def _blind() -> Scripted:
    return Scripted(LINE, "", 0.0, is_seen=lambda picture: False)


def test_without_text_half_of_the_pictures_and_the_mean_are_searched() -> None:
    clip, engine = _clip(_nothing, speed=14), _blind()
    assert look(clip, True, engine, OverlaySettings())["frames"] == 2
    *frames, mean = engine.searched
    assert np.array_equal(frames, clip.pixels[[2, 6]])
    assert not (clip.pixels == mean).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize(("seconds", "searched"), [(8, [2, 6]), (30, [2, 4, 6])])
def test_a_long_video_is_searched_in_more_pictures(seconds: float, searched: list[int]) -> None:
    clip, engine = _clip(_nothing, speed=14), _blind()
    times = (np.arange(8) + 0.5) * seconds / 8
    assert look(Frames(clip.pixels, times), True, engine, OverlaySettings())["frames"] == len(searched)
    assert np.array_equal(engine.searched[:-1], clip.pixels[searched])


def test_pictures_that_are_the_same_are_searched_once() -> None:
    clip, engine = _clip(_nothing, speed=0), _blind()
    look(clip, True, engine, OverlaySettings())
    assert len(engine.searched) == 1  # and no mean of a scene that stands still
    clip.pixels[6] = _clip(_subtitle, speed=0).pixels[6]
    engine = _blind()
    look(clip, True, engine, OverlaySettings())
    assert np.array_equal(engine.searched, clip.pixels[[2, 6]])


def test_text_that_comes_and_goes_is_searched_in_all_pictures() -> None:
    def subtitle(frame: Picture, i: int) -> None:
        if i in (2, 3):
            _subtitle(frame, i)

    clip = _clip(subtitle, speed=0)
    engine = Scripted(LINE, "people walk", 0.95, is_seen=lambda picture: np.array_equal(picture, clip.pixels[2]))
    got = look(clip, True, engine, OverlaySettings())
    # One picture of four; two are the same as one that was searched and are not searched themselves.
    assert got["frames"] == 4 and len(engine.searched) == 2
    assert got["area"] == got["text_area"] == pytest.approx(280 * 25 / (320 * 180) / 4, rel=0.05)


# Parts


rectangles = st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(1, 12), st.integers(1, 10))


@settings(max_examples=60, deadline=None)
@given(st.lists(rectangles, max_size=6))
def test_covered_area_is_that_of_the_union_of_boxes(boxes: list[tuple[int, int, int, int]]) -> None:
    height, width = 34, 46
    cells = {(x + i, y + j) for x, y, w, h in boxes for i in range(w) for j in range(h)}
    quads = [np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], np.float32) for x, y, w, h in boxes]
    assert covered(quads, height, width) == pytest.approx(len(cells) / (height * width))


@given(st.text())
def test_clean_text_has_no_control_characters(text: str) -> None:
    got = clean(text)
    assert got == clean(got) == got.strip()
    assert got.isprintable() or all(c.isprintable() or c.isspace() for c in got)
    assert not any(ord(c) < 32 or ord(c) == 127 for c in got)


def test_reading_order_is_rows_then_columns() -> None:
    def line(text: str, x: int, y: int) -> Line:
        quad = np.array([[x, y], [x + 50, y], [x + 50, y + 10], [x, y + 10]], np.float32)
        return Line(0, quad, 0.9, (x, y, x + 50, y + 10), text, 0.9)

    lines = [line("d", 0, 40), line("b", 100, 8), line("a", 0, 10), line("A!", 100, 41)]
    assert transcript(lines) == "a\nb\nd"


@pytest.mark.skipif("REELMILL_CORPUS" not in os.environ, reason="REELMILL_CORPUS is not set")
def test_real_pictures_are_read() -> None:
    root = Path(os.environ["REELMILL_CORPUS"])
    with open(root / "MANIFEST.jsonl") as lines:
        rows = [row for row in map(json.loads, lines) if row.get("ocr_text")]
    assert rows
    read = 0
    for row in rows:
        picture = cv2.imread(str(root / row["path"]))[:, :, ::-1]
        scale = min(1280 / max(picture.shape[:2]), 1)
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        got = _look(Frames(small[None], np.zeros(1)), video=False)
        read += all(word in got["text"].casefold() for word in row["ocr_text"])
    assert read >= 0.8 * len(rows)
