"""Scenes: painted subjects that move over real photographs, and the words that describe them.

A scene is a small value (photograph, tint, subjects, camera); `film` renders it, and it describes itself. Two splits
share the grammar and nothing else: the demo's world is made of "demo" scenes, the demo's own models are trained on
"train" scenes. No photograph, no seed and no caption occurs in both (a caption always names its subjects and its tint,
and each such combination belongs to one split by its hash).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from infra.hashing import digest

Split = Literal["demo", "train"]
Pixels = NDArray[np.uint8]

#: A grey photograph (`_GREY`) is never shown untinted, so that "grey" in a caption always describes the picture.
PHOTOS: dict[Split, tuple[str, ...]] = {
    "demo": (
        "chelsea", "coffee", "rocket", "astronaut", "motorcycle_left", "motorcycle_right", "hubble_deep_field", "brick",
    ),
    "train": ("grace_hopper", "retina", "ihc", "camera", "coins", "moon", "grass", "gravel"),
}  # fmt: skip
_GREY = frozenset({"brick", "camera", "coins", "moon", "grass", "gravel"})

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
#: Number of captions that `DemoScene.describe` can give of one scene.
VARIANTS = 4
#: Share of the picture by which the plate extends on every side, for the camera to move into.
MARGIN = 0.25
#: The time at which subjects are at their x, y, seconds.
MIDDLE_S = 1.5


@dataclass(frozen=True)
class Subject:
    """A moving subject. x, y: centre at `MIDDLE_S`, in picture widths and heights; radius in units of the shorter side;
    speed in picture sides per second."""

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
    """Lettering that belongs to the scene: it is in the photograph and moves and zooms with the camera.

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
    """A scene. crop_x, crop_y, crop: the window of the photograph that is shown (centre 0..1, share of the largest
    window that fits). turn: of the photograph, degrees."""

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
        """The attributes that every caption of this scene names; they decide the split."""
        return (self.tint, *sorted(f"{s.colour} {s.shape}" for s in self.subjects))

    def describe(self, variant: int = 0, still: bool = False) -> str:
        """A caption, one of `VARIANTS`. still: of the picture at t = 0, with positions instead of motion.

        The same scene and variant always give the same caption.
        """
        return _describe(self, variant % VARIANTS, still)


def split_of(attributes: tuple[str, ...]) -> Split:
    """The one split that a combination of attributes belongs to."""
    return "demo" if digest("\x00".join(attributes).encode(), size=8)[0] & 1 else "train"


def generator(seed: int, *purpose: str) -> np.random.Generator:
    """A generator that is a function of (seed, purpose) and nothing else."""
    return np.random.default_rng(int.from_bytes(digest(str(seed).encode(), *(p.encode() for p in purpose)), "little"))


def make_scene(seed: int, split: Split, name: str = "", **fixed: Any) -> DemoScene:
    """A scene of `split`: a function of (seed, split, name, fixed).

    fixed: values of fields of DemoScene (photo=, camera=, tint=, …), and `subjects_n`: the number of subjects.
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
            "subjects": _draw_subjects(rng, count),
            "camera": str(rng.choice(list(CAMERAS), p=[0.4, *[0.1] * 6])),
            "camera_speed": float(rng.uniform(0.045, 0.085)),
        }
        scene = DemoScene(split=split, **{**drawn, **fixed})
        if split_of(scene.attributes) == split and not (scene.tint == "natural" and scene.photo in _GREY):
            return scene
    raise ValueError(f"no scene of split {split!r} has {fixed}")


def _draw_subjects(rng: np.random.Generator, count: int) -> tuple[Subject, ...]:
    colours = rng.choice(list(COLOURS), size=count, replace=False)
    shapes = rng.choice(SHAPES, size=count, replace=False)
    left_first = bool(rng.integers(2))
    subjects = []
    for i in range(count):
        size = str(rng.choice(SIZES)) if i == 0 else "small"
        copies = int(rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])) if size == "small" else 1
        copies = min(copies, 4 - count)
        radius = rng.uniform(0.26, 0.33) if size == "large" else rng.uniform(0.14, 0.17)
        if count == 1:
            x = rng.uniform(0.3, 0.7) if copies < 3 else rng.uniform(0.46, 0.54)
        else:  # side by side
            x = (0.29 if (i == 0) == left_first else 0.72) + rng.uniform(-0.05, 0.05)
        subjects.append(
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
    return tuple(subjects)


# -- words ------------------------------------------------------------------------------------------------------


def _describe(scene: DemoScene, variant: int, still: bool) -> str:
    tint = scene.tint
    ground = (
        f"a photograph in {tint} tones", f"a {tint} photograph", f"a photo with a {tint} cast", f"a {tint} backdrop",
    )[variant]  # fmt: skip
    if still:
        body = " and ".join(f"{s.phrase()} {_position(*s.where(0.0))}" for s in scene.subjects)
        text = (
            f"{body} of {ground}",
            f"a picture of {body}, set against {ground}",
            f"{ground} with {body}",
            f"there is {body}, painted over {ground}",
        )[variant]
    else:
        body = " and ".join(f"{s.phrase()} {_verb(s, variant)}" for s in scene.subjects)
        view = CAMERAS[scene.camera][3][variant % 2]
        text = (
            f"{body} over {ground} {view}",
            f"{body} in front of {ground} {view}",
            f"a short clip in which {body}, over {ground}, {view}",
            f"over {ground}, {body} {view}",
        )[variant].strip(" ,")
    return text[0].upper() + text[1:] + "."


def _position(x: float, y: float) -> str:
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
