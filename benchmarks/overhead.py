"""Overhead of the measure stage over the functions that it calls, and whether its memory grows with the corpus.
Prints one JSON object as its last line.

    python -m benchmarks.overhead [--seconds 60] [--quick] [--no-memory]

Inputs: see inputs.py; of 100 samples 92 are documents, 7 images, 1 is a clip of 3 s; images and clips have captions.
The config asks for clean-up, language, text quality, facts, motion (vectors) and duplicates in all modalities, so that
MinHash and PDQ fingerprints are measured; units as by default. Almost all samples pass all filters.

A: `pipelines.measure.measure.run` as the CLI runs it: a Beam job in this process, an empty store, tables with fsync.
B: the annotators' `measure` and the filters' `judge` in the cascade's order, on 256 rows at a time, media decoded once
   with the plans of all; the return values are discarded. No Beam, no store, no files.
Order A B B A in one process, after both have run once on a few samples, so that neither pays for imports, models or the
decoder's child. overhead: CPU seconds of A over those of B, minus 1, both with the decoder's child. Wall time is
printed too (overhead_wall), but other load on the machine affects it, and it includes A's waits for disks. A first
timing of B determines how many samples make --seconds of CPU time in its two runs.

peak_mb_small, peak_mb_large: peak resident memory of a process that measures 2,000 and one that measures 20,000
samples (50 % documents, 42 % images of 320x240, 8 % clips of half a second), with its decoder's child added; units of
about 250 and at most 1,000 rows on both sides. Inputs are made and ingested by another process.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that its path can be given, too

from benchmarks.clock import cpu
from benchmarks.sets import inputs
from infra import tables
from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, MediaRef
from pipelines.core.resolve import Resolved, resolve
from pipelines.core.run import Run, open_run
from pipelines.core.sample_media import MediaRoot, borrow_decoder, decode_limits, media_root
from pipelines.ingest import ingest
from pipelines.measure import measure

CHUNK = 256

CONFIG = """
name: overhead
store: {store}
out: {out}
units: {{target_rows: {target_rows}}}
sources:
  - {{name: texts, path: {raw}/texts, include: "*.jsonl", modality: text, licence: none}}
  - {{name: images, path: {raw}/images, include: "*.jpg", modality: image, captions: captions.jsonl, licence: none}}
  - {{name: clips, path: {raw}/clips, include: "*.mp4", modality: video, captions: captions.jsonl, licence: none}}
filters:
  caption: {{}}
  language: {{}}
  quality: {{}}
  facts: {{min_side: 32}}
  motion: {{}}
duplicates: {{image: {{}}, video: {{}}, text: {{}}}}
"""


def make(folder: Path, counts: tuple[int, int, int], bases: tuple[list[bytes], list[bytes]], target_rows: int) -> Run:
    """Inputs and their samples: `counts` documents, images and clips."""
    raw = folder / "raw"
    inputs.write_texts(raw / "texts", counts[0])
    inputs.write_media(raw / "images", "jpg", bases[0], counts[1])
    inputs.write_media(raw / "clips", "mp4", bases[1], counts[2])
    run = config(folder, "run", target_rows)
    ingest.run(run)
    return run


def config(folder: Path, name: str, target_rows: int) -> Run:
    """A run over FOLDER/raw with a store of its own."""
    places = {"raw": folder / "raw", "out": folder / name, "store": folder / f"{name}.store"}
    path = folder / f"{name}.yaml"
    path.write_text(CONFIG.format(target_rows=target_rows, **places))
    return open_run(str(path), quiet=True)


# -- A and B ----------------------------------------------------------------------------------------------------


def stage(folder: Path, name: str, target_rows: int = 50_000) -> None:
    """A."""
    run = config(folder, name, target_rows)
    shutil.copytree(folder / "run" / "samples", folder / name / "samples")
    measure.run(run)


def loop(run: Run, samples: list[pa.Table]) -> int:
    """B; returns how many rows reached the end."""
    resolved = resolve(run)
    roots = {source.name: media_root(run, source) for source in run.config.sources}
    reached = 0
    with borrow_decoder(decode_limits(resolved.measure)) as door:
        for table in samples:
            for start in range(0, table.num_rows, CHUNK):
                reached += chunk(resolved, table.slice(start, CHUNK), roots, door)
    return reached


def chunk(resolved: Resolved, rows: pa.Table, roots: dict[str, MediaRoot], door: Decoder) -> int:
    """The cascade on rows of one modality."""
    modality = rows["modality"][0].as_py()
    refs = [
        MediaRef(roots[source].locate(m["uri"]), m["offset"], m["length"], m["start_s"], m["end_s"], modality)
        for source, media in zip(rows["source"].to_pylist(), rows["media"].to_pylist(), strict=True)
        for m in media or []
    ]
    own = {name: a for name, a in resolved.annotators.items() if modality in a.modalities}
    plans = {name: a.plan for name, a in own.items() if a.input == "frames"}  # type: ignore[attr-defined]
    media: list[DecodedMedia] = []
    signals = rows.select(["key", "modality", "text"])
    done: set[str] = set()
    for step in resolved.steps:
        if step.filter is not None and modality not in step.filter.modalities:
            continue
        for name in step.annotators:
            if name in done or name not in own or not signals.num_rows:
                continue
            annotator = own[name]
            counts: list[Any] = [None] * signals.num_rows
            if annotator.input == "header":
                counts = [door.probe(ref) for ref in refs]
            elif annotator.input != "text":
                if not media:
                    streams = [(n, a) for n, a in own.items() if a.input == "stream"]
                    for ref in refs:
                        observers = {n: a.observer() for n, a in streams}  # type: ignore[attr-defined]
                        media.append(door.decode(ref, plans, observers))
                counts = media
            outputs = annotator.measure(signals, counts)
            for column in (*annotator.columns, "error"):
                signals = signals.append_column(f"{name}.{column}", outputs[column])
            done.add(name)
        if step.filter is not None:
            passed = step.filter.judge(signals).passed
            if not passed.all():
                signals = signals.filter(pa.array(passed))
                refs = [ref for ref, on in zip(refs, passed, strict=True) if on] if refs else refs
                media = [entry for entry, on in zip(media, passed, strict=True) if on] if media else media
    return int(signals.num_rows)


def timed(what: Any, *arguments: Any) -> tuple[float, float]:
    """(CPU seconds, wall seconds) of a call."""
    begun, spent = time.perf_counter(), cpu()
    what(*arguments)
    return cpu() - spent, time.perf_counter() - begun


def samples_of(run: Run) -> Iterator[pa.Table]:
    for path in sorted(Path(run.at("samples")).glob("*.parquet")):
        yield tables.read(str(path))


def overhead(folder: Path, seconds: float, quick: bool) -> dict[str, Any]:
    bases = (
        [inputs.jpeg(i) for i in range(4 if quick else 24)],
        [inputs.clip(i, inputs.CLIP_SIZES[i % 3]) for i in range(1 if quick else 9)],
    )
    first = make(folder / "first", (920, 70, 10), bases, 50_000)
    stage(folder / "first", "warm")
    few = list(samples_of(first))
    loop(first, few)
    each = timed(loop, first, few)[0] / 1000
    count = math.ceil(1.1 * seconds / 2 / each / 100)
    counts = (92 * count, 7 * count, count)
    print(f"{sum(counts)} samples of {1000 * each:.2f} ms", file=sys.stderr)
    run = make(folder / "all", counts, bases, 50_000)
    samples = list(samples_of(run))
    spent: dict[str, list[tuple[float, float]]] = {"A": [], "B": []}
    for turn, side in enumerate("ABBA"):
        if side == "A":
            spent[side].append(timed(stage, folder / "all", f"turn{turn}"))
        else:
            spent[side].append(timed(loop, run, samples))
        print(f"{side}: {spent[side][-1][0]:.2f} s of CPU, {spent[side][-1][1]:.2f} s by the clock", file=sys.stderr)
    (cpu_a, wall_a), (cpu_b, wall_b) = (tuple(map(sum, zip(*spent[side], strict=True))) for side in "AB")
    return {
        "overhead": round(cpu_a / cpu_b - 1, 4),
        "overhead_wall": round(wall_a / wall_b - 1, 4),
        "samples": sum(counts),
        "reached_end": loop(first, few) / 1000,
        "cpu_s": [round(cpu_a, 1), round(cpu_b, 1)],
        "wall_s": [round(wall_a, 1), round(wall_b, 1)],
    }


# -- memory -----------------------------------------------------------------------------------------------------


def make_only(folder: Path, count: int) -> None:
    bases = (
        [inputs.jpeg(i) for i in range(0, 16, 4)],
        [inputs.clip(i, (160, 120), seconds=0.5) for i in range(4)],
    )
    make(folder, (count // 2, count - count // 2 - count * 8 // 100, count * 8 // 100), bases, 250)


def measure_only(folder: Path) -> None:
    """In a process of its own: measure, and print the peaks of this process and of its child."""
    run = config(folder, "run", 250)
    measure.run(run)
    peaks = [_peak_mb(pid) for pid in (psutil.Process().pid, *(c.pid for c in psutil.Process().children()))]
    print(json.dumps(peaks))


def _peak_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def peak_mb(folder: Path, count: int) -> float:
    """Peak of measuring `count` samples; two processes, so that only measuring is seen."""
    for verb in ("make", "measure"):
        command = [sys.executable, __file__, "--do", verb, "--folder", str(folder), "--count", str(count)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    peaks = json.loads(done.stdout.splitlines()[-1])
    print(f"{count} samples: peaks {[round(p, 1) for p in peaks]} MB", file=sys.stderr)
    shutil.rmtree(folder)
    return float(sum(peaks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU seconds of work a side")
    parser.add_argument("--quick", action="store_true", help="a few seconds, 200 and 2,000 samples: does it work?")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--only-memory", action="store_true")
    parser.add_argument("--do", choices=("make", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.do == "make":
        return make_only(options.folder, options.count)
    if options.do == "measure":
        return measure_only(options.folder)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="reelmill-overhead-") as folder:
        if not options.only_memory:
            figures |= overhead(Path(folder) / "time", 4.0 if options.quick else options.seconds, options.quick)
        if not options.no_memory:
            small, large = (200, 2_000) if options.quick else (2_000, 20_000)
            figures["peak_mb_small"] = round(peak_mb(Path(folder) / "small", small), 1)
            figures["peak_mb_large"] = round(peak_mb(Path(folder) / "large", large), 1)
            figures["peak_ratio"] = round(figures["peak_mb_large"] / figures["peak_mb_small"], 3)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
