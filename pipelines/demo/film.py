"""Film a scene: render its photograph, tint, signs and moving subjects at any time and size.

The photographs come with scikit-image and matplotlib and are read from the installed packages; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import MissingExtra
from pipelines.demo.outlines import OUTLINES
from pipelines.demo.scenes import CAMERAS, COLOURS, MARGIN, MIDDLE_S, DemoScene, Pixels, Sign, Subject

_FILES = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "brick": ("skimage", "data/brick.png"),
    "camera": ("skimage", "data/camera.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "coins": ("skimage", "data/coins.png"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "grass": ("skimage", "data/grass.png"),
    "gravel": ("skimage", "data/gravel.png"),
    "hubble_deep_field": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "moon": ("skimage", "data/moon.png"),
    "motorcycle_left": ("skimage", "data/motorcycle_left.png"),
    "motorcycle_right": ("skimage", "data/motorcycle_right.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
_PACKAGES = {"skimage": "scikit-image", "matplotlib": "matplotlib"}


@lru_cache(maxsize=64)  # threads: the world is rendered in processes
def load_photo(name: str) -> Pixels:
    """uint8 RGB, at most 900 pixels on the longer side. Raises MissingExtra when its package is not installed."""
    import cv2

    content = np.frombuffer(_package_file(*_FILES[name]).read_bytes(), dtype=np.uint8)
    picture: Any = cv2.cvtColor(cv2.imdecode(content, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    if name == "retina":  # most of its border is black
        picture = picture[260:1150, 260:1150]
    scale = 900 / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(picture, dtype=np.uint8)


def _package_file(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(_PACKAGES[package], "demo", "reelmill demo")
    return Path(spec.submodule_search_locations[0]) / path


def apply_tint(picture: Pixels, tint: str) -> Pixels:
    """The picture in the colours of a tint."""
    import cv2

    if tint == "natural":
        return picture
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] / 255.0
    tones = {
        "sepia": (1.08, 0.82, 0.54),
        "blue": (0.35, 0.6, 1.2),
        "green": (0.45, 1.0, 0.5),
        "rose": (1.2, 0.62, 0.76),
    }
    if tint == "grey":
        out = np.repeat(grey, 3, axis=2)
    elif tint in tones:
        out = (0.1 + 0.82 * grey) * np.array(tones[tint], dtype=np.float32)
    elif tint == "dark":
        out = picture.astype(np.float32) / 255.0 * np.array((0.28, 0.28, 0.33), dtype=np.float32)
    else:  # pale
        out = 0.62 + 0.34 * (0.5 * picture.astype(np.float32) / 255.0 + 0.5 * grey)
    return np.asarray(np.clip(out * 255.0 + 0.5, 0, 255), dtype=np.uint8)


class Film:
    """A scene prepared for one picture size: the plate (photograph with room for the camera) and the sprites."""

    def __init__(self, scene: DemoScene, width: int, height: int) -> None:
        self.scene, self.width, self.height = scene, width, height
        self._plate = make_plate(scene, width, height)
        self._unit = min(width, height)
        self._sprites = [make_sprite(s, max(6, round(s.radius * self._unit))) for s in scene.subjects]

    def frame(self, t: float) -> Pixels:
        """uint8 RGB (height, width, 3) at t seconds."""
        picture = self._view(t)
        for subject, sprite in zip(self.scene.subjects, self._sprites, strict=True):
            x, y = subject.where(t)
            turn = subject.angle + (0.9 * t if subject.move == "spin" else 0.08 * math.sin(2 * t))
            for i in range(subject.count):
                step = (i - (subject.count - 1) / 2) * 1.75 * subject.radius * self._unit
                rise = (0.35 * subject.radius * self._unit) * (-1) ** i if subject.count > 1 else 0.0
                _paste(picture, sprite, x * self.width + step, y * self.height + rise, turn)
        return picture

    def _view(self, t: float) -> Pixels:
        import cv2

        dx, dy, zoom, _ = CAMERAS[self.scene.camera]
        run = float(np.clip(self.scene.camera_speed * (t - MIDDLE_S), -MARGIN, MARGIN))
        scale = 1.0 - zoom * run  # plate pixels per picture pixel
        cx = self._plate.shape[1] / 2 + dx * run * self.width
        cy = self._plate.shape[0] / 2 + dy * run * self.height
        matrix = np.array(
            [[scale, 0, cx - scale * self.width / 2], [0, scale, cy - scale * self.height / 2]], dtype=np.float64
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        view = cv2.warpAffine(
            self._plate, matrix, (self.width, self.height), flags=flags, borderMode=cv2.BORDER_REFLECT
        )
        return np.asarray(view, dtype=np.uint8)


def make_plate(scene: DemoScene, width: int, height: int) -> Pixels:
    """The crop of the photograph at the picture's scale, `MARGIN` larger on every side, tinted, with its signs."""
    import cv2

    photo: Any = apply_tint(load_photo(scene.photo), scene.tint)
    if scene.mirrored:
        photo = np.ascontiguousarray(photo[:, ::-1])
    full_w, full_h = round(width * (1 + 2 * MARGIN)), round(height * (1 + 2 * MARGIN))
    high, wide = photo.shape[:2]
    fit = min(wide / full_w, high / full_h) * scene.crop  # photo pixels per plate pixel
    box_w, box_h = full_w * fit, full_h * fit
    cx = box_w / 2 + scene.crop_x * (wide - box_w)
    cy = box_h / 2 + scene.crop_y * (high - box_h)
    if fit > 1.6:  # shrink first: the warp below samples only four pixels
        photo = cv2.resize(photo, None, fx=1.25 / fit, fy=1.25 / fit, interpolation=cv2.INTER_AREA)
        cx, cy, fit = cx * 1.25 / fit, cy * 1.25 / fit, 1.25
    cos, sin = math.cos(math.radians(scene.turn)) * fit, math.sin(math.radians(scene.turn)) * fit
    matrix = np.array(
        [
            [cos, -sin, cx - cos * full_w / 2 + sin * full_h / 2],
            [sin, cos, cy - sin * full_w / 2 - cos * full_h / 2],
        ]
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    plate: Any = cv2.warpAffine(photo, matrix, (full_w, full_h), flags=flags, borderMode=cv2.BORDER_REFLECT)
    for sign in scene.signs:
        _draw_sign(plate, sign)
    return np.asarray(plate, dtype=np.uint8)


def _draw_sign(plate: Pixels, sign: Sign) -> None:
    """Draw a sign into the plate, in perspective."""
    import cv2

    board: Any = lettering(sign.text, 48, sign.colours[1], sign.colours[0])
    high, wide = board.shape[:2]
    half_w = sign.width * plate.shape[1] / 2
    half_h = half_w * high / wide
    near, far = 1 + 0.35 * sign.yaw, 1 - 0.35 * sign.yaw
    squeeze = 1 - 0.3 * sign.yaw
    corners = np.array([[-1, -near], [1, -far], [1, far], [-1, near]]) * [half_w * squeeze, half_h]
    cos, sin = math.cos(sign.angle), math.sin(sign.angle)
    corners = corners @ np.array([[cos, sin], [-sin, cos]]) + [sign.x * plate.shape[1], sign.y * plate.shape[0]]
    source = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], dtype=np.float32)
    shrink = max(1.0, wide / (2 * half_w))
    if shrink > 1.5:
        board = cv2.resize(board, None, fx=1 / shrink, fy=1 / shrink, interpolation=cv2.INTER_AREA)
        source = source * np.array([board.shape[1] / wide, board.shape[0] / high], dtype=np.float32)
    warp = cv2.getPerspectiveTransform(source.astype(np.float32), corners.astype(np.float32))
    size = (plate.shape[1], plate.shape[0])
    drawn = cv2.warpPerspective(board, warp, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpPerspective(np.full(board.shape[:2], 255, dtype=np.uint8), warp, size, flags=cv2.INTER_LINEAR)
    alpha = mask.astype(np.float32)[..., None] / 255.0
    plate[:] = np.clip(plate * (1 - alpha) + drawn * alpha + 0.5, 0, 255).astype(np.uint8)


@lru_cache(maxsize=256)  # threads: the world is rendered in processes
def font(size: int, face: str = "DejaVuSans-Bold") -> Any:
    """A PIL font, from the fonts that come with matplotlib."""
    from PIL import ImageFont

    return ImageFont.truetype(str(_package_file("matplotlib", f"mpl-data/fonts/ttf/{face}.ttf")), size)


def lettering(
    text: str, size: int, ink: tuple[int, int, int], board: tuple[int, int, int], pad: float = 0.35
) -> Pixels:
    """uint8 RGB: one line of text on a plain board with a frame."""
    from PIL import Image, ImageDraw

    face = font(size)
    x0, y0, x1, y1 = face.getbbox(text)
    edge = round(size * pad)
    picture = Image.new("RGB", (int(x1 - x0) + 2 * edge, int(y1 - y0) + 2 * edge), board)
    draw = ImageDraw.Draw(picture)
    draw.text((edge - x0, edge - y0), text, font=face, fill=ink)
    draw.rectangle([2, 2, picture.width - 3, picture.height - 3], outline=ink, width=max(1, size // 16))
    return np.asarray(picture, dtype=np.uint8).copy()


@lru_cache(maxsize=256)  # threads: the world is rendered in processes
def _paint_subject(colour: str, shape: str, texture: str, side: int = 256) -> NDArray[np.float32]:
    """float32 (side, side, 4), premultiplied, 0..1: the shape with its pattern, shading, rim and shadow."""
    import cv2

    base = np.array(COLOURS[colour], dtype=np.float32)
    half = side / 2

    def fill(canvas: NDArray[Any], points: NDArray[np.float64], shade: Any) -> None:
        scaled = np.round((points * 0.84 * half + half) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [scaled], shade, lineType=cv2.LINE_AA, shift=4)

    rgb = np.zeros((side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), dtype=np.uint8)
    body = np.zeros((side, side), dtype=np.uint8)
    for points, tone in OUTLINES[shape]:
        lift = 60 * (1 - tone) if colour == "black" and not isinstance(tone, tuple) else 0.0
        shade = tone if isinstance(tone, tuple) else tuple(float(v) for v in np.clip(base * tone + lift, 0, 255))
        fill(rgb, points, shade)
        fill(mask, points, 255)
        fill(body, points, 255 if not isinstance(tone, tuple) else 0)
    grid = (np.arange(side, dtype=np.float32) - half) / half
    gx, gy = np.meshgrid(grid, grid)
    paint = _add_texture(rgb.astype(np.float32), texture, base, body, gx, gy)
    light = 1.06 - 0.2 * np.clip(0.6 * gx + 0.8 * gy, -1, 1)
    shine = 46 * np.exp(-((gx + 0.32) ** 2 + (gy + 0.38) ** 2) / 0.06)
    paint = np.clip(paint * light[..., None] + shine[..., None], 0, 255) / 255.0
    alpha = mask.astype(np.float32) / 255.0
    rim = np.clip(cv2.dilate(alpha, np.ones((5, 5), dtype=np.uint8)), 0, 1)
    rim_tone = 0.75 if colour == "black" else 0.16
    shadow = cv2.GaussianBlur(np.roll(alpha, (9, 6), axis=(0, 1)), (0, 0), 6) * 0.4
    rgb_out = paint * alpha[..., None] + rim_tone * (rim - alpha)[..., None]
    return np.dstack([rgb_out, rim + shadow * (1 - rim)]).astype(np.float32)


def _add_texture(
    paint: NDArray[np.float32], texture: str, base: NDArray[np.float32], body: Pixels, gx: Any, gy: Any
) -> NDArray[np.float32]:
    """The paint with stripes or spots in a second shade of `base` wherever `body` is set."""
    import cv2

    if texture == "plain":
        return paint
    if texture == "striped":
        pattern = (np.sin((gx + gy) * 15.0) > 0.25).astype(np.float32)
    else:
        u, v = np.mod(gx * 4.2 + 0.1, 1.0) - 0.5, np.mod(gy * 4.2 + 0.1, 1.0) - 0.5
        pattern = (u * u + v * v < 0.075).astype(np.float32)
    pattern = cv2.GaussianBlur(pattern, (0, 0), 0.9) * (body.astype(np.float32) / 255.0)
    second = base * 0.35 if base.mean() > 150 else np.clip(base * 0.4 + 150, 0, 255)
    return np.asarray(paint * (1 - pattern[..., None]) + second * pattern[..., None])


def make_sprite(subject: Subject, radius: int) -> Pixels:
    """uint8 (side, side, 4), premultiplied."""
    import cv2

    side = 2 * round(radius / 0.84)
    painted = _paint_subject(subject.colour, subject.shape, subject.texture)
    sprite = cv2.resize(painted, (side, side), interpolation=cv2.INTER_AREA)
    if subject.label:
        board = lettering(subject.label, 40, (20, 20, 20), (250, 246, 226)).astype(np.float32) / 255.0
        wide = max(8, round(side * 0.5))
        high = max(4, round(wide * board.shape[0] / board.shape[1]))
        x, y = (side - wide) // 2, (side - high) // 2
        sprite[y : y + high, x : x + wide, :3] = cv2.resize(board, (wide, high), interpolation=cv2.INTER_AREA)
        sprite[y : y + high, x : x + wide, 3] = 1.0
    whole = np.clip(sprite * 255.0 + 0.5, 0, 255).astype(np.uint8)
    whole[..., :3] = np.minimum(whole[..., :3], whole[..., 3:])  # premultiplied, as `_paste` needs
    return np.asarray(whole, dtype=np.uint8)


def _paste(picture: Pixels, sprite: Pixels, x: float, y: float, turn: float) -> None:
    """Blend a sprite into `picture`, centred on (x, y) to a fraction of a pixel."""
    import cv2

    side = sprite.shape[0]
    reach = math.ceil(side * 0.72) + 1
    x_start, y_start = math.floor(x) - reach, math.floor(y) - reach
    x0, y0 = max(x_start, 0), max(y_start, 0)
    x1, y1 = min(x_start + 2 * reach + 1, picture.shape[1]), min(y_start + 2 * reach + 1, picture.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    cos, sin = math.cos(turn), math.sin(turn)
    cx, cy = x - x0, y - y0
    matrix = np.array(
        [[cos, sin, side / 2 - cos * cx - sin * cy], [-sin, cos, side / 2 + sin * cx - cos * cy]], dtype=np.float64
    )
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    patch = cv2.warpAffine(sprite, matrix, (x1 - x0, y1 - y0), flags=flags).astype(np.uint16)
    under = picture[y0:y1, x0:x1].astype(np.uint16)
    under *= 255 - patch[..., 3:]
    under += patch[..., :3] * np.uint16(255) + np.uint16(128)
    under += under >> 8  # with the shift below: the exact rounded division by 255
    picture[y0:y1, x0:x1] = (under >> 8).astype(np.uint8)
