"""status: what a run is at, from its files alone, for another process and another machine."""

from __future__ import annotations

import time
from typing import Any

from infra import progress, storage
from infra.commit import find_json, read_holder, read_manifest
from infra.errors import StageError
from pipelines.core import at_work
from pipelines.core.console import print_table, print_text

#: Folders of the stages in order, with the verbs that write them.
STAGES = (
    ("samples", "ingest"), ("signals", "measure"), ("verdicts", "decide"), ("late", "decide (measure.late)"),
    ("dialogues", "annotate"), ("members", "export"),
)  # fmt: skip

#: Units at work that are shown, the longest first (ours).
MAX_UNITS = 10


def run(folder: str) -> dict[str, Any]:
    """Read what the commands at work in a run have noted. Ages are by this machine's clock. Raises StageError where the
    folder is no run."""
    if not (storage.is_file(storage.join(folder, ".lock")) or storage.list_folders(folder)):
        raise StageError("this is no run: it contains nothing", where=folder)
    now = time.time()
    holder = read_holder(folder)
    stages = []
    for name, verb in STAGES:
        manifest = read_manifest(storage.join(folder, name))
        if manifest is not None:
            retry = [unit.name for unit in manifest.units if unit.retry]
            stages.append({"stage": verb, "units": len(manifest.units), "rows": manifest.rows, "again": retry})
    notes = storage.join(folder, "work", "progress")
    jobs = [_describe_job(record, now) for name in storage.list_names(notes)
            if isinstance(record := find_json(storage.join(notes, name)), dict)]  # fmt: skip
    units = [{**note, "seconds": round(now - note["since"])} for note in at_work.read(folder)]
    return {
        "run": folder,
        "command": None if holder is None else {**holder, "seconds": round(now - holder["time"])},
        "stages": stages,
        "jobs": sorted(jobs, key=lambda job: job["begun"]),
        "units": sorted(units, key=lambda unit: -unit["seconds"]),
    }


def _describe_job(record: dict[str, Any], now: float) -> dict[str, Any]:
    """A job's note with its rate, in `what` per second, and the seconds left; None where nothing is done yet."""
    seconds = record["time"] - record["begun"]
    rate = (record["done"] - record["first"]) / seconds if seconds > 0 else 0.0
    left = round((record["total"] - record["done"]) / rate) if rate > 0 else None
    return {**record, "rate": round(rate, 3), "left": left, "seconds": round(now - record["time"])}


def show(status: dict[str, Any]) -> None:
    """Print it for a person."""
    command = status["command"]
    if command is None:
        print_text("no command holds this run")
    else:
        print_text(f"process {command['pid']} on {command['host']} is at work; heard {command['seconds']:,} s ago")
    if status["stages"]:
        rows = [
            (s["stage"], s["units"], s["rows"], len(s["again"]), ", ".join(s["again"][:3])) for s in status["stages"]
        ]
        columns = ("stage", "units", "rows", "to be done again", "such as")
        print_table("Finished stages", columns, rows, left_aligned=("stage", "such as"))
    jobs = [job for job in status["jobs"] if job["state"] == progress.AT_WORK]
    if jobs:
        table = [
            (job["job"], f"{job['done']:,} of {job['total']:,} {job['what']}", f"{job['rate']:,.1f}/s",
             None if job["left"] is None else f"{job['left']:,} s", f"{job['seconds']:,} s ago")
            for job in jobs
        ]  # fmt: skip
        print_table("Jobs", ("job", "done", "rate", "left", "heard"), table)
    units = status["units"][:MAX_UNITS]
    if units:
        table = [(unit["stage"], unit["unit"], f"{unit['seconds']:,} s", unit["pid"], unit["host"]) for unit in units]
        print_table(
            f"Units at work ({len(status['units']):,}), the longest first", ("stage", "unit", "for", "process", "host"),
            [(*row[:3], str(row[3]), row[4]) for row in table], left_aligned=("stage", "unit", "host"),
        )  # fmt: skip
