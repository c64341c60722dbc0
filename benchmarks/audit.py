"""What an audit costs beside one pass of hashlib.sha256 over the same files. Prints one JSON object as its last line.

    python benchmarks/audit.py [--images 4000] [--texts 60000] [--rounds 5]

Inputs, made by this script from seed 0 in a temporary folder, whole runs as `reelmill export` lays them out:
- images: members of 100 to 140 kB of random bytes named .jpg (nothing is decoded), captions of ten words, JSON and txt;
  shards of 1,000 samples.
- texts: documents of 40 to 400 words, log-uniform, JSON and txt; shards of 10,000 samples.
In both a fifth of the inputs is dropped, units hold 20,000 rows, and samples, signals (two columns of scores),
verdicts, members, cards, manifests, ledger and checksums are there.

A: `audit.run` on the run, in this process. B: hashlib.sha256 over every file of the run, read in
blocks of
8 MiB, one after another. Both after a first pass that has brought the files into the page cache and imported all
modules. A B in turn, --rounds times; the least of each counts, as the machine may be shared.

vs_hashlib: wall time of A over B, images; vs_hashlib_cpu: CPU time, all threads. text_us_per_sample: wall time of A
less B, for each text sample, in microseconds (it may be negative: hashing runs in a thread of its own);
text_us_per_sample_cpu: CPU time likewise. MB/s of both sides are there to see what they are ratios of.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from filters import histogram_columns
from infra import storage, tables
from infra.commit import Unit, write_manifest
from infra.hashing import canonical_json, sample_key
from mixtures.cards import cards
from mixtures.reading.contract import RELEASED, estimate_text_tokens
from mixtures.reading.conversations import build_conversation
from mixtures.shards.series import Series
from mixtures.shards.shards import Member, write_tar
from pipelines.audit import audit
from pipelines.core.verdicts import tally

UNIT = 20_000
DROPPED = 0.2


def make(folder: Path, modality: str, count: int, shard_samples: int) -> None:
    """A run of `count` kept samples; see the top of this file."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 6)) for _ in range(5000)])
    inputs = int(count / (1 - DROPPED))
    kept = np.sort(rng.permutation(inputs)[:count])
    is_kept = np.zeros(inputs, dtype=bool)
    is_kept[kept] = True
    samples: list[dict[str, Any]] = []
    manifests: dict[str, list[Unit]] = {"samples": [], "signals": [], "verdicts": [], "members": []}
    made_of = dict.fromkeys(("samples", "signals", "verdicts"), "0" * 32)
    names: list[str] = []
    low, unit_start = 0, 0
    parts: list[tuple[str, list[Member], dict[str, Any]]] = []
    covered: list[str] = []

    def commit(stage: str, name: str, table: pa.Table) -> None:
        path = folder / stage / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        tables.write(str(path), table)
        manifests[stage].append(Unit(name, table.num_rows, storage.sha256(str(path))))

    def end_unit() -> None:
        nonlocal samples, unit_start
        name = f"u{len(manifests['samples']):06d}"
        commit("samples", name, pa.Table.from_pylist(samples, schema=tables.SAMPLES))
        mine = is_kept[unit_start : unit_start + len(samples)]
        keys = [row["key"] for row in samples]
        scores = np.round(rng.random(len(samples)), 6)
        commit("signals", name, pa.table({"key": keys, "quality.words": scores * 100, "language.english": scores}))
        rows = [{"key": k, "modality": modality, "source": "made", "outcome": "kept" if good else "dropped",
                 "filter": None if good else "quality", "reason": None if good else "short"}
                for k, good in zip(keys, mine, strict=True)]  # fmt: skip
        commit("verdicts", name, pa.Table.from_pylist(rows, schema=tables.VERDICTS))
        unit_start += len(samples)
        samples = []

    pending: list[tuple[int, list[Any]]] = []

    def end_shard(high: int) -> None:
        nonlocal parts, low
        pending.append((low, [high, parts]))
        low, parts = high, []
        if unit_start >= high:
            flush()

    def flush() -> None:
        while pending:
            start, (end, made) = pending.pop(0)
            write_shard(start, end, made)

    def write_shard(start: int, end: int, made: list[tuple[str, list[Member], dict[str, Any]]]) -> None:
        name = f"{modality}-{len(names):06d}"
        made.sort(key=lambda one: one[0])
        path = folder / "shards" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        digest, written = write_tar(path, ((key, parts_) for key, parts_, _ in made))
        rows = [{**columns, "key": w.key, "shard": name, "offset": w.offset, "size": w.size,
                 "members": [{"name": n, "offset": o, "size": s} for n, o, s in w.members]}
                for w, (_, _, columns) in zip(written, made, strict=True)]  # fmt: skip
        members = pa.Table.from_pylist(rows, schema=tables.MEMBERS)
        commit("members", name, members)
        spans, signals, verdicts = [], [], []
        for number in range(start // UNIT, (end - 1) // UNIT + 1):
            first, last = max(start - number * UNIT, 0), min(end - number * UNIT, UNIT) - 1
            mine = is_kept[number * UNIT + first : number * UNIT + last + 1]
            spans.append({"unit": f"u{number:06d}", "rows": [first, last], "kept": int(mine.sum())})
            table = tables.read(str(folder / "signals" / f"u{number:06d}.parquet")).slice(first, last - first + 1)
            signals.append(table.filter(pa.array(mine)).replace_schema_metadata(None))
            table = tables.read(str(folder / "verdicts" / f"u{number:06d}.parquet")).slice(first, last - first + 1)
            verdicts.append(table.replace_schema_metadata(None))
        ledger: Any = tally(pa.concat_tables(verdicts), {})["all"]
        card = cards.build_card(
            name=name, tar={"sha256": digest, "bytes": path.stat().st_size},
            series=Series(modality, ("jpg", "json", "txt") if modality == "image" else ("json", "txt")),
            members=members, signals=pa.concat_tables(signals), score_columns=histogram_columns([]),
            ledger=ledger, reasons={"quality: short": ledger["dropped"]["quality"]},
            made_by={"name": "made", "seed": 0, "reelmill": "0", "tables": tables.VERSION, "manifests": made_of,
                     "filters": [], "duplicates": {}, "resample": None, "models": {}, "dialogues": "none",
                     "lineage": spans},
        )  # fmt: skip
        storage.write_bytes(str(folder / "shards" / f"{name}.card.json"), canonical_json(card))
        names.append(name)

    for number in range(inputs):
        length = int(np.exp(rng.uniform(np.log(40), np.log(400)))) if modality == "text" else 10
        text = " ".join(words[rng.integers(0, len(words), length)].tolist())
        data = rng.bytes(int(rng.integers(100_000, 140_000))) if modality == "image" and is_kept[number] else b""
        sha256 = hashlib.sha256(data).hexdigest() if modality == "image" else ""
        row: dict[str, Any] = {
            "key": sample_key("made", "a.parquet", f"row={number}", sha256, text), "modality": modality,
            "source": "made", "container": "a.parquet", "position": f"row={number}", "text": text,
            "media": [{"uri": "a", "offset": 0, "length": len(data), "start_s": 0.0, "end_s": -1.0, "sha256": sha256}]
            if modality == "image" else [],
            "licence": "CC0-1.0", "origin": "made", "extra": "{}", "error": None,
        }  # fmt: skip
        samples.append(row)
        if is_kept[number]:
            parts.append(sample(row, data, text, modality))
        if len(samples) == UNIT or number == inputs - 1:
            end_unit()
            if pending and unit_start >= pending[-1][1][0]:
                flush()
        if len(parts) == shard_samples and number != inputs - 1:
            end_shard(number + 1)
    end_shard(inputs)
    flush()
    verdicts_ = [tables.read(str(p)).replace_schema_metadata(None) for p in sorted((folder / "verdicts").glob("*"))]
    whole: Any = tally(pa.concat_tables(verdicts_), {})
    whole["all"]["unsharded"] = {"inputs": 0, "kept": 0, "duplicates": 0, "dropped": {}, "failed": {}}
    storage.write_bytes(str(folder / "ledger.json"), canonical_json(whole))
    storage.write_bytes(str(folder / "samples" / "_ignored.json"), canonical_json({}))
    for stage, units in manifests.items():
        write_manifest(str(folder / stage), stage, "0" * 32, units)
    covered = [entry.path for entry in storage.list_files(str(folder))]
    sums = {path: storage.sha256(str(folder / path)) for path in covered}
    storage.write_bytes(str(folder / "checksums.json"), canonical_json(sums))


def sample(row: dict[str, Any], picture: bytes, text: str, modality: str) -> tuple[str, list[Member], dict[str, Any]]:
    """(key, parts, columns of members) as export makes them."""
    images = int(modality == "image")
    turns, kind = build_conversation(modality, text, images)
    words = estimate_text_tokens("".join(turn["value"] for turn in turns))
    media = RELEASED.media_tokens(np.array([modality], object), np.array([0.0]), np.array([images]))
    tokens = words + int(media[0])
    record = {
        "id": row["key"], "data_source": "made", "data_type": modality, "kind": kind, "conversations": turns,
        "caption": text, "licence": row["licence"], "origin": row["origin"], "container": row["container"],
        "position": row["position"], "sha256": [m["sha256"] for m in row["media"]] or [""], "width": 0, "height": 0,
        "duration": 0.0, "fps": 0.0, "n_frames": 0, "language": "", "ocr_text": "", "tokens": tokens,
    }  # fmt: skip
    members_ = [Member("jpg", data=picture)] if images else []
    members_ += [Member("json", data=canonical_json(record)), Member("txt", data=text.encode())]
    size = sum(len(member.data or b"") for member in members_)
    columns = {"modality": modality, "source": "made", "licence": row["licence"], "kind": kind, "language": "",
               "tokens": tokens, "text_tokens": words, "images": images, "seconds": 0.0, "bytes": size}  # fmt: skip
    return row["key"], members_, columns


def hash_files(folder: Path) -> int:
    """One pass of hashlib over every file; the bytes that were hashed."""
    total = 0
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        state = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(2**23):
                state.update(block)
                total += len(block)
        state.hexdigest()
    return total


def run_audit(folder: Path) -> None:
    (report,) = audit.run(str(folder), quiet=True)
    assert report.ok, report.findings[:5]


def measure_times(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(folder: Path, rounds: int) -> Iterator[tuple[float, float]]:
    """Least (audit, plain) of wall time, then of CPU time."""
    run_audit(folder)
    hash_files(folder)
    times = [
        (measure_times(lambda: run_audit(folder)), measure_times(lambda: hash_files(folder))) for _ in range(rounds)
    ]
    for which in (0, 1):
        yield min(ours[which] for ours, _ in times), min(theirs[which] for _, theirs in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--texts", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", help="make the runs here and keep them")
    arguments = parser.parse_args()
    root = Path(arguments.keep or tempfile.mkdtemp(prefix="reelmill-audit-"))
    figures: dict[str, Any] = {"images": arguments.images, "texts": arguments.texts}
    try:
        for modality, count, shard in (("image", arguments.images, 1000), ("text", arguments.texts, 10_000)):
            folder = root / modality
            if not folder.exists():
                print(f"making {count:,} samples of {modality}", file=sys.stderr)
                make(folder, modality, count, shard)
            size = hash_files(folder)
            (wall, wall_plain), (cpu, cpu_plain) = compare(folder, arguments.rounds)
            if modality == "image":
                figures["vs_hashlib"] = round(wall / wall_plain, 3)
                figures["vs_hashlib_cpu"] = round(cpu / cpu_plain, 3)
            else:
                figures["text_us_per_sample"] = round((wall - wall_plain) / count * 1e6, 2)
                figures["text_us_per_sample_cpu"] = round((cpu - cpu_plain) / count * 1e6, 2)
            figures[f"{modality}_MB"] = round(size / 1e6, 1)
            figures[f"{modality}_audit_MB_s"] = round(size / wall / 1e6, 1)
            figures[f"{modality}_hashlib_MB_s"] = round(size / wall_plain / 1e6, 1)
    finally:
        if not arguments.keep:
            shutil.rmtree(root)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
