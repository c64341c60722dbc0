"""Train the demo's CLIP: a very small image–text model in open_clip's format, on "train" scenes only.

    python -m demo_weights.train_clip            some 20 minutes on two cores; writes pipelines/demo/weights/clip

It knows painted subjects, tints and little else: it is for the demo's world only. Photographs, seeds and captions of
the two splits are disjoint (see `pipelines.demo.scenes`), and the changed captions made here are used only when they
too belong to the train split.

No picture is shown twice: each step renders new scenes before backgrounds that are collages of the train photographs
(`make_plates`), so that the model learns the subjects and not the photographs.

The loss is the sigmoid loss on every pair of a batch (SigLIP, arXiv 2303.15343), because the filter needs one absolute
threshold, plus the softmax contrastive loss of CLIP (arXiv 2103.00020). Every second picture comes with a wrong caption
that differs in one attribute. Two linear heads, removed after training, predict the attributes from either embedding,
which makes so short a training converge.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.hashing import file_sha256
from infra.weights import models
from pipelines.demo import captions, scenes
from pipelines.demo.film import Film, apply_tint, load_photo, make_plate, make_sprite
from pipelines.demo.scenes import DemoScene

SIDE = 80
CONTEXT = 40
CONFIG: dict[str, Any] = {
    "embed_dim": 96,
    "init_logit_bias": -8.0,
    "init_logit_scale": 3.0,
    "vision_cfg": {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 10, "head_width": 32, "patch_size": None},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": 49408, "width": 48, "heads": 4, "layers": 1},
}
#: "squash" shows the whole of a wide picture; the usual centre crop would cut subjects off.
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic", "resize_mode": "squash"}
#: Pictures are kept this much larger than the model's input, so that a crop can be drawn at every step.
ROOM = 10
#: Width and height of a background, with room for the camera.
PLATE = (240, 180)
_SIZES = ((160, 120), (160, 90), (120, 120), (160, 120), (90, 120), (192, 108))


@dataclass(frozen=True)
class Examples:
    """pixels: uint8 (n, SIDE + ROOM, SIDE + ROOM, 3); scenes; still: bool (n,), rendered and described as a picture."""

    pixels: NDArray[np.uint8]
    scenes: list[DemoScene]
    still: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.scenes)


class _RestagedScene(Film):
    """A scene before an existing plate, since plates are expensive to render."""

    def __init__(self, scene: DemoScene, plate: NDArray[np.uint8], width: int, height: int) -> None:
        self.scene, self.width, self.height = scene, width, height
        self._plate, self._unit = plate, min(width, height)
        self._sprites = [
            _sprite(s.colour, s.shape, s.texture, max(6, round(s.radius * self._unit))) for s in scene.subjects
        ]


@functools.lru_cache(maxsize=10_000)
def _sprite(colour: str, shape: str, texture: str, radius: int) -> Any:
    subject = scenes.Subject(colour, shape, texture, "small", 1, 0.5, 0.5, 0.1, "left", 0.1)
    return make_sprite(subject, radius)


def make_plates(seed: int, count: int) -> NDArray[np.uint8]:
    """uint8 (count, *PLATE, 3): backgrounds, a function of the arguments.

    Eight photographs, five of them grey, are too few: trained on these alone, the model mistakes unknown photographs
    for a named subject. So most plates are collages: crops of the photographs at all scales, angles and colours, clouds
    of colour, and lines, rings, corners and dots, none of them a named shape.
    """
    import cv2

    cv2.setNumThreads(1)
    plates = np.empty((count, PLATE[1], PLATE[0], 3), np.uint8)
    for i in range(count):
        rng = scenes.generator(seed, "clip", "plate", str(i))
        x = _crop_photo(rng)
        if rng.random() < 0.8:
            for _ in range(int(rng.integers(1, 7))):
                mask = _draw_mask(rng)
                x = x * (1 - mask) + _recolour(_crop_photo(rng), rng) * mask
        if rng.random() < 0.4:
            share = float(rng.uniform(0.15, 0.7))
            x = (1 - share) * x + share * _cloud(rng)
        if rng.random() < 0.6:
            x = _add_marks(x, rng)
        x = _recolour(x, rng)
        if np.ptp(x, axis=2).mean() < 0.06:  # grey: "natural" would not be true of it
            x = 0.5 * x + 0.5 * _cloud(rng)
        low, high = rng.uniform(0, 0.1), rng.uniform(0.8, 1.0)
        plates[i] = np.clip((low + (high - low) * x) * 255 + 0.5, 0, 255)
    return plates


def _crop_photo(rng: np.random.Generator) -> Any:
    """A crop of one of the photographs, float32 RGB in 0..1, of the plate's size: any scale, angle and side."""
    import cv2

    photo = load_photo(str(rng.choice(scenes.PHOTOS["train"])))
    scale = float(np.exp(rng.uniform(np.log(0.12), np.log(2.5))))
    turn = float(rng.normal(0, 20) if rng.random() < 0.6 else rng.uniform(0, 360))
    if scale < 0.7:  # shrink first: the warp samples only four pixels
        photo = np.asarray(cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        scale = 1.0
    high, wide = photo.shape[:2]
    matrix = cv2.getRotationMatrix2D((float(rng.uniform(0, wide)), float(rng.uniform(0, high))), turn, scale)
    matrix[:, 2] += np.array(PLATE) / 2 - np.array([rng.uniform(0, wide), rng.uniform(0, high)])
    if rng.random() < 0.5:
        matrix[0] = [-matrix[0, 0], -matrix[0, 1], PLATE[0] - matrix[0, 2]]
    crop = cv2.warpAffine(photo, matrix, PLATE, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return crop.astype(np.float32) / 255


def _cloud(rng: np.random.Generator, channels: int = 3) -> Any:
    """Smooth noise over several scales, float32 in 0..1."""
    import cv2

    total: Any = np.zeros((PLATE[1], PLATE[0], channels), np.float32)
    for cells in (2, 4, 9, 20):
        rough = rng.uniform(-1, 1, (cells, cells, channels)).astype(np.float32)
        grown = cv2.resize(rough, PLATE, interpolation=cv2.INTER_CUBIC).reshape(total.shape)
        total += grown / cells ** float(rng.uniform(0.3, 0.9))
    return np.clip(rng.uniform(0.2, 0.8, channels).astype(np.float32) + float(rng.uniform(0.15, 0.6)) * total, 0, 1)


def _draw_mask(rng: np.random.Generator) -> Any:
    """A mask (PLATE, 1) in 0..1: an irregular region, a slanted half, an ellipse or a polygon, its edge sharp or
    soft."""
    import cv2

    kind = int(rng.integers(4))
    mask: Any = np.zeros((PLATE[1], PLATE[0]), np.float32)
    at = (int(rng.integers(PLATE[0])), int(rng.integers(PLATE[1])))
    if kind == 0:
        mask = (_cloud(rng, 1)[..., 0] > rng.uniform(0.4, 0.8)).astype(np.float32)
    elif kind == 1:
        angle, cut = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4) * PLATE[0]
        y, x = np.mgrid[: PLATE[1], : PLATE[0]]
        mask = ((x - PLATE[0] / 2) * np.cos(angle) + (y - PLATE[1] / 2) * np.sin(angle) > cut).astype(np.float32)
    elif kind == 2:
        axes = (int(rng.integers(8, PLATE[0] // 2)), int(rng.integers(8, PLATE[1] // 2)))
        cv2.ellipse(mask, at, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    else:
        corners = np.array(at) + rng.integers(-PLATE[1] // 2, PLATE[1] // 2, (int(rng.integers(3, 6)), 2))
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1.0)
    if rng.random() < 0.6:
        mask = cv2.GaussianBlur(mask, (0, 0), float(rng.uniform(0.5, 6)))
    return mask[..., None] * float(rng.uniform(0.5, 1.0))


def _add_marks(plate: Any, rng: np.random.Generator) -> Any:
    """The plate with random bars, arcs, corners and dots."""
    import cv2

    plate = np.ascontiguousarray(plate, np.float32)
    for _ in range(int(rng.integers(1, 9))):
        over = plate.copy()
        ink = [float(v) for v in rng.uniform(0, 1, 3)]
        at = (int(rng.integers(PLATE[0])), int(rng.integers(PLATE[1])))
        to = (int(rng.integers(PLATE[0])), int(rng.integers(PLATE[1])))
        thick, size = int(rng.integers(1, 1 + PLATE[1] // 12)), int(rng.integers(2, PLATE[1] // 3))
        kind = int(rng.integers(4))
        if kind == 0:
            cv2.line(over, at, to, ink, thick, cv2.LINE_AA)
        elif kind == 1:
            axes = (size, int(size * rng.uniform(0.3, 1)))
            cv2.ellipse(over, at, axes, float(rng.uniform(0, 180)), 0, float(rng.uniform(90, 360)), ink, thick)
        elif kind == 2:
            corners = np.array(at) + rng.integers(-size, size + 1, (int(rng.integers(3, 5)), 2))
            cv2.fillPoly(over, [corners.astype(np.int32)], ink, cv2.LINE_AA)
        else:
            spread = size * float(rng.uniform(1, 4))
            for _ in range(int(rng.integers(5, 40))):
                dot = (at[0] + int(rng.normal() * spread), at[1] + int(rng.normal() * spread))
                cv2.circle(over, dot, max(1, int(rng.integers(1, 1 + max(2, thick // 2)))), ink, -1, cv2.LINE_AA)
        if rng.random() < 0.5:
            over = np.asarray(cv2.GaussianBlur(over, (0, 0), float(rng.uniform(0.5, 3))), np.float32)
        solid = float(rng.uniform(0.3, 0.95))
        plate = (1 - solid) * plate + solid * over
    return plate


def _recolour(x: Any, rng: np.random.Generator) -> Any:
    """Other colours and another exposure; sometimes inverted."""
    if rng.random() < 0.1:
        x = 1 - x
    choice = rng.random()
    if choice < 0.3:  # grey values through a gradient of three colours
        stops = rng.uniform(0, 1, (3, 3)) + np.array([[-0.4], [0.0], [0.4]])
        grey = x.mean(axis=2)
        x = np.stack([np.interp(grey, [0, 0.5, 1], stops[:, c]) for c in range(3)], axis=2)
    elif choice < 0.6:
        x = x[..., rng.permutation(3)]
    elif choice < 0.8:
        x = x * rng.uniform(0.6, 1.3, 3) + rng.uniform(-0.1, 0.1, 3)
    return (np.clip(x, 0, 1) ** float(np.exp(rng.uniform(-0.6, 1.0)))).astype(np.float32)


def make_batch(seed: int, number: int, count: int, plates: NDArray[np.uint8]) -> Examples:
    """Batch `number` of training: scenes of the train split before plates drawn at random."""
    import cv2

    rng = scenes.generator(seed, "clip", "batch", str(number))
    side = SIDE + ROOM
    pixels = np.empty((count, side, side, 3), np.uint8)
    drawn, still = [], rng.random(count) < 0.4
    for row in range(count):
        # Untinted backgrounds differ most, so there are more of them.
        fixed = {"tint": "natural"} if rng.random() < 0.2 else {}
        scene = scenes.make_scene(seed, "train", f"clip batch {number} {row}", **fixed)
        width, height = _SIZES[int(rng.integers(len(_SIZES)))]
        plate = plates[int(rng.integers(len(plates)))]
        full_w, full_h = round(1.5 * width), round(1.5 * height)
        grow = max(1.0, full_w / PLATE[0], full_h / PLATE[1])
        if grow > 1:
            plate = np.asarray(cv2.resize(plate, None, fx=grow, fy=grow, interpolation=cv2.INTER_LINEAR), np.uint8)
        y0, x0 = (
            int(rng.integers(0, n + 1)) for n in (max(0, plate.shape[0] - full_h), max(0, plate.shape[1] - full_w))
        )
        plate = plate[y0 : y0 + full_h, x0 : x0 + full_w]
        if rng.random() < 0.5:
            plate = plate[:, ::-1]
        film = _RestagedScene(scene, apply_tint(np.ascontiguousarray(plate), scene.tint), width, height)
        picture: Any = film.frame(0.0 if still[row] else float(rng.uniform(0.5, 2.5)))
        if rng.random() < 0.6:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 96))]
            picture = cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR)
        pixels[row] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        drawn.append(scene)
    return Examples(pixels, drawn, still)


def make_scenes(seed: int, count: int, purpose: str, casts: int = 1) -> Iterator[list[DemoScene]]:
    """`count` times `casts` scenes of the train split before one background. A function of the arguments."""
    for i in range(count):
        scene = scenes.make_scene(seed, "train", f"clip {purpose} {i}")
        fixed = {"photo": scene.photo, "camera": scene.camera}
        others = [scenes.make_scene(seed, "train", f"clip {purpose} {i} {j}", **fixed) for j in range(1, casts)]
        yield [scene, *(replace(scene, subjects=cast.subjects, tint=cast.tint) for cast in others)]


def make_examples(seed: int, count: int, purpose: str, casts: int = 1) -> Examples:
    """One picture of each scene of `make_scenes`, as the demo renders it, before unchanged photographs.

    A function of the arguments.
    """
    import cv2

    cv2.setNumThreads(1)
    rng = scenes.generator(seed, "clip", purpose)
    side = SIDE + ROOM
    pixels = np.empty((count * casts, side, side, 3), np.uint8)
    drawn, still = [], np.empty(count * casts, bool)
    for i, shown in enumerate(make_scenes(seed, count, purpose, casts)):
        width, height = _SIZES[int(rng.integers(len(_SIZES)))]
        plate = make_plate(replace(shown[0], tint="natural"), width, height)
        for j, scene in enumerate(shown):
            film = _RestagedScene(scene, apply_tint(plate, scene.tint), width, height)
            row = i * casts + j
            still[row] = rng.random() < 0.4
            picture: Any = film.frame(0.0 if still[row] else float(rng.uniform(0.5, 2.5)))
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 96))]
            picture = cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR)
            pixels[row] = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
            drawn.append(film.scene)
    return Examples(pixels, drawn, still)


def draw_caption(scene: DemoScene, still: bool, rng: np.random.Generator) -> str:
    """A true caption of the scene: half of them plain, the rest in the demo's other good styles."""
    style = "plain" if rng.random() < 0.5 else str(rng.choice(captions.STYLES))
    return captions.good_caption(scene, style, rng, still=bool(still))


def _draw_captions(shown: Sequence[DemoScene], still: Iterable[bool], rng: np.random.Generator) -> list[str]:
    return [draw_caption(scene, bool(is_still), rng) for scene, is_still in zip(shown, still, strict=True)]


def alter(scene: DemoScene, rng: np.random.Generator) -> DemoScene:
    """The scene with one attribute changed that its captions name: tint, or a subject's colour, shape or both. It
    belongs to the train split too."""
    while True:
        attribute = rng.choice(["tint", "colour", "shape", "both"], p=[0.25, 0.35, 0.25, 0.15])
        if attribute == "tint":
            changed = replace(scene, tint=str(rng.choice(scenes.TINTS)))
        else:
            index = int(rng.integers(len(scene.subjects)))
            subject = scene.subjects[index]
            colour = str(rng.choice(list(scenes.COLOURS))) if attribute != "shape" else subject.colour
            shape = str(rng.choice(scenes.SHAPES)) if attribute != "colour" else subject.shape
            others = [s for i, s in enumerate(scene.subjects) if i != index]
            if any(s.colour == colour or s.shape == shape for s in others):
                continue
            subjects = [
                replace(subject, colour=colour, shape=shape) if i == index else s for i, s in enumerate(scene.subjects)
            ]
            changed = replace(scene, subjects=tuple(subjects))
        if changed.attributes != scene.attributes and scenes.split_of(changed.attributes) == "train":
            return changed


def targets(scene: DemoScene) -> NDArray[np.float32]:
    """float32 (k,) of 0 and 1: which tint, colours, shapes, textures, sizes, counts and coloured shapes are named."""
    colours, shapes = list(scenes.COLOURS), scenes.SHAPES
    groups = [
        [t == scene.tint for t in scenes.TINTS],
        [any(s.colour == c for s in scene.subjects) for c in colours],
        [any(s.shape == f for s in scene.subjects) for f in shapes],
        [any(s.texture == t for s in scene.subjects) for t in scenes.TEXTURES],
        [any(s.size == z for s in scene.subjects) for z in scenes.SIZES],
        [any(s.count == n for s in scene.subjects) for n in (1, 2, 3)],
        [any(s.colour == c and s.shape == f for s in scene.subjects) for c in colours for f in shapes],
    ]
    return np.concatenate(groups).astype(np.float32)


def _views(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A random crop of each picture, up to a ninth per side, sometimes with a stripe that resembles lettering."""
    crops = np.empty((len(pixels), SIDE, SIDE, 3), np.uint8)
    for i, picture in enumerate(pixels):
        y, x = rng.integers(ROOM + 1, size=2)
        crops[i] = picture[y : y + SIDE, x : x + SIDE]
        if rng.random() < 0.1:
            top, high = int(rng.integers(0, SIDE - 8)), int(rng.integers(4, 8))
            crops[i, top : top + high, 4:-4] = rng.choice(np.array([0, 255]), size=(high, SIDE - 8, 1), p=[0.6, 0.4])
    return crops


def _normalise(pixels: NDArray[np.uint8]) -> Any:
    torch = models.import_torch()
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    return ((x - 0.5) / 0.25).contiguous(memory_format=torch.channels_last)


def vocabulary(examples: Sequence[DemoScene], tokenizer: Any) -> NDArray[np.int64]:
    """The ids of all tokens in captions of these scenes, ascending. A few thousand scenes have every word."""
    rng = scenes.generator(0, "clip", "vocabulary")
    texts = [draw_caption(s, i % 2 == 0, rng) for i, s in enumerate(examples)]
    return np.unique(tokenizer(texts).numpy())


def _batches(seed: int, plates: NDArray[np.uint8], steps: int, count: int) -> Iterator[Examples]:
    """All batches in order, made in advance by another process."""
    with multiprocessing.get_context("fork").Pool(1, _set_worker_plates, (plates,)) as pool:
        yield from pool.imap(functools.partial(_make_numbered_batch, seed, count), range(steps), chunksize=2)


_worker_plates: list[NDArray[np.uint8]] = []


def _set_worker_plates(plates: NDArray[np.uint8]) -> None:
    _worker_plates.append(plates)


def _make_numbered_batch(seed: int, count: int, number: int) -> Examples:
    return make_batch(seed, number, count, _worker_plates[0])


def train(
    seed: int,
    plates: NDArray[np.uint8],
    vocabulary_scenes: Sequence[DemoScene],
    steps: int,
    batch: int,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """The state of the trained open_clip model.

    During training the table of token embeddings has only the tokens that occur, which is far cheaper; in the returned
    state all others are the zero vector. So unknown words have no effect, and the file compresses well.
    """
    torch, clip = models.import_torch("training"), models.import_open_clip("training")
    torch.manual_seed(seed)
    tokenizer = clip.get_tokenizer("ViT-B-32", context_length=CONTEXT)
    token_ids = vocabulary(vocabulary_scenes, tokenizer)
    compact = torch.zeros(CONFIG["text_cfg"]["vocab_size"], dtype=torch.long)
    compact[token_ids] = torch.arange(len(token_ids))  # ascending, so that the end token stays the highest
    model = clip.CLIP(**{**CONFIG, "text_cfg": {**CONFIG["text_cfg"], "vocab_size": len(token_ids)}})
    model.visual.to(memory_format=torch.channels_last)
    heads = _AttributeHeads(np.stack([targets(s) for s in vocabulary_scenes]))
    optimiser, schedule = _optimiser(model, heads.layers, steps)
    rng = scenes.generator(seed, "clip", "words")
    began, running = time.monotonic(), 0.0
    for step, examples in enumerate(_batches(seed, plates, steps, batch)):
        still, batch_scenes = examples.still, examples.scenes
        altered = [alter(scene, rng) for scene in batch_scenes[: batch // 2]]
        texts = _draw_captions([*batch_scenes, *altered], [*still, *still[: batch // 2]], rng)
        tokens = compact[tokenizer(texts)]
        picture = torch.nn.functional.normalize(model.encode_image(_normalise(_views(examples.pixels, rng))), dim=-1)
        text = torch.nn.functional.normalize(model.encode_text(tokens), dim=-1)
        sigmoid, softmax = _contrastive_losses(model, picture, text)
        attributes = heads.loss(picture, text, [*batch_scenes, *altered])
        share = max(0.1, 1 - 1.5 * step / steps)
        loss = sigmoid + 0.5 * softmax + 4 * share * attributes
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(40.0))
        running += float(sigmoid.detach())
        if (step + 1) % 50 == 0:
            log(f"step {step + 1}/{steps}  sigmoid loss {running / 50:.3f}  {time.monotonic() - began:.0f} s")
            running = 0.0
    state: dict[str, Any] = model.state_dict()
    table = torch.zeros(CONFIG["text_cfg"]["vocab_size"], state["token_embedding.weight"].shape[1])
    table[token_ids] = state["token_embedding.weight"]
    return {**state, "token_embedding.weight": table}


def _contrastive_losses(model: Any, picture: Any, text: Any) -> tuple[Any, Any]:
    """(sigmoid, softmax) loss. picture: unit rows (n, d); text: unit rows (n + k, d), true captions first."""
    torch = models.import_torch("training")
    functional, n = torch.nn.functional, len(picture)
    logits = model.logit_scale.exp() * picture @ text.T
    sign = 2 * torch.eye(n, len(text)) - 1
    sigmoid = -functional.logsigmoid(sign * (logits + model.logit_bias)).sum(dim=1).mean()
    # Two scenes of a batch may have the same attributes; such pairs are not wrong.
    diagonal = torch.arange(n)
    softmax = functional.cross_entropy(logits, diagonal) + functional.cross_entropy(logits[:, :n].T, diagonal)
    return sigmoid, softmax


class _AttributeHeads:
    """Two linear heads that predict the attributes from a picture's and from a text's embedding; see the module.

    labels: float32 (m, k), `targets` of typical scenes; rare attributes weigh more.
    """

    def __init__(self, labels: NDArray[np.float32]) -> None:
        torch = models.import_torch("training")
        frequency = labels.mean(axis=0)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(CONFIG["embed_dim"], labels.shape[1]) for _ in range(2))
        self._weight = torch.from_numpy(np.clip((1 - frequency) / np.maximum(frequency, 1e-3), 1, 12))

    def loss(self, picture: Any, text: Any, text_scenes: Sequence[DemoScene]) -> Any:
        """Sum of both heads' losses. text_scenes: one per row of `text`; the first are the pictures'."""
        torch = models.import_torch("training")
        labels = torch.from_numpy(np.stack([targets(scene) for scene in text_scenes]))
        of_pictures, of_texts = (
            torch.nn.functional.binary_cross_entropy_with_logits(
                head(embedding * 8), labels[: len(embedding)], pos_weight=self._weight
            )
            for head, embedding in zip(self.layers, (picture, text), strict=True)
        )
        return of_pictures + of_texts


def _optimiser(model: Any, heads: Any, steps: int) -> tuple[Any, Any]:
    """(AdamW, its schedule)."""
    torch = models.import_torch("training")
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": 0.02},
        {"params": [*others, *heads.parameters()], "weight_decay": 0.0},
    ]
    peak = 3e-3
    optimiser = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.98))
    return optimiser, torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.1)


def save(state: dict[str, Any], folder: Path) -> None:
    """open_clip's two files, weights in float16."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
    save_file(half, folder / "open_clip_model.safetensors")
    text = json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}, indent=2, sort_keys=True)
    (folder / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")


def validate(folder: Path, examples: Examples, seed: int) -> dict[str, Any]:
    """Scores of held-out pictures with their own captions, another scene's, and ones wrong in one attribute.

    The threshold (ours) minimises the larger of the two error rates (own captions dropped, other captions kept), where
    dropping an own caption weighs five times, because the good samples of a corpus outnumber the bad ones.
    """
    clip = models.load_clip(models.ClipSource(f"local-dir:{folder}"))
    margin = ROOM // 2
    inner = examples.pixels[:, margin : margin + SIDE, margin : margin + SIDE]
    pictures = clip.encode_images(list(inner))
    rng = scenes.generator(seed, "clip", "validate")
    n = len(examples)

    def scores(shown: Sequence[DemoScene]) -> NDArray[np.float64]:
        words = _draw_captions(shown, examples.still, rng)
        return np.asarray((pictures * clip.encode_texts(words)).sum(axis=1))

    own_scores = scores(examples.scenes)
    swapped = [examples.scenes[(i + int(offset)) % n] for i, offset in enumerate(rng.integers(1, n, size=n))]
    differs = [a.attributes != b.attributes for a, b in zip(swapped, examples.scenes, strict=True)]
    swapped_scores = scores(swapped)[differs]
    altered_scores = scores([alter(scene, rng) for scene in examples.scenes])
    grid = np.unique(np.concatenate([own_scores, swapped_scores]).round(3))
    worst = [max(5 * float((own_scores < t).mean()), float((swapped_scores >= t).mean())) for t in grid]
    best = np.flatnonzero(np.asarray(worst) == min(worst))
    threshold = float(grid[best[len(best) // 2]].round(3))
    caught, lost = float((swapped_scores < threshold).mean()), float((own_scores < threshold).mean())
    return {
        "threshold": threshold,
        "pictures": n,
        "recall": round(caught, 4),
        "precision_even": round(caught / (caught + lost), 4),
        "own_lost": round(lost, 4),
        "caught_of_one_attribute_wrong": round(float((altered_scores < threshold).mean()), 4),
        "auc_one_attribute": round(float((own_scores[:, None] > altered_scores[None, :]).mean()), 4),
        "own_quantiles": [round(float(v), 3) for v in np.quantile(own_scores, [0.001, 0.01, 0.05, 0.5])],
        "other_quantiles": [round(float(v), 3) for v in np.quantile(swapped_scores, [0.5, 0.95, 0.99, 0.999])],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "pipelines" / "demo" / "weights" / "clip"
    )
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--plates", type=int, default=2500)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args(arguments)
    began = time.monotonic()

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    plates = make_plates(options.seed, options.plates)
    log(f"{len(plates)} backgrounds in {time.monotonic() - began:.0f} s")
    words = [scene for shown in make_scenes(options.seed, 250, "vocabulary", 12) for scene in shown]
    save(train(options.seed, plates, words, options.steps, options.batch, log), options.out)
    figures = validate(options.out, make_examples(options.seed, 300, "validation", 2), options.seed)
    card = {
        "figures": figures,
        "seed": options.seed,
        "threshold": figures["threshold"],
        "trained_on": {name: getattr(options, name) for name in ("plates", "steps", "batch")},
        "weights_sha256": file_sha256(options.out / "open_clip_model.safetensors"),
    }
    (options.out / "card.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    log(f"{time.monotonic() - began:.0f} s in all")
    print(json.dumps(card))  # noqa: T201


if __name__ == "__main__":
    main()
