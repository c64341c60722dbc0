"""Clips for tests: photographs that move, with text burned in over them or standing in the scene."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from annotators.overlay import ocr
from infra.media.interface import Frames

images = pytest.importorskip("skimage.data")
WHITE, BLACK, YELLOW = (255, 255, 255), (0, 0, 0), (255, 230, 40)
HEIGHT, WIDTH = 180, 320
Picture = np.ndarray
LINE = [[20.0, 145.0], [300.0, 145.0], [300.0, 170.0], [20.0, 170.0]]


def write(picture: Picture, text: str, at: tuple[int, int], scale: float, colour=WHITE, thick=1, outline=False) -> None:
    if outline:
        cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, BLACK, thick + 3, cv2.LINE_AA)
    cv2.putText(picture, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)


def photograph(name: str, height: int, width: int) -> Picture:
    return cv2.resize(getattr(images, name)(), (width, height), interpolation=cv2.INTER_AREA)


def make_clip(
    draw: Callable[[Picture, int], None], scene: Picture | None = None, speed: float = 9, photo="coffee"
) -> Frames:
    """Eight frames of a pan over a photograph (or over `scene`), each drawn upon, with a JPEG's damage."""
    scene = photograph(photo, HEIGHT + 80, WIDTH + 120) if scene is None else scene
    frames = []
    for i in range(8):
        x, y = round(10 + speed * i), round(10 + 0.6 * speed * i)
        frame = scene[y : y + HEIGHT, x : x + WIDTH].copy()
        draw(frame, i)
        good, code = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 70])
        assert good
        frames.append(cv2.imdecode(code, cv2.IMREAD_COLOR)[:, :, ::-1])
    return Frames(np.stack(frames), np.arange(8) * 0.25)


def nothing(frame: Picture, i: int) -> None:
    pass


def subtitle(frame: Picture, i: int) -> None:
    write(frame, "people walk over the bridge", (20, 165), 0.6, outline=True)


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
