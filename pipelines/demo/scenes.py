"""Scenes: painted subjects that move over real photographs, and the words that describe them.

A scene is a small value (photograph, tint, subjects, camera); it can be rendered at any time and any size, and it
describes itself. Two splits share the grammar and nothing else: the demo's world is made of "demo" scenes, the
demo's own models are trained on "train" scenes. No photograph, no seed and no caption occurs in both (a caption
always names its subjects and its tint, and each such combination belongs to one split by its hash).

The photographs come with scikit-image and matplotlib and are read from the installed packages; nothing is fetched.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from infra.errors import MissingExtra
from infra.hashing import digest

Split = Literal["demo", "train"]
Pixels = NDArray[np.uint8]

#: A grey one (`_GREY`) is never shown untinted, so that "grey" is always a word for what is seen.
PHOTOS: dict[Split, tuple[str, ...]] = {
    "demo": (
        "chelsea",
        "coffee",
        "rocket",
        "astronaut",
        "motorcycle_left",
        "motorcycle_right",
        "hubble_deep_field",
        "brick",
    ),
    "train": ("grace_hopper", "retina", "ihc", "camera", "coins", "moon", "grass", "gravel"),
}
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
_GREY = frozenset({"brick", "camera", "coins", "moon", "grass", "gravel"})
_PACKAGES = {"skimage": "scikit-image", "matplotlib": "matplotlib"}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 32, 38),
    "orange": (245, 134, 20),
    "yellow": (250, 216, 30),
    "green": (40, 158, 62),
    "blue": (34, 88, 214),
    "purple": (122, 46, 170),
    "pink": (246, 128, 178),
    "white": (244, 244, 240),
    "black": (28, 28, 32),
}
SHAPES = ("ball", "star", "heart", "balloon", "fish", "boat", "kite", "flower", "house", "butterfly", "car")
PLURALS = {"fish": "fish", "butterfly": "butterflies"}
TEXTURES = ("plain", "striped", "spotted")
SIZES = ("small", "large")
TINTS = ("natural", "grey", "sepia", "blue", "green", "rose", "dark", "pale")
COUNTS = ("no", "one", "two", "three")
#: Direction in the picture, y down, and the verbs for it.
MOVES: dict[str, tuple[float, float, tuple[str, ...]]] = {
    "left": (-1.0, 0.0, ("drifts left", "glides to the left")),
    "right": (1.0, 0.0, ("drifts right", "glides to the right")),
    "up": (0.0, -1.0, ("rises", "floats upwards")),
    "down": (0.0, 1.0, ("sinks", "falls downwards")),
    "spin": (0.0, 0.0, ("spins around", "turns in place")),
}
CAMERAS: dict[str, tuple[float, float, float, tuple[str, ...]]] = {
    "still": (0.0, 0.0, 0.0, ("", "")),
    "pan left": (-1.0, 0.0, 0.0, ("as the camera pans left", "while the view slides left")),
    "pan right": (1.0, 0.0, 0.0, ("as the camera pans right", "while the view slides right")),
    "tilt up": (0.0, -1.0, 0.0, ("as the camera tilts up", "while the view slides up")),
    "tilt down": (0.0, 1.0, 0.0, ("as the camera tilts down", "while the view slides down")),
    "zoom in": (0.0, 0.0, 1.0, ("as the camera zooms in", "while the view closes in")),
    "zoom out": (0.0, 0.0, -1.0, ("as the camera zooms out", "while the view widens")),
}
#: How many ways `Scene.describe` has of saying the same.
VARIANTS = 4
#: Share of the picture that the plate has to spare on every side for the camera to move into.
MARGIN = 0.25
#: The time about which paths are centred, seconds.
MIDDLE_S = 1.5


@dataclass(frozen=True)
class Subject:
    """What moves. x, y: centre at `MIDDLE_S`, in picture widths and heights; radius in units of the shorter side;
    speed in picture sides a second."""

    colour: str
    shape: str
    texture: str
    size: str
    count: int
    x: float
    y: float
    radius: float
    move: str
    speed: float
    wobble: float = 0.0
    angle: float = 0.0
    label: str = ""

    @property
    def noun(self) -> str:
        return PLURALS.get(self.shape, self.shape + "s") if self.count > 1 else self.shape

    def phrase(self) -> str:
        """ "a large red striped star", "two small black fish"."""
        texture = "" if self.texture == "plain" else self.texture + " "
        words = f"{self.size} {self.colour} {texture}{self.noun}"
        return f"a {words}" if self.count == 1 else f"{COUNTS[self.count]} {words}"

    def where(self, t: float) -> tuple[float, float]:
        """Centre at time t, in picture widths and heights."""
        dx, dy, _ = MOVES[self.move]
        run = self.speed * (t - MIDDLE_S)
        sway = self.wobble * math.sin(2.4 * t + self.angle)
        return self.x + dx * run + (sway if dx == 0 else 0.0), self.y + dy * run + (sway if dy == 0 else 0.0)


@dataclass(frozen=True)
class Sign:
    """Lettering that belongs to the scene: it lies in the photograph and moves and zooms with the camera.

    x, y: its centre on the plate (0..1); width: share of the plate's width; yaw: how far it is turned away (0..1).
    """

    text: str
    x: float
    y: float
    width: float
    yaw: float
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]  # board, letters
    angle: float = 0.0


@dataclass(frozen=True)
class DemoScene:
    """photo, crop: the part of the photograph shown (centre 0..1, share of its largest fitting window)."""

    split: Split
    photo: str
    crop_x: float
    crop_y: float
    crop: float
    mirrored: bool
    turn: float
    tint: str
    subjects: tuple[Subject, ...]
    camera: str
    camera_speed: float
    signs: tuple[Sign, ...] = field(default=())

    @property
    def attributes(self) -> tuple[str, ...]:
        """What every caption of this scene names, and so what decides the split."""
        return (self.tint, *sorted(f"{s.colour} {s.shape}" for s in self.subjects))

    def render(self, t: float, width: int, height: int) -> Pixels:
        """uint8 RGB (height, width, 3) at t seconds. Rendering many frames is cheaper through `film`."""
        return self.film(width, height).frame(t)

    def film(self, width: int, height: int) -> Film:
        return Film(self, width, height)

    def describe(self, variant: int = 0, still: bool = False) -> str:
        """A caption, one of `VARIANTS` ways of saying it. `still`: of the picture at t = 0, so positions in place
        of motion. The same scene and variant always give the same caption."""
        return _sentence(self, variant % VARIANTS, still)


def split_of(attributes: tuple[str, ...]) -> Split:
    """The one split that a combination of attributes belongs to."""
    return "demo" if digest("\x00".join(attributes).encode(), size=8)[0] & 1 else "train"


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """A generator that is a function of (seed, purpose) and nothing else."""
    return np.random.default_rng(int.from_bytes(digest(str(seed).encode(), *(p.encode() for p in purpose)), "little"))


def make_scene(seed: int, split: Split, name: str = "", **fixed: Any) -> DemoScene:
    """A scene of `split`: a function of (seed, split, name, fixed).

    `fixed` are fields of Scene to hold on to (photo=, camera=, tint=, …), and `subjects_n`: how many subjects.
    Raises ValueError when the fixed attributes leave no combination of that split.
    """
    rng = generator(seed, "scene", split, name)
    count = int(fixed.pop("subjects_n", 0)) or int(rng.choice([1, 2], p=[0.65, 0.35]))
    for _ in range(200):
        tint = str(fixed.get("tint", rng.choice(TINTS)))
        photos = [p for p in PHOTOS[split] if tint != "natural" or p not in _GREY]
        drawn: dict[str, Any] = {
            "photo": str(rng.choice(photos)),
            "crop_x": float(rng.uniform(0, 1)),
            "crop_y": float(rng.uniform(0, 1)),
            "crop": float(rng.uniform(0.6, 0.95)),
            "mirrored": bool(rng.integers(2)),
            "turn": float(rng.uniform(-18, 18)),
            "tint": tint,
            "subjects": _subjects(rng, count),
            "camera": str(rng.choice(list(CAMERAS), p=[0.4, *[0.1] * 6])),
            "camera_speed": float(rng.uniform(0.045, 0.085)),
        }
        scene = DemoScene(split=split, **{**drawn, **fixed})
        if split_of(scene.attributes) == split and not (scene.tint == "natural" and scene.photo in _GREY):
            return scene
    raise ValueError(f"no scene of split {split!r} has {fixed}")


def _subjects(rng: np.random.Generator, count: int) -> tuple[Subject, ...]:
    colours = rng.choice(list(COLOURS), size=count, replace=False)
    shapes = rng.choice(SHAPES, size=count, replace=False)
    left_first = bool(rng.integers(2))
    found = []
    for i in range(count):
        size = str(rng.choice(SIZES)) if i == 0 else "small"
        copies = int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])) if size == "small" else 1
        copies = min(copies, 4 - count)
        radius = rng.uniform(0.26, 0.33) if size == "large" else rng.uniform(0.14, 0.17)
        if count == 1:
            x = rng.uniform(0.3, 0.7) if copies < 3 else rng.uniform(0.46, 0.54)
        else:  # side by side
            x = (0.29 if (i == 0) == left_first else 0.72) + rng.uniform(-0.05, 0.05)
        found.append(
            Subject(
                colour=str(colours[i]),
                shape=str(shapes[i]),
                texture=str(rng.choice(TEXTURES, p=[0.5, 0.25, 0.25])),
                size=size,
                count=copies,
                x=float(x),
                y=float(rng.uniform(0.36, 0.66)),
                radius=float(radius),
                move=str(rng.choice(list(MOVES))),
                speed=float(rng.uniform(0.09, 0.16)),
                wobble=float(rng.uniform(0.0, 0.03)),
                angle=float(rng.uniform(-0.35, 0.35)),
            )
        )
    return tuple(found)


# ---------------------------------------------------------------- words


def _ground(tint: str, variant: int) -> str:
    return (
        f"a photograph in {tint} tones",
        f"a {tint} photograph",
        f"a photo with a {tint} cast",
        f"a {tint} backdrop",
    )[variant]


def _place(x: float, y: float) -> str:
    across = "left" if x < 0.42 else "right" if x > 0.58 else ""
    down = "upper" if y < 0.42 else "lower" if y > 0.58 else ""
    if across and down:
        return f"in the {down} {across}"
    if across:
        return f"on the {across}"
    return f"in the {down} half" if down else "in the middle"


def _verb(subject: Subject, variant: int) -> str:
    verb = MOVES[subject.move][2][variant % 2]
    if subject.count == 1:
        return verb
    first, _, rest = verb.partition(" ")
    return f"{first.removesuffix('s')} {rest}".strip()


def _sentence(scene: DemoScene, variant: int, still: bool) -> str:
    ground = _ground(scene.tint, variant)
    if still:
        parts = [f"{s.phrase()} {_place(*s.where(0.0))}" for s in scene.subjects]
        body = " and ".join(parts)
        text = (
            f"{body} of {ground}",
            f"a picture of {body}, set against {ground}",
            f"{ground} with {body}",
            f"there is {body}, painted over {ground}",
        )[variant]
    else:
        parts = [f"{s.phrase()} {_verb(s, variant)}" for s in scene.subjects]
        view = CAMERAS[scene.camera][3][variant % 2]
        body = " and ".join(parts)
        text = (
            f"{body} over {ground} {view}",
            f"{body} in front of {ground} {view}",
            f"a short clip in which {body}, over {ground}, {view}",
            f"over {ground}, {body} {view}",
        )[variant].strip(" ,")
    return text[0].upper() + text[1:] + "."


# ---------------------------------------------------------------- pixels


@lru_cache(maxsize=64)
def load_photo(name: str) -> Pixels:
    """uint8 RGB, at most 900 pixels on the long side. Raises MissingExtra when its package is not installed."""
    import cv2

    package, inside = _FILES[name]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra(_PACKAGES[package], "demo", "reelmill demo")
    path = Path(spec.submodule_search_locations[0]) / inside
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    picture: Any = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
    if name == "retina":  # its black surround would leave half of the crops empty
        picture = picture[260:1150, 260:1150]
    scale = 900 / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(picture, dtype=np.uint8)


def tinted(picture: Pixels, tint: str) -> Pixels:
    """The same picture in another light."""
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
    """A scene made ready for one picture size: the plate (photograph with room for the camera) and the sprites."""

    def __init__(self, scene: DemoScene, width: int, height: int) -> None:
        self.scene, self.width, self.height = scene, width, height
        self._plate = _plate(scene, width, height)
        self._unit = min(width, height)
        self._sprites = [_sprite(s, max(6, round(s.radius * self._unit))) for s in scene.subjects]

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
        scale = 1.0 - zoom * run  # plate pixels a picture pixel
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


def _plate(scene: DemoScene, width: int, height: int) -> Pixels:
    """The crop of the photograph at the picture's scale, `MARGIN` larger on every side, tinted, with its signs."""
    import cv2

    photo: Any = tinted(load_photo(scene.photo), scene.tint)
    if scene.mirrored:
        photo = np.ascontiguousarray(photo[:, ::-1])
    full_w, full_h = round(width * (1 + 2 * MARGIN)), round(height * (1 + 2 * MARGIN))
    high, wide = photo.shape[:2]
    fit = min(wide / full_w, high / full_h) * scene.crop  # photo pixels a plate pixel
    box_w, box_h = full_w * fit, full_h * fit
    cx = box_w / 2 + scene.crop_x * (wide - box_w)
    cy = box_h / 2 + scene.crop_y * (high - box_h)
    if fit > 1.6:  # shrink first: the warp below only looks at four pixels
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
        _nail(plate, sign)
    return np.asarray(plate, dtype=np.uint8)


def _nail(plate: Pixels, sign: Sign) -> None:
    """Draws a sign into the plate, in perspective."""
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


@lru_cache(maxsize=256)
def font(size: int, face: str = "DejaVuSans-Bold") -> Any:
    """A PIL font, from the fonts that come with matplotlib."""
    from PIL import ImageFont

    spec = importlib.util.find_spec("matplotlib")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtra("matplotlib", "demo", "reelmill demo")
    path = Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf" / f"{face}.ttf"
    return ImageFont.truetype(str(path), size)


def lettering(
    text: str, size: int, ink: tuple[int, int, int], board: tuple[int, int, int], pad: float = 0.35
) -> Pixels:
    """uint8 RGB: one line of text on a plain board with a frame."""
    from PIL import Image, ImageDraw

    face = font(size)
    left, top, right, bottom = face.getbbox(text)
    edge = round(size * pad)
    picture = Image.new("RGB", (int(right - left) + 2 * edge, int(bottom - top) + 2 * edge), board)
    draw = ImageDraw.Draw(picture)
    draw.text((edge - left, edge - top), text, font=face, fill=ink)
    draw.rectangle([2, 2, picture.width - 3, picture.height - 3], outline=ink, width=max(1, size // 16))
    return np.asarray(picture, dtype=np.uint8).copy()


def _oval(x: float, y: float, rx: float, ry: float, n: int = 48, turn: float = 0.0) -> NDArray[np.float64]:
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    px, py = rx * np.cos(a), ry * np.sin(a)
    return np.stack([x + px * math.cos(turn) - py * math.sin(turn), y + px * math.sin(turn) + py * math.cos(turn)], 1)


def _outline(shape: str) -> list[tuple[NDArray[np.float64], float | tuple[int, int, int]]]:
    """Polygons in [-1, 1]², back to front, each with a tone: a factor on the subject's colour, or a colour."""

    def p(*xy: float) -> NDArray[np.float64]:
        return np.array(xy, dtype=np.float64).reshape(-1, 2)

    if shape == "ball":
        return [(_oval(0, 0, 0.92, 0.92), 1.0)]
    if shape == "star":
        a = np.arange(10) * np.pi / 5 - np.pi / 2
        r = np.where(np.arange(10) % 2 == 0, 0.98, 0.42)
        return [(np.stack([r * np.cos(a), r * np.sin(a)], 1), 1.0)]
    if shape == "heart":
        a = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        y = 13 * np.cos(a) - 5 * np.cos(2 * a) - 2 * np.cos(3 * a) - np.cos(4 * a)
        return [(np.stack([16 * np.sin(a) ** 3, -y - 2], 1) / 17.5, 1.0)]
    if shape == "balloon":
        return [
            (p(-0.02, 0.5, 0.02, 0.5, 0.07, 0.75, 0.02, 0.99, -0.03, 0.99, 0.02, 0.75), 0.55),
            (p(-0.12, 0.66, 0.12, 0.66, 0, 0.48), 0.75),
            (_oval(0, -0.2, 0.62, 0.76), 1.0),
        ]
    if shape == "fish":
        return [
            (p(0.45, 0, 0.97, -0.5, 0.82, 0, 0.97, 0.5), 0.75),
            (p(-0.25, -0.35, 0.2, -0.72, 0.25, -0.3), 0.75),
            (_oval(-0.12, 0, 0.78, 0.47), 1.0),
            (_oval(-0.55, -0.1, 0.12, 0.12), (250, 250, 250)),
            (_oval(-0.57, -0.1, 0.06, 0.06), (10, 10, 10)),
        ]
    if shape == "boat":
        return [
            (p(-0.03, -0.95, 0.05, -0.95, 0.05, 0.4, -0.03, 0.4), (96, 66, 40)),
            (p(0.1, -0.9, 0.85, 0.25, 0.1, 0.25), 1.0),
            (p(-0.1, -0.7, -0.1, 0.25, -0.65, 0.25), 0.85),
            (p(-0.98, 0.35, 0.98, 0.35, 0.6, 0.85, -0.6, 0.85), 0.62),
        ]
    if shape == "kite":
        return [
            (p(0, 0.6, 0.14, 0.78, -0.1, 0.86, 0.08, 0.99, 0.03, 0.99, -0.18, 0.86, 0.05, 0.78), 0.6),
            (p(0, -0.98, 0.66, -0.25, 0, 0.68, -0.66, -0.25), 1.0),
            (p(0, -0.98, 0.66, -0.25, 0, -0.25), 0.72),
            (p(0, 0.68, -0.66, -0.25, 0, -0.25), 0.72),
        ]
    if shape == "flower":
        petals = [
            (_oval(0.55 * math.cos(a), 0.55 * math.sin(a), 0.42, 0.3, turn=a), 1.0) for a in np.arange(6) * np.pi / 3
        ]
        return [*petals, (_oval(0, 0, 0.28, 0.28), (92, 58, 22))]
    if shape == "house":
        return [
            (p(0.35, -0.8, 0.55, -0.8, 0.55, -0.3, 0.35, -0.5), 0.5),
            (p(-0.72, -0.12, 0.72, -0.12, 0.72, 0.88, -0.72, 0.88), 1.0),
            (p(0, -0.95, 0.98, -0.05, -0.98, -0.05), 0.66),
            (p(-0.16, 0.3, 0.16, 0.3, 0.16, 0.88, -0.16, 0.88), 0.45),
            (p(-0.58, 0.12, -0.28, 0.12, -0.28, 0.42, -0.58, 0.42), (200, 228, 246)),
            (p(0.28, 0.12, 0.58, 0.12, 0.58, 0.42, 0.28, 0.42), (200, 228, 246)),
        ]
    if shape == "butterfly":
        return [
            (_oval(-0.5, -0.35, 0.52, 0.4, turn=0.6), 1.0),
            (_oval(0.5, -0.35, 0.52, 0.4, turn=-0.6), 1.0),
            (_oval(-0.4, 0.42, 0.38, 0.34, turn=-0.5), 0.82),
            (_oval(0.4, 0.42, 0.38, 0.34, turn=0.5), 0.82),
            (_oval(0, 0.05, 0.09, 0.68), (48, 36, 30)),
        ]
    return [  # car
        (p(-0.55, -0.1, -0.32, -0.55, 0.35, -0.55, 0.62, -0.1), 0.72),
        (p(-0.42, -0.12, -0.26, -0.45, 0, -0.45, 0, -0.12), (206, 230, 244)),
        (p(0.08, -0.12, 0.08, -0.45, 0.3, -0.45, 0.48, -0.12), (206, 230, 244)),
        (p(-0.98, -0.1, 0.85, -0.1, 0.98, 0.1, 0.98, 0.4, -0.98, 0.4), 1.0),
        (_oval(-0.52, 0.42, 0.24, 0.24), (30, 30, 32)),
        (_oval(0.52, 0.42, 0.24, 0.24), (30, 30, 32)),
        (_oval(-0.52, 0.42, 0.1, 0.1), (190, 190, 194)),
        (_oval(0.52, 0.42, 0.1, 0.1), (190, 190, 194)),
    ]


@lru_cache(maxsize=256)
def _painted(colour: str, shape: str, texture: str, side: int = 256) -> NDArray[np.float32]:
    """float32 (side, side, 4), premultiplied, 0..1: the shape with its pattern, shading, rim and shadow."""
    import cv2

    base = np.array(COLOURS[colour], dtype=np.float32)
    half = side / 2

    def fill(canvas: NDArray[Any], points: NDArray[np.float64], value: Any) -> None:
        scaled = np.round((points * 0.84 * half + half) * 16).astype(np.int32)
        cv2.fillPoly(canvas, [scaled], value, lineType=cv2.LINE_AA, shift=4)

    rgb = np.zeros((side, side, 3), dtype=np.uint8)
    mask = np.zeros((side, side), dtype=np.uint8)
    body = np.zeros((side, side), dtype=np.uint8)
    for points, tone in _outline(shape):
        lift = 60 * (1 - tone) if colour == "black" and not isinstance(tone, tuple) else 0.0
        shade = tone if isinstance(tone, tuple) else tuple(float(v) for v in np.clip(base * tone + lift, 0, 255))
        fill(rgb, points, shade)
        fill(mask, points, 255)
        fill(body, points, 255 if not isinstance(tone, tuple) else 0)
    grid = (np.arange(side, dtype=np.float32) - half) / half
    gx, gy = np.meshgrid(grid, grid)
    paint = rgb.astype(np.float32)
    if texture != "plain":
        if texture == "striped":
            pattern = (np.sin((gx + gy) * 15.0) > 0.25).astype(np.float32)
        else:
            u, v = np.mod(gx * 4.2 + 0.1, 1.0) - 0.5, np.mod(gy * 4.2 + 0.1, 1.0) - 0.5
            pattern = (u * u + v * v < 0.075).astype(np.float32)
        pattern = cv2.GaussianBlur(pattern, (0, 0), 0.9) * (body.astype(np.float32) / 255.0)
        second = base * 0.35 if base.mean() > 150 else np.clip(base * 0.4 + 150, 0, 255)
        paint = paint * (1 - pattern[..., None]) + second * pattern[..., None]
    light = 1.06 - 0.2 * np.clip(0.6 * gx + 0.8 * gy, -1, 1)
    shine = 46 * np.exp(-((gx + 0.32) ** 2 + (gy + 0.38) ** 2) / 0.06)
    paint = np.clip(paint * light[..., None] + shine[..., None], 0, 255) / 255.0
    alpha = mask.astype(np.float32) / 255.0
    rim = np.clip(cv2.dilate(alpha, np.ones((5, 5), dtype=np.uint8)), 0, 1)
    rim_tone = 0.75 if colour == "black" else 0.16
    shadow = cv2.GaussianBlur(np.roll(alpha, (9, 6), axis=(0, 1)), (0, 0), 6) * 0.4
    colour_out = paint * alpha[..., None] + rim_tone * (rim - alpha)[..., None]
    covered = np.clip(rim, 0, 1)
    whole = covered + shadow * (1 - covered)
    return np.dstack([colour_out, whole]).astype(np.float32)


def _sprite(subject: Subject, radius: int) -> Pixels:
    """uint8 (side, side, 4), premultiplied."""
    import cv2

    side = 2 * round(radius / 0.84)
    painted = _painted(subject.colour, subject.shape, subject.texture)
    sprite = cv2.resize(painted, (side, side), interpolation=cv2.INTER_AREA)
    if subject.label:
        board = lettering(subject.label, 40, (20, 20, 20), (250, 246, 226)).astype(np.float32) / 255.0
        wide = max(8, round(side * 0.5))
        high = max(4, round(wide * board.shape[0] / board.shape[1]))
        x, y = (side - wide) // 2, (side - high) // 2
        sprite[y : y + high, x : x + wide, :3] = cv2.resize(board, (wide, high), interpolation=cv2.INTER_AREA)
        sprite[y : y + high, x : x + wide, 3] = 1.0
    whole = np.clip(sprite * 255.0 + 0.5, 0, 255).astype(np.uint8)
    whole[..., :3] = np.minimum(whole[..., :3], whole[..., 3:])  # premultiplied: the blend below counts on it
    return np.asarray(whole, dtype=np.uint8)


def _paste(picture: Pixels, sprite: Pixels, x: float, y: float, turn: float) -> None:
    """Blends a sprite into `picture`, centred on (x, y) to a fraction of a pixel."""
    import cv2

    side = sprite.shape[0]
    reach = math.ceil(side * 0.72) + 1
    left, top = math.floor(x) - reach, math.floor(y) - reach
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + 2 * reach + 1, picture.shape[1]), min(top + 2 * reach + 1, picture.shape[0])
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
