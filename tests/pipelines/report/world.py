"""A small run with something of everything: each outcome, each modality, dialogues, copies, and hostile words."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa

from infra import tables
from infra.beam import Runner
from mixtures.shards.manifest import Mixture, write_mixture
from pipelines import stages
from pipelines.core.finished_run import open_judged_run
from pipelines.core.run import Run
from pipelines.report.report_rows import read_rows
from tests import corpus

#: Words that would do something if a page took them for markup; each stands in an English caption that is kept.
HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "</script><script>window.hacked = 3</script>",
    "\u2028window.hacked = 4\u2029",
    "\"; window.hacked = 5; //",
    "<svg onload=window.hacked=6>",
    "{{7*7}} ${window.hacked=7}",
    "__proto__",
]  # fmt: skip


def make(folder: Path) -> Run:
    """The finished run, in folder/run; its media lie in folder/raw."""
    raw = folder / "raw"
    _photos(raw / "photos<b>")
    _clips(raw / "clips")
    _texts(raw / "texts")
    _albums(raw / "albums")
    settings = {
        "name": "world",
        "seed": 3,
        "store": str(folder / "store"),
        "out": str(folder / "run"),
        "sources": [
            {"name": "photos", "path": str(raw / "photos<b>"), "modality": "image", "licence": "CC-BY-4.0"},
            {"name": "clips", "path": str(raw / "clips"), "modality": "video", "licence": "CC0-1.0"},
            {"name": "texts", "path": str(raw / "texts"), "modality": "text", "id_column": "id"},
            {"name": "albums", "path": str(raw / "albums"), "modality": "multi_image", "format": "llava"},
        ],
        "units": {"target_rows": 100},
        "filters": {
            "caption": None,
            "language": None,
            "quality": {"max_symbol_ratio": 0.5, "document": {"min_words": 10}},
            "facts": {"min_side": 32},
            "motion": {"min_score": 0.005},
        },
        "duplicates": {"image": {}, "video": {}},
        "annotate": {},
        "export": {"shard_samples": 6, "description": "Made for a test. <b>Not bold.</b>"},
    }
    path = corpus.write_config(folder / "config.yaml", settings)
    run = stages.open_for_work(str(path), out=None, replace=False, runner=Runner(), quiet=True)
    stages.run_all(run)
    return run


def _photos(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, words in enumerate(HOSTILE):
        (folder / f"{number:02}.jpg").write_bytes(corpus.image_bytes(corpus.picture(number)))
        (folder / f"{number:02}.txt").write_text(
            f"{corpus.caption(number)} Beside it there is a sign that says {words}"
        )
    for name, number, text in (
        ("copy", 0, corpus.caption(800)),
        ("shouted", 20, "THE BEST KITE over the WHOLE beach TODAY"),
        ("german", 21, "Ein kleines Boot liegt am Ufer des Sees und wartet auf den Morgen."),
        ("silent", 22, ""),
    ):
        (folder / f"{name}.jpg").write_bytes(corpus.image_bytes(corpus.picture(number), quality=70))
        (folder / f"{name}.txt").write_text(text)
    (folder / "broken.jpg").write_bytes(corpus.image_bytes(corpus.picture(23))[:500])
    (folder / "broken.txt").write_text(corpus.caption(23))


def _clips(folder: Path) -> None:
    folder.mkdir()
    for number in range(4):
        corpus.write_clip(folder / f"{number}.mp4", 50 + number, frames=16 + number)
        caption = {"text": corpus.caption(500 + number), "dense_captions": [
            {"start": 0.2, "end": 0.5, "text": "A tall man opens a door <script>window.hacked=8</script>."},
            {"start": 0.6, "end": 1.2, "text": "Two children run through the garden."},
        ]}  # fmt: skip
        (folder / f"{number}.json").write_text(json.dumps(caption))
    corpus.write_clip(folder / "still.mp4", 54, speed=0)
    (folder / "still.txt").write_text(corpus.caption(504))
    corpus.write_clip(folder / "brief.mp4", 55)
    (folder / "brief.txt").write_text("green kites")  # two words: motion is never measured
    shutil.copyfile(folder / "1.mp4", folder / "again.mp4")
    (folder / "again.txt").write_text(corpus.caption(505))


def _texts(folder: Path) -> None:
    folder.mkdir()
    lines = [json.dumps({"id": f"t/{number}", "text": corpus.document(number)}) for number in range(24)]
    lines.append(json.dumps({"id": "short", "text": "Too short."}))
    lines.append(json.dumps({"id": "long", "text": " ".join(corpus.document(n) for n in range(200, 260))}))
    (folder / "texts.jsonl").write_text("\n".join(lines) + "\n")


def _albums(folder: Path) -> None:
    folder.mkdir()
    for number in (40, 41):
        (folder / f"{number}.jpg").write_bytes(corpus.image_bytes(corpus.picture(number)))
    turns = [
        {"from": "human", "value": "<image>\n<image>\nWhat is standing there in the two pictures?"},
        {"from": "gpt", "value": f"{corpus.caption(40)} <script>window.hacked = 9</script>"},
    ]
    rows = [{"id": "one", "image": ["40.jpg", "41.jpg"], "conversations": turns}]
    (folder / "albums.json").write_text(json.dumps(rows))


def mix(run: Run, folder: Path) -> Mixture:
    """Every second member of the run, half of them as repeats, in three virtual shards."""
    members = read_rows(open_judged_run(run.out)).members.sort_by("key")
    every_second = members.filter(pa.array(np.arange(members.num_rows) % 2 == 0))
    kinds = every_second["modality"].to_pylist()
    names = sorted(set(kinds))
    n = every_second.num_rows
    table = pa.table(
        {
            "key": every_second["key"],
            "vshard": pa.array(np.arange(n) * 3 // n, pa.int32()),
            "position": pa.array(np.zeros(n), pa.int32()),
            "group": pa.array([names.index(kind) for kind in kinds], pa.int32()),
            "shard": pa.array(np.zeros(n), pa.int32()),
            "repeat": pa.array(np.arange(n) % 2, pa.int32()),
            **{name: every_second[name] for name in ("offset", "size", "tokens", "seconds", "bytes")},
        },
        schema=tables.MIXTURE,
    )
    groups = [
        {"name": name, "modality": name, "cell": {"modality": name}, "available": 99, "samples": kinds.count(name),
         "tokens": 10, "seconds": 1.0, "bytes": 5}
        for name in names
    ]  # fmt: skip
    share = kinds.count("text") / n
    fields = {
        "seed": 1, "unit": "samples", "groups": groups, "shards": [], "vshards": 3, "materialized": None,
        "recipe": {"ratios": [{"column": "modality", "of": "text", "to": "image", "between": [1, 9]}]},
        "constraints": [{"label": "modality <b>text</b>", "low": 0.1, "high": 0.9,
                         "achieved": dict.fromkeys(("samples", "tokens", "seconds", "bytes"), share)}],
        "parents": [{"run": run.out, "name": "world", "members": "0" * 64}],
        "totals": {"samples": n, "tokens": 1, "seconds": 1.0, "bytes": 1},
        "warnings": ["<script>window.hacked = 10</script>"],
    }  # fmt: skip
    return write_mixture(str(folder), fields, table)
