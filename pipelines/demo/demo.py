"""demo: make a world with planted faults, run the whole pipeline on it, and score the verdicts against the truth."""

from __future__ import annotations

import json
import os
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra import storage
from infra.beam import Runner
from infra.commit import need_manifest, read_json
from infra.errors import StageError
from infra.hashing import canonical_json, file_sha256
from infra.terminal import write_line
from pipelines.core.console import print_table, print_text
from pipelines.core.run import Run
from pipelines.decide.duplicates.settings import PDQ_THRESHOLD
from pipelines.demo.score import score
from pipelines.demo.world import make_world, read_truth
from pipelines.stages import open_for_work, run_all, run_stage

#: Entries of the report that depend on fingerprints.
BY_FINGERPRINT = ("duplicates.image", "duplicates.video")

#: Height and width in pixels of the demo copy descriptor's input: twice what it was trained on.
COPY_SIZE = 128


def run(out: str, *, seed: int, workers: int, quiet: bool, scale: float = 1.0) -> dict[str, Any]:
    """Make the world of `seed` under OUT/raw, run the whole pipeline, write OUT/report.json and return it."""
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder logs a lot; threads: none is running yet
    begun = time.time()
    folder = Path(out).resolve()
    _report_progress(quiet, f"making the world of seed {seed} in {folder / 'raw'}")
    make_world(folder, seed, workers=workers, scale=scale)
    world_ready = time.time()
    truth = read_truth(folder)
    main_run = _open(folder / "config.yaml", config_text(folder, seed), workers, quiet)
    run_all(main_run)
    report = score(truth, read_verdicts(main_run), read_json(main_run.at("ledger.json")))
    _report_progress(quiet, "running again with PDQ fingerprints: the store has all other cells")
    pdq_run = _open(folder / "config-pdq.yaml", config_text(folder, seed, pdq=True), workers, quiet)
    for stage in ("ingest", "measure", "decide"):
        run_stage(pdq_run, stage)
    pdq_report = score(truth, read_verdicts(pdq_run), read_json(pdq_run.at("ledger.json")))
    report["pdq"] = {name: entry for name, entry in pdq_report["filters"].items() if name in BY_FINGERPRINT}
    report["seed"] = seed
    report["seconds"] = round(time.time() - begun, 1)
    report["seconds_world"] = round(world_ready - begun, 1)
    storage.write_bytes(str(folder / "report.json"), canonical_json(report))
    return report


def _open(config: Path, text: str, workers: int, quiet: bool) -> Run:
    storage.write_bytes(str(config), text.encode())
    return open_for_work(str(config), out=None, replace=False, runner=Runner(workers=workers), quiet=quiet)


def _report_progress(quiet: bool, text: str) -> None:
    if not quiet:
        write_line(text)


def weights() -> Path:
    """The folder of the demo's own small models."""
    return Path(str(files("pipelines.demo") / "weights"))


def config_text(folder: Path, seed: int, *, pdq: bool = False) -> str:
    """The demo's config for a folder; with `pdq` the one that fingerprints by PDQ instead of the copy descriptor."""
    clip, copy = weights() / "clip", weights() / "copy"
    if not (clip / "card.json").is_file() or not (copy / "card.json").is_file():
        raise StageError("the demo's models are missing", where=str(weights()), hint="docs/models.md explains training")
    clip_card, copy_card = (json.loads((model / "card.json").read_text("utf-8")) for model in (clip, copy))
    script = copy / "copy.torchscript.pt"
    sscd = f'{{engine: sscd, weights: "{script}", sha256: "{file_sha256(script)}", size: {COPY_SIZE}, fps: 2.0}}'
    return (
        (files("pipelines.demo") / "config.yaml")
        .read_text("utf-8")
        .format(
            seed=seed,
            folder=folder,
            out="run-pdq" if pdq else "run",
            clip=clip,
            clip_threshold=clip_card["threshold"],
            fingerprint="{engine: pdq, fps: 2.0}" if pdq else sscd,
            threshold_image=PDQ_THRESHOLD if pdq else copy_card["threshold"],
            threshold_video=PDQ_THRESHOLD if pdq else copy_card["threshold_video"],
        )
    )


def read_verdicts(run: Run) -> pa.Table:
    """Every verdict with its sample's container and position."""
    units = []
    for unit in need_manifest(run.out, "verdicts").units:
        verdicts = run.read("verdicts", unit.name).replace_schema_metadata(None)
        samples = run.read("samples", unit.name, ["container", "position"])
        for name in ("container", "position"):
            verdicts = verdicts.append_column(name, samples[name])
        units.append(verdicts)
    return pa.concat_tables(units)


def show(report: dict[str, Any], out: str) -> None:
    """Print the report as a table and a few lines."""
    entries = {**report["filters"], **{f"{name} by PDQ": entry for name, entry in report["pdq"].items()}}
    print_table(
        f"Planted and caught faults (seed {report['seed']})",
        ["filter", "planted", "caught", "precision", "recall", "look-alikes", "wrongly dropped"],
        (
            (
                *(name, entry["planted"], entry["caught"]),
                *("-" if entry[key] is None else f"{entry[key]:.3f}" for key in ("precision", "recall")),
                *(entry.get(key) for key in ("hard_negatives", "hard_dropped")),
            )
            for name, entry in entries.items()
        ),
    )
    broken, resampled, ledger = report["broken"], report["resample"]["all"], report["ledger"]["all"]
    dropped, failed = sum(ledger["dropped"].values()), sum(ledger["failed"].values())
    print_text(
        f"broken files: {broken['caught']} of {broken['planted']} failed, and "
        f"{broken['named'] - broken['right']} other files",
        f"resampling: {resampled['kept']} of {resampled['drawn']} kept, {resampled['expected']:.0f} expected "
        f"(z {resampled['z']}); with a rare n-gram: {resampled['rare_kept']} of {resampled['rare']}",
        f"ledger: {ledger['inputs']:,} inputs = {ledger['kept']:,} kept + {dropped:,} dropped + "
        f"{ledger['duplicates']:,} duplicates + {failed:,} failed",
        f"{report['seconds']:,.0f} s; the report is in {out}/report.json",
    )
