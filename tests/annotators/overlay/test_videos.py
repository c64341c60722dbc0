from collections.abc import Callable

import cv2
import numpy as np
import pytest

from annotators.overlay import ocr
from annotators.overlay.settings import OverlaySettings
from annotators.overlay.videos import look_at_video
from infra.media.interface import Frames
from tests.annotators.overlay.clips import (
    BLACK,
    HEIGHT,
    LINE,
    WIDTH,
    YELLOW,
    Picture,
    Scripted,
    make_clip,
    nothing,
    photograph,
    subtitle,
    write,
)


def _look(frames: Frames) -> dict:
    with ocr.borrow(OverlaySettings()) as engine:
        return look_at_video(frames, engine, OverlaySettings())


def _two_lines(frame: Picture, i: int) -> None:
    write(frame, "the first line is here", (50, 145), 0.55, YELLOW)
    write(frame, "and the second below", (55, 168), 0.55, YELLOW)


def _changing(frame: Picture, i: int) -> None:
    write(frame, "good morning" if i < 4 else "where are we going", (60, 165), 0.6, outline=True)


def _watermark(frame: Picture, i: int) -> None:
    layer = frame.copy()
    write(layer, "www.clips.tv", (190, 25), 0.6, thick=2)
    frame[:] = cv2.addWeighted(layer, 0.5, frame, 0.5, 0)


def _title(frame: Picture, i: int) -> None:
    if 2 <= i < 6:
        write(frame, "CHAPTER TWO", (30, 100), 1.2, thick=3, outline=True)


def _ticker(frame: Picture, i: int, step: int = 14) -> None:
    frame[150:176] = (20, 20, 90)
    write(frame, "markets rise again today while rain is near the coast", (60 - step * i, 169), 0.6)


def _slow_ticker(frame: Picture, i: int) -> None:
    _ticker(frame, i, 4)  # a fifth of its height from frame to frame, as in a clip of 2 s


BURNED = [subtitle, _changing, _watermark, _ticker, _slow_ticker]  # lines and titles: below


@pytest.mark.parametrize("draw", BURNED)
def test_burned_in_text_is_found_in_a_moving_scene(draw: Callable[[Picture, int], None]) -> None:
    got = _look(make_clip(draw))
    assert got["area"] > 0.01
    assert got["area"] <= got["text_area"] <= 1
    assert got["overlay_text"]


def test_what_is_burned_in_is_read_once_and_in_order() -> None:
    got = _look(make_clip(_two_lines))
    assert got["overlay_text"].split("\n") == ["the first line is here", "and the second below"]
    assert got["frames"] == 2 and len({box["time"] for box in got["boxes"]}) == 2
    # Each line is about 250 x 20 of 320 x 180 pixels, boxes a little larger.
    assert 0.12 < got["area"] < 0.25


def test_text_that_is_there_half_the_time_counts_half() -> None:
    always = _look(make_clip(lambda frame, i: _title(frame, 3)))["area"]
    assert 0.4 * always < _look(make_clip(_title))["area"] < 0.6 * always


def test_overlay_text_is_recognised_over_a_moving_subject_with_a_still_camera() -> None:
    def draw(frame: Picture, i: int) -> None:
        cv2.circle(frame, (40 + 35 * i, 130), 45, (200, 60, 30), -1)
        write(frame, "middle of nowhere", (15, 135), 0.5)

    got = _look(make_clip(draw, speed=0))
    assert got["area"] > 0.01


LINES = ("where are we going", "no idea", "we wait for the train", "come with me", "it is late", "so what now")


def _each_frame_another(frame: Picture, i: int) -> None:
    text = LINES[i % len(LINES)]
    wide = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)[0][0]
    write(frame, text, ((WIDTH - wide) // 2, 165), 0.6, outline=True)


@pytest.mark.parametrize("speed", [9, 12])
def test_captions_of_which_no_two_frames_share_one_are_burned_in(speed: float) -> None:
    got = _look(make_clip(_each_frame_another, np.tile(photograph("coffee", 300, 320), (1, 3, 1)), speed=speed))
    assert got["area"] > 0.01
    assert len(got["overlay_text"].split("\n")) >= 2


def test_captions_with_long_gaps_are_searched_between_the_pictures_too() -> None:
    def draw(frame: Picture, i: int) -> None:
        if i in (2, 5):
            _each_frame_another(frame, i)

    assert _look(make_clip(draw))["frames"] == 8
    assert len(_look(make_clip(draw))["overlay_text"].split("\n")) == 2


def test_other_words_in_the_same_row_elsewhere_are_signs() -> None:
    def draw(frame: Picture, i: int) -> None:
        write(frame, LINES[i % len(LINES)], (10 + 29 * i % 97, 165), 0.4, outline=True)

    assert _look(make_clip(draw))["area"] == 0


def test_rows_of_a_board_that_pass_one_place_in_turn_are_signs() -> None:
    scene = photograph("coffee", HEIGHT + 8 * 27, WIDTH + 120)
    for row, text in enumerate(
        ("PLATFORM NINE", "RETURN TICKET", "LEFT LUGGAGE", "DEPARTURES", "FRESH COFFEE", "WAY OUT")
    ):
        write(scene, text, (90, 40 + 60 * row), 0.8, thick=2, outline=True)
    frames = make_clip(nothing).pixels.copy()
    for i in range(8):
        frames[i] = scene[27 * i : 27 * i + HEIGHT, 40 : 40 + WIDTH]
    assert _look(Frames(frames, np.arange(8) * 0.25))["area"] == 0


def _page_under_a_camera(across: float, down: float, rows: int) -> Frames:
    """A plain page, whose lines are the only texture, passes under the camera."""
    page = np.full((HEIGHT + 60, WIDTH + 260, 3), 235, np.uint8)
    for row in range(rows):
        write(page, f"{row} {LINES[row]} and {LINES[row + 1]}", (20, 190 - 45 * row), 0.7, BLACK, 2)
    frames = [page[(y := round(8 + down * i)) : y + HEIGHT, (x := round(4 + across * i)) : x + WIDTH] for i in range(8)]
    return Frames(np.stack(frames), np.arange(8) * 0.25)


@pytest.mark.parametrize(("across", "down", "rows"), [(32, 0, 4), (4, 3, 1)], ids=["cut by the border", "drifting row"])
def test_lines_of_a_page_that_moves_are_not_burned_in(across: float, down: float, rows: int) -> None:
    got = _look(_page_under_a_camera(across, down, rows))
    assert got["area"] == 0 and got["text_area"] > 0.01


def _with_signs() -> Picture:
    scene = photograph("coffee", HEIGHT + 80, WIDTH + 120)
    for text, (x, y) in {"EXIT": (90, 90), "PLATFORM 9": (200, 190), "TAXI": (260, 110)}.items():
        cv2.rectangle(scene, (x - 8, y - 24), (x + 18 * len(text), y + 10), (30, 60, 30), -1)
        write(scene, text, (x, y), 0.7, thick=2)
    return scene


@pytest.mark.parametrize("speed", [2, 9])
def test_signs_move_with_the_camera_and_are_not_burned_in(speed: float) -> None:
    got = _look(make_clip(nothing, _with_signs(), speed=speed))
    assert got["area"] == 0
    assert got["text_area"] > 0.01 and "EXIT" in got["text"]


def test_a_subtitle_is_distinguished_from_signs_behind_it() -> None:
    got = _look(make_clip(subtitle, _with_signs()))
    assert "people walk over" in got["overlay_text"]
    assert not any(sign in got["overlay_text"] for sign in ("EXIT", "PLATFORM", "TAXI"))
    assert "TAXI" in got["text"]


@pytest.mark.parametrize("step", [3, -12])
def test_a_label_on_a_moving_subject_is_not_burned_in(step: int) -> None:
    def draw(frame: Picture, i: int) -> None:
        x = 110 + step * i
        cv2.rectangle(frame, (x - 40, 60), (x + 100, 130), (190, 180, 60), -1)
        write(frame, "BUS 42", (x, 100), 0.7, BLACK, 2)

    got = _look(make_clip(draw, speed=0))
    assert got["area"] == 0 and "42" in got["text"]


@pytest.mark.parametrize(("photo", "speed"), [("coffee", 0), ("rocket", 9)])
def test_photographs_have_no_overlay(photo: str, speed: float) -> None:
    assert _look(make_clip(nothing, speed=speed, photo=photo))["area"] == 0


def test_in_a_still_clip_the_position_of_text_decides() -> None:
    assert _look(make_clip(subtitle, speed=0))["area"] > 0.01

    def sign(frame: Picture, i: int) -> None:
        write(frame, "EXIT", (70, 80), 0.7, thick=2, outline=True)

    got = _look(make_clip(sign, speed=0))
    assert got["area"] == 0 and got["text"] == "EXIT"


def test_a_box_around_the_whole_picture_that_reads_as_nothing_is_dropped() -> None:
    whole = [[0.0, 0.0], [WIDTH, 0.0], [WIDTH, HEIGHT], [0.0, HEIGHT]]
    got = look_at_video(make_clip(nothing, speed=0), Scripted(whole, "", 0.0), OverlaySettings(size=384))
    assert got["text_area"] == 0 and got["boxes"] == []


@pytest.mark.parametrize(("text", "kept"), [("YO", False), ("0000", False), ("SALE", True)])
def test_a_letter_or_two_that_fill_the_picture_are_stripes(text: str, kept: bool) -> None:
    # Seen on a large striped star: one box around everything, read as "YO" with 0.97.
    most = [[4.0, 4.0], [WIDTH - 4.0, 4.0], [WIDTH - 4.0, HEIGHT - 4.0], [4.0, HEIGHT - 4.0]]
    got = look_at_video(make_clip(nothing, speed=0), Scripted(most, text, 0.97), OverlaySettings(size=384))
    assert (got["text_area"] > 0.5) is kept


def test_a_script_that_cannot_be_read_counts_when_it_stands_in_a_moving_scene() -> None:
    line = [[15.0, 148.0], [310.0, 148.0], [310.0, 174.0], [15.0, 174.0]]
    unread = Scripted(line, "", 0.1)
    assert look_at_video(make_clip(subtitle), unread, OverlaySettings())["area"] == pytest.approx(
        295 * 26 / (320 * 180), rel=0.05
    )
    assert look_at_video(make_clip(nothing), unread, OverlaySettings())["text_area"] == 0


def _blind() -> Scripted:
    return Scripted(LINE, "", 0.0, is_seen=lambda picture: False)


def test_without_text_half_of_the_pictures_and_the_mean_are_searched() -> None:
    clip, engine = make_clip(nothing, speed=14), _blind()
    assert look_at_video(clip, engine, OverlaySettings())["frames"] == 2
    *frames, mean = engine.searched
    assert np.array_equal(frames, clip.pixels[[2, 6]])
    assert not (clip.pixels == mean).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize(("seconds", "searched"), [(8, [2, 6]), (30, [2, 4, 6])])
def test_a_long_video_is_searched_in_more_pictures(seconds: float, searched: list[int]) -> None:
    clip, engine = make_clip(nothing, speed=14), _blind()
    times = (np.arange(8) + 0.5) * seconds / 8
    assert look_at_video(Frames(clip.pixels, times), engine, OverlaySettings())["frames"] == len(searched)
    assert np.array_equal(engine.searched[:-1], clip.pixels[searched])


def test_pictures_that_are_the_same_are_searched_once() -> None:
    clip, engine = make_clip(nothing, speed=0), _blind()
    look_at_video(clip, engine, OverlaySettings())
    assert len(engine.searched) == 1  # and no mean of a scene that stands still
    clip.pixels[6] = make_clip(subtitle, speed=0).pixels[6]
    engine = _blind()
    look_at_video(clip, engine, OverlaySettings())
    assert np.array_equal(engine.searched, clip.pixels[[2, 6]])


def test_text_that_comes_and_goes_is_searched_in_all_pictures() -> None:
    def for_a_while(frame: Picture, i: int) -> None:
        if i in (2, 3):
            subtitle(frame, i)

    clip = make_clip(for_a_while, speed=0)
    engine = Scripted(LINE, "people walk", 0.95, is_seen=lambda picture: np.array_equal(picture, clip.pixels[2]))
    got = look_at_video(clip, engine, OverlaySettings())
    # One picture of four; two are the same as one that was searched and are not searched themselves.
    assert got["frames"] == 4 and len(engine.searched) == 2
    assert got["area"] == got["text_area"] == pytest.approx(280 * 25 / (320 * 180) / 4, rel=0.05)
