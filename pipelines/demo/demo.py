"""demo: make a world with planted faults, run everything on it, hold the verdicts against the truth."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from infra import storage, tables
from infra.beam import Runner
from infra.commit import need_manifest, read_json
from infra.errors import StageError
from infra.hashing import canonical_json, file_sha256
from pipelines.core.run import Run
from pipelines.decide.duplicates.settings import PDQ_THRESHOLD
from pipelines.demo.score import score
from pipelines.demo.world import make_world, read_truth
from pipelines.stages import open_for_work, run_all, run_stage

#: What fingerprints decide.
PICTURED = ("duplicates.image", "duplicates.video")

#: Height and width in pixels of the pictures that the demo's copy descriptor is given: twice what it was trained on.
COPY_SIZE = 128


def run(out: str, *, seed: int, workers: int, quiet: bool, scale: float = 1.0) -> dict[str, Any]:
    """Make the world of `seed` under OUT/raw, run the whole pipeline, write OUT/report.json and return it."""
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder is talkative
    begun = time.time()
    folder = Path(out).resolve()
    _tell(quiet, f"making the world of seed {seed} in {folder / 'raw'}")
    make_world(folder, seed, workers=workers, scale=scale)
    made = time.time()
    truth = read_truth(folder)
    run = _open(folder / "config.yaml", config_text(folder, seed), workers, quiet)
    run_all(run)
    report = score(truth, all_verdicts(run), read_json(run.at("ledger.json")))
    _tell(quiet, "the same with PDQ fingerprints: the store serves all but those")
    beside = _open(folder / "config-pdq.yaml", config_text(folder, seed, pdq=True), workers, quiet)
    for stage in ("ingest", "measure", "decide"):
        run_stage(beside, stage)
    other = score(truth, all_verdicts(beside), read_json(beside.at("ledger.json")))
    report["pdq"] = {name: entry for name, entry in other["filters"].items() if name in PICTURED}
    report["seed"] = seed
    report["seconds"] = round(time.time() - begun, 1)
    report["seconds_world"] = round(made - begun, 1)
    storage.write_bytes(str(folder / "report.json"), canonical_json(report))
    return report


def _open(config: Path, text: str, workers: int, quiet: bool) -> Run:
    storage.write_bytes(str(config), text.encode())
    return open_for_work(str(config), out=None, replace=False, runner=Runner(workers=workers), quiet=quiet)


def _tell(quiet: bool, text: str) -> None:
    if not quiet:
        sys.stderr.write(text + "\n")


def weights() -> Path:
    """The folder of the demo's own small models."""
    return Path(str(files("pipelines.demo") / "weights"))


def config_text(folder: Path, seed: int, *, pdq: bool = False) -> str:
    """The demo's config with its places filled in; with `pdq` the one that fingerprints by PDQ instead."""
    clip, copy = weights() / "clip", weights() / "copy"
    if not (clip / "card.json").is_file() or not (copy / "card.json").is_file():
        raise StageError(
            "the demo's models are not here", where=str(weights()), hint="see docs/models.md to train them"
        )
    clip_card, copy_card = (json.loads((model / "card.json").read_text("utf-8")) for model in (clip, copy))
    script = copy / "copy.torchscript.pt"
    learned = f'{{engine: sscd, weights: "{script}", sha256: "{file_sha256(script)}", size: {COPY_SIZE}, fps: 2.0}}'
    return (
        (files("pipelines.demo") / "config.yaml")
        .read_text("utf-8")
        .format(
            seed=seed,
            folder=folder,
            out="run-pdq" if pdq else "run",
            clip=clip,
            clip_threshold=clip_card["threshold"],
            fingerprint="{engine: pdq, fps: 2.0}" if pdq else learned,
            threshold_image=PDQ_THRESHOLD if pdq else copy_card["threshold"],
            threshold_video=PDQ_THRESHOLD if pdq else copy_card["threshold_video"],
        )
    )


def all_verdicts(run: Run) -> pa.Table:
    """Every verdict with the place of its sample."""
    parts = []
    for unit in need_manifest(run.out, "verdicts").units:
        verdicts = tables.read(run.at("verdicts", f"{unit.name}.parquet")).replace_schema_metadata(None)
        samples = tables.read(run.at("samples", f"{unit.name}.parquet"), ["container", "position"])
        for name in ("container", "position"):
            verdicts = verdicts.append_column(name, samples[name])
        parts.append(verdicts)
    return pa.concat_tables(parts)


def show(report: dict[str, Any], out: str) -> None:
    """The report as a table."""
    width = max(100, shutil.get_terminal_size().columns)
    console = Console(width=width)
    table = Table(title=f"What was planted and what was found (seed {report['seed']})", title_justify="left")
    for name in ("filter", "planted", "caught", "precision", "recall", "look-alikes", "wrongly dropped"):
        table.add_column(name, justify="left" if name == "filter" else "right")
    beside = {f"{name} by PDQ": entry for name, entry in report["pdq"].items()}
    for name, entry in {**report["filters"], **beside}.items():
        table.add_row(
            name,
            *(str(entry[key]) for key in ("planted", "caught")),
            *("-" if entry[key] is None else f"{entry[key]:.3f}" for key in ("precision", "recall")),
            *(str(entry.get(key, "")) for key in ("hard_negatives", "hard_dropped")),
        )
    console.print(table)
    broken, lottery = report["broken"], report["resample"]["all"]
    other = broken["named"] - broken["right"]
    console.print(
        f"broken files: {broken['caught']} of {broken['planted']} failed, {other} others did", highlight=False
    )
    drawn = f"{lottery['kept']} of {lottery['drawn']} kept, {lottery['expected']:.0f} expected (z {lottery['z']})"
    rare = f"with a rare n-gram: {lottery['rare_kept']} of {lottery['rare']}"
    console.print(f"resampling: {drawn}; {rare}", highlight=False)
    entry = report["ledger"]["all"]
    dropped, failed = sum(entry["dropped"].values()), sum(entry["failed"].values())
    console.print(
        f"ledger: {entry['inputs']:,} inputs = {entry['kept']:,} kept + {dropped:,} dropped + "
        f"{entry['duplicates']:,} duplicates + {failed:,} failed",
        highlight=False,
    )
    console.print(f"{report['seconds']:,.0f} s; the report is in {out}/report.json", highlight=False)
