"""A mixture whose captions can only be known by looking, and a config to train tiny models on it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mixtures.reading.contract import Contract
from mixtures.shards.manifest import Mixture
from mixtures.shards.shards import Member
from tests import corpus, tiny_models
from tests.mixtures import small

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "white": (240, 240, 240)}
CONTRACT = Contract(clip_frames=tiny_models.FRAMES, tokens_per_frame=2, context=2048)


def plain(colour: str, shade: int = 0) -> bytes:
    """A JPEG of one colour, a little darker by `shade`."""
    pixels = np.full((24, 32, 3), COLOURS[colour], dtype=np.uint8) - np.uint8(shade % 20)
    return corpus.image_bytes(pixels)


@functools.cache
def _clip(folder: Path) -> bytes:
    return corpus.write_clip(folder / "clip.mp4", 1, frames=24).read_bytes()


def mixture(folder: Path, *, images: int = 16, videos: int = 2, pairs: int = 2, texts: int = 4) -> Mixture:
    """folder/mix: images of one colour, said by the caption, videos, pairs of images, and texts."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(COLOURS)
    number = iter(range(10_000))

    def sample(modality: str, media: list[bytes], answer: str = "") -> tuple[str, list[Member]]:
        turns = [{"from": "human", "value": "<image>" * len(media) + "\nColour?"}, {"from": "gpt", "value": answer}]
        return small.sample(next(number), modality, media, **({"conversations": turns} if media else {}))

    samples = {
        "image": [sample("image", [plain(names[i % 4], i)], names[i % 4]) for i in range(images)],
        "video": [sample("video", [_clip(folder)], "many") for _ in range(videos)],
        "multi_image": [
            sample("multi_image", [plain(names[i % 4]), plain(names[-i % 4])], f"{names[i % 4]} {names[-i % 4]}")
            for i in range(pairs)
        ],
        "text": [sample("text", []) for _ in range(texts)],
    }
    samples = {name: per_modality for name, per_modality in samples.items() if per_modality}
    counts = {name: len(per_modality) for name, per_modality in samples.items()}
    return small.write(folder, counts, samples=samples, contract=CONTRACT, vshards=2)


def models(folder: Path, *, dropout: float = 0.0) -> dict[str, Any]:
    """The keys of a config that name the models, made in `folder`: an encoder of frames and one of clips."""
    return {
        "language_model": tiny_models.language(folder / "language", dropout=dropout),
        "vision_encoders": [tiny_models.siglip(folder / "siglip"), tiny_models.videomae(folder / "videomae")],
    }


def config(path: Path, models: dict[str, Any], mixture: str | None, **changes: Any) -> str:
    """A config file beside its folder, `path` without its ending; a small connector, four samples a step."""
    document = {
        **models,
        "mixture": mixture,
        "out": str(path.with_suffix("")),
        "connector": {"heads": 2, "head_size": 8, "key_heads": 1},
        "micro_batch": 2,
        **changes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({k: v for k, v in document.items() if v is not None}, sort_keys=False))
    return str(path)


def only(stage: str, **settings: Any) -> dict[str, Any]:
    """`stages:` with one stage left."""
    return {name: settings if name == stage else None for name in ("align", "vision", "sft")}
