"""Train the demo's copy descriptor: a very small network in SSCD's TorchScript format, on "train" scenes only.

    python -m demo_weights.train_copy            minutes on one core; writes pipelines/demo/weights/copy

The recipe is SSCD's (arXiv 2202.10261): softmax contrast between two edited copies of a picture and all other pictures
of the batch, temperature 0.05, plus the entropy term with weight 30, which pushes every descriptor away from its
nearest neighbour. The batch makes it hard: pictures come in groups over the same photograph in the same tint, with
other crops, other subjects, or both. SSCD's pooling is replaced by a 4 × 4 grid, because in this world two pictures
over one photograph differ in their arrangement only.

The module's input is float (n, 3, h, w) RGB of any size, normalised with ImageNet's mean and deviation; its output is
float (n, 512) of length 1. It is for the demo's world only.
"""

# TorchScript takes arguments without annotation for tensors.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.hashing import file_sha256
from infra.weights import models
from pipelines.demo import scenes
from pipelines.demo.film import Film, make_sprite
from pipelines.demo.scenes import DemoScene

SIDE = 64
DIM = 512
TEMPERATURE = 0.05
ENTROPY_WEIGHT = 30.0
#: Consecutive pictures of one photograph in one tint: two crops of it, each with two sets of subjects.
GROUP = 4
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_SIZES = ((160, 120), (160, 90), (120, 120), (192, 108))


@dataclass(frozen=True)
class PlateDataset:
    """now, soon: n pictures each, uint8 RGB of several sizes, `soon` at most 0.2 s after `now`. Row i belongs to group
    i // GROUP; within a group rows 0, 1 and rows 2, 3 share the crop of the photograph."""

    now: list[NDArray[np.uint8]]
    soon: list[NDArray[np.uint8]]

    def __len__(self) -> int:
        return len(self.now)


class _RestagedFilm(Film):
    """Other subjects before an existing plate, since plates are expensive to render."""

    def __init__(self, film: Film, scene: DemoScene) -> None:
        self.scene, self.width, self.height = scene, film.width, film.height
        self._plate, self._unit = film._plate, film._unit
        self._sprites = [make_sprite(s, max(6, round(s.radius * self._unit))) for s in scene.subjects]


def make_pictures(seed: int, groups: int, purpose: str) -> PlateDataset:
    """`groups` × GROUP pictures of the train split, a function of the arguments."""
    rng = scenes.generator(seed, "copy", purpose)
    now, soon = [], []
    for g in range(groups):
        first = scenes.make_scene(seed, "train", f"copy {purpose} {g} 0")
        fixed = {"photo": first.photo, "tint": first.tint}
        width, height = _SIZES[int(rng.integers(len(_SIZES)))]
        for c in range(2):
            scene = first if c == 0 else scenes.make_scene(seed, "train", f"copy {purpose} {g} {c}", **fixed)
            film = Film(scene, width, height)
            cast = scenes.make_scene(seed, "train", f"copy {purpose} {g} {c} cast", **fixed)
            for shown in (film, _RestagedFilm(film, replace(scene, subjects=cast.subjects))):
                t = float(rng.uniform(0.0, 3.0))
                now.append(shown.frame(t))
                soon.append(shown.frame(t + float(rng.uniform(0, 0.2))))
    return PlateDataset(now, soon)


def edit(picture: NDArray[np.uint8], rng: np.random.Generator, most: float) -> NDArray[np.uint8]:
    """A copy (SIDE, SIDE, 3), randomly cropped up to `most` per side, rescaled, recoloured, blurred, lettered and
    compressed."""
    import cv2

    high, wide = picture.shape[:2]
    if rng.random() < 0.8:
        x0, x1, y0, y1 = rng.uniform(0, most, 4)  # shares cut off left, right, top and bottom
        picture = picture[int(y0 * high) : high - int(y1 * high), int(x0 * wide) : wide - int(x1 * wide)]
    if rng.random() < 0.4:
        scale = float(rng.uniform(0.4, 1.0))
        picture = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    if rng.random() < 0.4:
        gain, lift = rng.uniform(0.8, 1.25, 3) ** 0.5 * rng.uniform(0.85, 1.18), rng.uniform(-14, 14)
        picture = np.clip(picture * gain + lift, 0, 255).astype(np.uint8)
    if rng.random() < 0.2:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.2))), np.uint8)
    picture = np.ascontiguousarray(picture)
    if rng.random() < 0.2:
        at = (int(rng.integers(0, wide // 2)), int(rng.integers(12, max(13, picture.shape[0] - 2))))
        ink = [int(v) for v in rng.choice([0, 255]) * np.ones(3)]
        word = "".join(chr(int(c)) for c in rng.integers(97, 123, int(rng.integers(3, 9))))
        cv2.putText(picture, word, at, cv2.FONT_HERSHEY_SIMPLEX, float(rng.uniform(0.3, 0.5)), ink, 1, cv2.LINE_AA)
    if rng.random() < 0.7:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 95))]
        picture = np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def normalise(pictures: Sequence[NDArray[np.uint8]]) -> Any:
    """float32 (n, 3, SIDE, SIDE), the input of SSCD."""
    x = (np.stack(pictures).astype(np.float32) / 255 - _MEAN) / _DEVIATION
    return models.import_torch().from_numpy(x).permute(0, 3, 1, 2)


def network() -> Any:
    """The module before training, 0.6 million parameters."""
    torch = models.import_torch("training")
    nn = torch.nn

    def stage(inside: int, outside: int, stride: int) -> list[Any]:
        convolution = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        return [convolution, nn.BatchNorm2d(outside), nn.ReLU()]

    class Normalise(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, x):  # type: ignore[no-untyped-def]
            return nn.functional.normalize(x)

    return nn.Sequential(
        nn.AdaptiveAvgPool2d(SIDE),
        *stage(3, 16, 2),
        *stage(16, 32, 2),
        *stage(32, 48, 2),
        *stage(48, 64, 1),
        *stage(64, 64, 2),
        nn.Flatten(),
        nn.Linear(64 * (SIDE // 16) ** 2, DIM, bias=False),
        Normalise(),
    )


def train(seed: int, pictures: PlateDataset, steps: int, batch: int, log: Callable[[str], None]) -> Any:
    torch = models.import_torch("training")
    torch.manual_seed(seed)
    model = network().to(memory_format=torch.channels_last)
    peak = 2e-3
    optimiser = torch.optim.AdamW(model.parameters(), lr=peak, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak, total_steps=steps, pct_start=0.1)
    rng = scenes.generator(seed, "copy", "order")
    groups, each = len(pictures) // GROUP, batch // GROUP
    order = np.concatenate([rng.permutation(groups) for _ in range(-(-steps * each // groups))])
    self_pair = torch.eye(2 * batch, dtype=torch.bool)
    partner = torch.arange(2 * batch).roll(batch)
    positive = torch.zeros_like(self_pair)
    positive[torch.arange(2 * batch), partner] = True
    began, running = time.monotonic(), 0.0
    for step in range(steps):
        batch_groups = order[step * each : (step + 1) * each]
        rows = (batch_groups[:, None] * GROUP + np.arange(GROUP)).ravel()
        views = [edit(pictures.now[r], rng, 0.13) for r in rows]
        views += [edit((pictures.now if rng.random() < 0.5 else pictures.soon)[r], rng, 0.13) for r in rows]
        vectors = model(normalise(views).contiguous(memory_format=torch.channels_last))
        cosines = vectors @ vectors.T
        contrast = torch.nn.functional.cross_entropy(
            (cosines / TEMPERATURE).masked_fill(self_pair, float("-inf")), partner
        )
        # Distance to the nearest picture that is not a copy: 2 - 2 cos, squared.
        nearest = cosines.masked_fill(self_pair | positive, -2.0).amax(dim=1)
        entropy = -0.5 * (2 - 2 * nearest).clamp_min(1e-4).log().mean()
        loss = contrast + ENTROPY_WEIGHT * entropy
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        running += float(contrast.detach())
        if (step + 1) % 50 == 0:
            log(f"step {step + 1}/{steps}  contrast {running / 50:.3f}  {time.monotonic() - began:.0f} s")
            running = 0.0
    return model.eval().to(memory_format=torch.contiguous_format)


def save(model: Any, path: Path) -> None:
    """Write the model traced and frozen, so that batch normalisation is folded in and the file needs no class of ours,
    and wrapped to average three views of a picture."""
    torch = models.import_torch()
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.inference_mode():
        traced = torch.jit.trace(model, torch.zeros(2, 3, 128, 128))
    views(torch.jit.freeze(traced)).save(str(path))


def views(model: Any) -> Any:
    """A script whose descriptor is the mean of those of the whole picture and of its inner 94 and 84 %: a cropped copy
    then shares a view with its original. On the demo's world this halves the loss of copies cropped 3–10 % per side."""
    torch = models.import_torch()

    class Views(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, pictures):
            height, width = pictures.shape[2], pictures.shape[3]
            total = self.model(pictures)
            for side in (0.03, 0.08):
                y0, x0 = int(height * side + 0.5), int(width * side + 0.5)
                inner = pictures[:, :, y0 : height - y0, x0 : width - x0]
                inner = torch.nn.functional.interpolate(
                    inner, size=[height, width], mode="bilinear", align_corners=False
                )
                total = total + self.model(inner)
            return torch.nn.functional.normalize(total, dim=1)

    return torch.jit.script(Views(model))


def validate(path: Path, pictures: PlateDataset, seed: int) -> dict[str, Any]:
    """Cosines between held-out pictures: copies (cropped up to 10 % per side, and other edits) against pictures of the
    same photograph in the same tint with another crop, of the same crop with other subjects, and all others.

    The threshold (ours) is half-way between the highest 0.1 % of pairs with another crop or photograph and the lowest
    2 % of copies.
    """
    import hashlib

    torch = models.import_torch()
    model = models.load_script(str(path), hashlib.sha256(path.read_bytes()).hexdigest())
    rng = scenes.generator(seed, "copy", "validate")

    def vectors(shown: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(model(normalise(shown)).numpy())

    whole = vectors([edit(p, _NeverGenerator(), 0.0) for p in pictures.now])
    copies = vectors([edit(p, rng, 0.10) for p in pictures.now])
    soon = vectors([edit(p, _NeverGenerator(), 0.0) for p in pictures.soon])
    own = (whole * copies).sum(axis=1)
    cosines = whole @ copies.T
    row = np.arange(len(pictures))
    same_group = row[:, None] // GROUP == row[None, :] // GROUP
    same_crop = row[:, None] // 2 == row[None, :] // 2
    other_cast = cosines[same_crop & (row[:, None] != row[None, :])]
    other_crop, others = cosines[same_group & ~same_crop], cosines[~same_group]
    low, high = float(np.quantile(own, 0.02)), float(np.quantile(other_crop, 0.999))
    threshold = round((low + high) / 2, 3)
    return {
        "threshold": threshold,
        "copies": len(own),
        "recall": round(float((own >= threshold).mean()), 4),
        "recall_0.2_s_later": round(float(((whole * soon).sum(axis=1) >= threshold).mean()), 4),
        "kept_apart": {
            "same photograph and tint, other crop": round(float((other_crop < threshold).mean()), 4),
            "same crop, other subjects": round(float((other_cast < threshold).mean()), 4),
            "other photograph or tint": round(float((others < threshold).mean()), 6),
        },
        "copy_quantiles": [round(float(v), 3) for v in np.quantile(own, [0.01, 0.02, 0.05, 0.5])],
        "other_crop_quantiles": [round(float(v), 3) for v in np.quantile(other_crop, [0.5, 0.95, 0.99, 0.999])],
        "other_cast_quantiles": [round(float(v), 3) for v in np.quantile(other_cast, [0.5, 0.95, 0.99])],
    }


class _NeverGenerator(np.random.Generator):
    """A generator under which `edited` changes nothing but the size."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, *arguments: Any, **named: Any) -> Any:
        return 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "pipelines" / "demo" / "weights" / "copy"
    )
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--groups", type=int, default=360)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args(arguments)
    import cv2

    cv2.setNumThreads(1)
    began = time.monotonic()

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)  # noqa: T201

    pictures = make_pictures(options.seed, options.groups, "train")
    log(f"{len(pictures)} pictures in {time.monotonic() - began:.0f} s")
    path = options.out / "copy.torchscript.pt"
    save(train(options.seed, pictures, options.steps, options.batch, log), path)
    figures = validate(path, make_pictures(options.seed, 60, "validation"), options.seed)
    card = {
        "figures": figures,
        "seed": options.seed,
        "threshold": figures["threshold"],
        "trained_on": {name: getattr(options, name) for name in ("groups", "steps", "batch")},
        "weights_sha256": file_sha256(path),
    }
    (options.out / "card.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    log(f"{time.monotonic() - began:.0f} s in all")
    print(json.dumps(card))  # noqa: T201


if __name__ == "__main__":
    main()
