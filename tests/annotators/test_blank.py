from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest

from annotators.blank import Blank, measure_smoothness
from filters.blank import BlankThresholds
from infra.media.decoder import Decoder
from infra.media.interface import Frames, MediaRef
from tests import corpus


def measure(*pictures: np.ndarray) -> tuple[float, float]:
    row = Blank().measure_one({}, Frames(np.stack(pictures), np.arange(len(pictures), dtype=np.float64)))
    return row["spread"], row["smoothness"]


def test_one_colour_has_no_spread_and_noise_no_smoothness() -> None:
    plain = np.full((72, 128, 3), (200, 10, 90), np.uint8)
    assert measure(plain) == (0.0, 1.0)
    spread, smoothness = measure(np.random.default_rng(1).integers(0, 256, (72, 128, 3), dtype=np.uint8))
    assert spread > 70 and abs(smoothness) < 0.05
    spread, smoothness = measure(np.asarray(corpus.picture(3)))
    assert spread > 5 and smoothness > 0.3


@pytest.mark.parametrize("grain", [1, 2])
def test_coarse_noise_has_no_smoothness(grain: int) -> None:
    small = np.random.default_rng(grain).integers(0, 256, (128 // grain + 1, 128 // grain + 1, 3), dtype=np.uint8)
    assert measure(small.repeat(grain, 0).repeat(grain, 1)[:128, :128])[1] < BlankThresholds().min_smoothness


def test_writing_is_not_noise() -> None:
    """A page is smooth at one of the two sizes: at the other, lines and blanks between them take turns."""
    page = PIL.Image.new("RGB", (128, 128), "white")
    draw = PIL.ImageDraw.Draw(page)
    for y in range(4, 124, 5):
        draw.line((6, y, 60 + 17 * y % 60, y), fill=(40, 40, 40), width=2)
    assert measure(np.asarray(page))[1] > BlankThresholds().min_smoothness


def test_colours_of_one_brightness_have_a_spread() -> None:
    picture = np.zeros((10, 10, 3), np.uint8)
    picture[:5, :, 0], picture[5:, :, 2] = 114, 255 * 114 // 255  # grey levels hardly differ, channels do
    assert measure(picture)[0] > 50


def test_one_frame_that_shows_something_is_enough() -> None:
    dark = np.zeros((72, 128, 3), np.uint8)
    shown = np.linspace(0, 255, 128, dtype=np.uint8)[None, :, None].repeat(72, 0).repeat(3, 2)
    assert measure(dark, shown) == measure(shown)


def test_pictures_of_one_pixel_and_one_row() -> None:
    assert measure_smoothness(np.zeros((1, 1, 3))) == 1.0
    assert measure_smoothness(np.arange(30, dtype=np.float64).reshape(1, 10, 3)) > 0.9


def test_real_photographs_are_not_blank() -> None:
    folder = Path(os.environ.get("REELMILL_CORPUS", "")) / "images"
    if not folder.is_dir():
        pytest.skip("REELMILL_CORPUS is not set")
    annotator = Blank()
    with Decoder() as decoder:
        for path in sorted(folder.glob("coco_*.jpg"))[:40]:
            media = decoder.decode(MediaRef(str(path), kind="image"), {"blank": annotator.plan}, {})
            row = annotator.measure_one({}, media.frames["blank"])
            assert row["spread"] > 10 and row["smoothness"] > 0.5, path.name
