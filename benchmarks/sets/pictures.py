"""Draw the pictures on which the filter of blank ones errs, with its verdicts, for docs/accuracy.md.

python -m benchmarks.sets.pictures docs/images/blank.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from benchmarks.sets.text import Picture, keep_pictures

SIDE = 256


def draw_noise(grain: int) -> Picture:
    """Noise whose grains are `grain` pixels wide, of 256."""
    small = np.random.default_rng(grain).integers(0, 256, (-(-SIDE // grain),) * 2 + (3,), dtype=np.uint8)
    return small.repeat(grain, axis=0).repeat(grain, axis=1)[:SIDE, :SIDE]


def draw_stars() -> Picture:
    """Points of light on black."""
    rng = np.random.default_rng(1)
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    y, x = rng.integers(0, SIDE, (2, 400))
    picture[y, x] = rng.integers(90, 256, (400, 1))
    return picture


def draw_code() -> Picture:
    """Squares of black and white, 80 to a side, as in a dense QR code."""
    small = np.random.default_rng(2).integers(0, 2, (80, 80, 1), dtype=np.uint8) * np.uint8(255)
    return np.asarray(PIL.Image.fromarray(small.repeat(3, axis=2)).resize((SIDE, SIDE), PIL.Image.Resampling.NEAREST))


def draw_ball(percent: int) -> Picture:
    """A lit ball, with its levels at so many per cent."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    height = np.sqrt(np.clip(0.6 - x**2 - y**2, 0, None))
    light: NDArray[np.float64] = np.clip(0.15 + 0.8 * height - 0.4 * x - 0.4 * y, 0, 1) * (height > 0)
    levels = light[:, :, None] * (255, 180, 90) * percent / 100
    return np.round(levels).astype(np.uint8)


PICTURES = {
    "fine noise": draw_noise(1),
    "grains of 1/40": draw_noise(6),
    "grains of 1/20": draw_noise(13),
    "levels at 10 %": draw_ball(10),
    "levels at 2 %": draw_ball(2),
    "stars": draw_stars(),
    "dense code": draw_code(),
}


def main() -> None:
    font = PIL.ImageFont.truetype("DejaVuSans.ttf", 22)
    sheet = PIL.Image.new("RGB", (len(PICTURES) * (SIDE + 16) + 16, SIDE + 80), "white")
    draw = PIL.ImageDraw.Draw(sheet)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f"{number}.png" for number, name in enumerate(PICTURES)}
        for name, path in paths.items():
            PIL.Image.fromarray(PICTURES[name]).save(path)
        kept = keep_pictures(list(paths.values()))
    for number, (name, path) in enumerate(paths.items()):
        x = 16 + number * (SIDE + 16)
        sheet.paste(PIL.Image.fromarray(PICTURES[name]), (x, 8))
        verdict = "stays" if kept[path.name] else "goes"
        draw.text((x, SIDE + 16), f"{name}\n{verdict}", fill="black", font=font)
    sheet.quantize(64).save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
