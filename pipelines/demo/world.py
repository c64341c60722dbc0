"""The demo's world: a raw corpus with planted faults, and the truth about each of its samples.

    FOLDER/raw/clips           videos, each with its caption in a .txt beside it
    FOLDER/raw/reels           videos, captions in captions.jsonl ("file", "text")
    FOLDER/raw/photos          pictures, each with its caption in a .json beside it
    FOLDER/raw/pairs           pictures and captions in WebDataset tars
    FOLDER/raw/notes           text, JSONL              FOLDER/raw/library   text, Parquet
    FOLDER/raw/albums          samples of several pictures, LLaVA's JSON
    FOLDER/raw/vocabulary.json n-grams for resampling
    FOLDER/truth/truth.jsonl   one object per sample: TRUTH
    FOLDER/truth/world.json    arguments and counts

Only the scorer reads the truth. A sample has at most one fault, so every verdict has one right answer; each kind of
fault has hard negatives, which resemble it and have nothing wrong.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.errors import StageError
from pipelines.demo import footage, planted_media
from pipelines.demo.corpus import write_corpus
from pipelines.demo.footage import RenderJob
from pipelines.demo.planner import Planner, WorldPlan
from pipelines.demo.planted_texts import plan_texts

#: How many of each kind are planted at scale 1.
COUNTS = {
    "clean_video": 48, "clean_image": 90, "static": 45, "slow": 45, "burned": 45, "signs": 45,
    "copied_video": 45, "other_video": 44, "copied_image": 60, "other_image": 56,
    "language_video": 22, "language_image": 40, "names_video": 20, "names_image": 36,
    "swapped_video": 44, "swapped_image": 48, "alike_video": 40, "alike_image": 48,
    "quality_video": 24, "quality_image": 40, "brief_video": 20, "brief_image": 36,
    "broken_video": 45, "broken_image": 45, "odd_video": 40, "odd_image": 48,
    "head": 240, "tail": 48, "image_overlay": 44, "albums": 12,
    "clean_text": 2400, "copied_text": 90, "quoting_text": 60, "language_text": 60, "flavoured_text": 60,
    "poor_text": 60, "brief_text": 60,
}  # fmt: skip

#: In the order in which they take names; another order is another world.
_STEPS = (
    planted_media.plan_clean, planted_media.plan_static, planted_media.plan_overlays, planted_media.plan_copied_videos,
    planted_media.plan_copied_images, planted_media.plan_same_photograph, planted_media.plan_languages,
    planted_media.plan_swapped, planted_media.plan_alike, planted_media.plan_caption_quality,
    planted_media.plan_broken, planted_media.plan_odd_formats, planted_media.plan_frequent,
    planted_media.plan_albums, plan_texts,
)  # fmt: skip


def make_world(
    folder: str | Path,
    seed: int,
    *,
    scale: float = 1.0,
    workers: int = 2,
    mirrored: bool = False,
    image_overlays: bool = False,
) -> dict[str, Any]:
    """Make the world of `seed` in `folder` and return its summary: {"asked", "samples", "faults", "hard"}.

    The same arguments but `workers` give the same bytes on one machine. scale: of every count, for tests.
    mirrored: some copies are mirrored too (a descriptor that is to find them must be made for it).
    image_overlays: burned-in text and signs are planted on pictures as well as on videos.
    A folder that already contains this world is left as it is. Raises StageError when it contains anything else.
    """
    folder = Path(folder)
    summary_file = folder / "truth" / "world.json"
    arguments = {"seed": seed, "scale": scale, "mirrored": mirrored, "image_overlays": image_overlays}
    if summary_file.exists():
        existing: dict[str, Any] = json.loads(summary_file.read_text("utf-8"))
        if existing["asked"] == arguments:
            return existing
        raise StageError("this folder contains another world", where=str(folder), hint="give another folder")
    if (folder / "raw").exists() and any((folder / "raw").iterdir()):
        raise StageError("this folder contains an unfinished world", where=str(folder / "raw"), hint="remove it")
    plan = plan_world(seed, scale, mirrored, image_overlays)
    rows = list(write_corpus(plan, folder / "raw", _render(plan.jobs, workers)))
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    with (folder / "truth" / "truth.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n")
    summary = {
        "asked": arguments,
        "samples": len(rows),
        "faults": dict(sorted(Counter(f"{row['fault']}.{row['modality']}" for row in rows if row["fault"]).items())),
        "hard": dict(sorted(Counter(f"{row['hard']}.{row['modality']}" for row in rows if row["hard"]).items())),
    }
    summary_file.write_text(json.dumps(summary, sort_keys=True, indent=1) + "\n", "utf-8")
    return summary


def read_truth(folder: str | Path) -> list[dict[str, Any]]:
    """Read the truth of the world in `folder`: one dict per sample with the fields in TRUTH."""
    with (Path(folder) / "truth" / "truth.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def plan_world(seed: int, scale: float, mirrored: bool, image_overlays: bool) -> WorldPlan:
    """Plan the world that `make_world` makes of the same arguments."""
    counts = {kind: max(2, round(count * scale)) for kind, count in COUNTS.items()}
    if not image_overlays:
        counts["image_overlay"] = 0
    planner = Planner(seed, counts, mirrored=mirrored)
    for step in _STEPS:
        step(planner)
    return planner.plan


def _render(jobs: list[RenderJob], workers: int) -> Iterator[tuple[str, bytes]]:
    if workers <= 1:
        for job in jobs:
            yield from footage.make(job)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for media in pool.imap(footage.make, jobs, chunksize=4):
            yield from media
