import json
import os
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotators.overlay import ocr
from annotators.overlay.images import look_at_images, split_strips
from annotators.overlay.scene import placed_like_overlay
from annotators.overlay.settings import OverlaySettings
from infra.media.interface import Frames
from tests.annotators.overlay.clips import BLACK, LINE, Picture, Scripted, make_clip, nothing, subtitle, write


def _look(*pictures: Picture) -> dict:
    with ocr.borrow(OverlaySettings()) as engine:
        return look_at_images(Frames(pictures, np.arange(len(pictures), dtype=float)), engine, OverlaySettings())


def test_an_image_is_judged_by_the_position_of_text_and_has_no_time() -> None:
    clip = make_clip(subtitle)
    got = _look(clip.pixels[0])
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
        write(page, f"number {row} of the lines that stand here", (40, 60 + 50 * row), 0.9, BLACK, 2)
    turned = np.ascontiguousarray(np.rot90(page, turns))
    got = _look(turned)
    assert got["text"].split("\n")[0].startswith("number 0") and len(got["text"].split("\n")) == 6
    for box in got["boxes"]:
        height, width = turned.shape[:2]
        inside = turned[
            int(box["y0"] * height) : int(box["y1"] * height), int(box["x0"] * width) : int(box["x1"] * width)
        ]
        assert inside.min() == 0


@pytest.mark.parametrize(("score", "kept"), [(0.7, False), (0.8, True)])
def test_text_of_an_image_that_was_read_badly_is_not_joined(score: float, kept: bool) -> None:
    clip = make_clip(nothing)
    engine = Scripted(LINE, "people walk", score)
    got = look_at_images(Frames(clip.pixels[:1], np.zeros(1)), engine, OverlaySettings())
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
        write(page, f"{row} small print", (40, 60 + 130 * row), scale, BLACK, 1)
    turned = np.ascontiguousarray(np.rot90(page, turns))
    with ocr.borrow(OverlaySettings()) as engine:
        recording = Recording(engine)
        got = look_at_images(Frames(turned[None], np.zeros(1)), recording, OverlaySettings())
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
        got = _look(small)
        read += all(word in got["text"].casefold() for word in row["ocr_text"])
    assert read >= 0.8 * len(rows)


def test_the_images_of_a_sample_are_read_each_as_if_it_were_alone() -> None:
    page = np.full((500, 800, 3), 255, np.uint8)
    for row in range(6):
        write(page, f"number {row} of the lines that stand here", (40, 60 + 50 * row), 0.9, BLACK, 2)
    pictures = [page, make_clip(subtitle).pixels[0], np.ascontiguousarray(np.rot90(page))]
    alone = [_look(picture) for picture in pictures]
    got = _look(*pictures)
    for name in ("area", "text_area"):
        assert got[name] == pytest.approx(np.mean([one[name] for one in alone]), abs=1e-6)
    expected = [box | {"time": float(i)} for i, one in enumerate(alone) for box in one["boxes"]]
    assert got["boxes"] == expected and got["frames"] == 3
    # The page turned is the page again, and each line of text stands once.
    assert got["text"] == alone[0]["text"] + "\n" + alone[1]["text"]
