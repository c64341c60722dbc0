"""Text burned into pictures: subtitles, tickers, titles, watermarks and banners."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.demo.film import font
from pipelines.demo.scenes import Pixels

VIDEO_OVERLAYS = ("subtitle", "ticker", "title", "watermark", "banner")
IMAGE_OVERLAYS = ("meme", "watermark", "banner")
_WORDS = (
    "breaking", "news", "from", "the", "harbour", "tonight", "weather", "will", "be", "mild", "subscribe", "now", "for",
    "more", "free", "stock", "footage", "sale", "ends", "sunday", "chapter", "two", "long", "road", "home", "please",
    "like", "and", "share", "official", "trailer", "live", "report", "episode", "seven",
)  # fmt: skip


class BurnedInText:
    """Text laid over the picture: it keeps its position, whatever the scene does."""

    def __init__(self, kind: str, width: int, height: int, rng: np.random.Generator) -> None:
        self._kind, self._width, self._height = kind, width, height
        self._size = max(15, round(min(height * 0.105, width * 0.085)))
        self._lines = [self._phrase(rng, 0.9) for _ in range(3)]
        self._speed = float(rng.uniform(0.12, 0.2)) * width
        self._second_line = bool(rng.integers(2))
        self._cache: dict[tuple[Any, ...], tuple[NDArray[np.uint8], NDArray[np.float32]]] = {}

    def _phrase(self, rng: np.random.Generator, share: float) -> str:
        face, text = font(self._size), ""
        for _ in range(12):
            longer = f"{text} {_WORDS[int(rng.integers(len(_WORDS)))]}".strip()
            if face.getlength(longer) > share * self._width:
                break
            text = longer
        text = text or "news"
        return text.upper() if rng.random() < 0.3 else text[0].upper() + text[1:]

    def draw_on(self, picture: Pixels, t: float) -> Pixels:
        """The picture with the text as it is at t seconds."""
        h, size = self._height, self._size
        ink, alpha = self._lettering(t)
        if self._kind in ("ticker", "banner"):
            y0 = h - round(1.7 * size) if self._kind == "ticker" else round(0.04 * h)
            picture = picture.copy()
            band = picture[y0 : y0 + round(1.5 * size)]
            band[:] = (band * 0.15 + np.array([18, 30, 84]) * 0.85).astype(np.uint8)
        blend = picture * (1 - alpha[..., None]) + ink * alpha[..., None]
        return np.asarray(blend + 0.5).astype(np.uint8)

    def _lettering(self, t: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(colour, opacity) of the text at t seconds."""
        lines = tuple(self._lay_out(t))
        if lines not in self._cache:
            self._cache[lines] = self._render(lines, 0.72 if self._kind == "watermark" else 1.0)
        return self._cache[lines]

    def _lay_out(self, t: float) -> list[tuple[str, float | None, float]]:
        """(text, x, y) of each line at t seconds, in pixels; x None: centred."""
        w, h, size, lines = self._width, self._height, self._size, self._lines
        if self._kind == "subtitle":  # another line every 1.2 s
            n = int(t / 1.2) % 3
            second = [(lines[(n + 1) % 3], None, h - 2.9 * size)] if self._second_line else []
            return [(lines[n], None, h - 1.6 * size), *second]
        if self._kind == "ticker":
            text = "   ".join(lines)
            return [(text + "   " + text, -round(self._speed * t) + 0.02 * w, h - 1.5 * size)]
        if self._kind == "title":
            return [(line, None, h / 2 + (i - 1) * 1.5 * size) for i, line in enumerate(lines[:2])]
        if self._kind == "meme":
            return [(lines[0].upper(), None, 0.05 * h), (lines[1].upper(), None, h - 1.7 * size)]
        if self._kind == "banner":
            return [(lines[0], None, 0.04 * h + 0.2 * size)]
        return [("SAMPLE " + lines[0].split(" ")[0], None, h * (0.42 if self._second_line else 0.8))]

    def _render(
        self, lines: Iterable[tuple[str, float | None, float]], opacity: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        from PIL import Image, ImageDraw

        size = (self._width, self._height)
        ink, mask = Image.new("RGB", size, (0, 0, 0)), Image.new("L", size, 0)
        draw, cover = ImageDraw.Draw(ink), ImageDraw.Draw(mask)
        face, edge = font(self._size), max(1, self._size // 12)
        for text, x, y in lines:
            if x is None:
                x = max(0.0, (self._width - face.getlength(text)) / 2)
            draw.text((x, y), text, font=face, fill=(255, 255, 250), stroke_width=edge, stroke_fill=(0, 0, 0))
            cover.text((x, y), text, font=face, fill=255, stroke_width=edge, stroke_fill=255)
        return np.asarray(ink), np.asarray(mask).astype(np.float32) / 255.0 * np.float32(opacity)
