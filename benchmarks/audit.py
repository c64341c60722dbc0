"""Time an audit against one pass of hashlib.sha256 over the same files. Prints one JSON object as its last line.

    python -m benchmarks.audit [--images 4000] [--texts 60000] [--rounds 5]

The script makes two whole runs from seed 0 in a temporary folder, laid out as `reelmill export` does:
- images: members of 100 to 140 kB of random bytes named .jpg (nothing is decoded), captions of ten words, JSON and txt;
  shards of 1,000 samples.
- texts: documents of 40 to 400 words, log-uniform, JSON and txt; shards of 10,000 samples.
In both a fifth of the inputs is dropped and units have 20,000 rows. The runs contain samples, signals (two columns of
scores), verdicts, members, cards, manifests, ledger and checksums.

A: `audit.run` on the run, in this process. B: hashlib.sha256 over every file of the run, sequentially in blocks of
8 MiB. Both follow a first pass that brings the files into the page cache and imports all modules. A and B alternate,
--rounds times; the minimum of each counts, because the machine may be shared.

vs_hashlib: wall time of A over B, images; vs_hashlib_cpu: CPU time, all threads. text_us_per_sample: wall time of A
minus B per text sample, in microseconds (may be negative: hashing runs in a thread of its own);
text_us_per_sample_cpu: the same in CPU time. MB/s of both sides are printed so that the ratios can be judged.
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
from string import ascii_lowercase
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

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


class Draft(NamedTuple):
    """A kept sample on its way into a shard. columns: its row of the members table, without its position."""

    key: str
    members: list[Member]
    columns: dict[str, Any]


class RunWriter:
    """Writes a run of `count` kept samples; the docstring of the module says how it is made."""

    def __init__(self, folder: Path, modality: str, count: int) -> None:
        self.folder, self.modality = folder, modality
        self.rng = np.random.default_rng(0)
        self.words = np.array(["".join(self.rng.choice(list(ascii_lowercase), 6)) for _ in range(5000)])
        self.inputs = int(count / (1 - DROPPED))
        self.is_kept = np.zeros(self.inputs, dtype=bool)
        self.is_kept[self.rng.permutation(self.inputs)[:count]] = True
        self.manifests: dict[str, list[Unit]] = {"samples": [], "signals": [], "verdicts": [], "members": []}

    def write(self, shard_samples: int) -> None:
        for start, end, drafts in self._write_units(shard_samples):
            self._write_shard(start, end, drafts)
        self._write_ledger()
        storage.write_bytes(str(self.folder / "samples" / "_ignored.json"), canonical_json({}))
        for stage, units in self.manifests.items():
            write_manifest(str(self.folder / stage), stage, "0" * 32, units)
        paths = [entry.path for entry in storage.list_files(str(self.folder))]
        checksums = {path: storage.sha256(str(self.folder / path)) for path in paths}
        storage.write_bytes(str(self.folder / "checksums.json"), canonical_json(checksums))

    def _write_units(self, shard_samples: int) -> list[tuple[int, int, list[Draft]]]:
        """Draw all inputs and commit their units; returns (first input, end, drafts) of each shard."""
        shards: list[tuple[int, int, list[Draft]]] = []
        rows: list[dict[str, Any]] = []
        drafts: list[Draft] = []
        start = 0
        for number in range(self.inputs):
            row, picture = self._draw_sample(number)
            rows.append(row)
            if self.is_kept[number]:
                drafts.append(build_draft(row, picture, self.modality))
            is_last = number == self.inputs - 1
            if len(rows) == UNIT or is_last:
                self._commit_unit(rows, self.is_kept[number + 1 - len(rows) : number + 1])
                rows = []
            if len(drafts) == shard_samples or is_last:
                shards.append((start, number + 1, drafts))
                start, drafts = number + 1, []
        return shards

    def _draw_sample(self, number: int) -> tuple[dict[str, Any], bytes]:
        """Input `number` as a row of samples, and the bytes of its image (empty for a text or a dropped image)."""
        is_image = self.modality == "image"
        length = 10 if is_image else int(np.exp(self.rng.uniform(np.log(40), np.log(400))))
        text = " ".join(self.words[self.rng.integers(0, len(self.words), length)].tolist())
        picture = b""
        if is_image and self.is_kept[number]:
            picture = self.rng.bytes(int(self.rng.integers(100_000, 140_000)))
        sha256 = hashlib.sha256(picture).hexdigest() if is_image else ""
        medium = {"uri": "a", "offset": 0, "length": len(picture), "start_s": 0.0, "end_s": -1.0, "sha256": sha256}
        return {
            "key": sample_key("made", "a.parquet", f"row={number}", sha256, text), "modality": self.modality,
            "source": "made", "container": "a.parquet", "position": f"row={number}", "text": text,
            "media": [medium] if is_image else [],
            "licence": "CC0-1.0", "origin": "made", "extra": "{}", "error": None,
            "members": 1, "unused_captions": 0,
        }, picture  # fmt: skip

    def _commit_unit(self, rows: list[dict[str, Any]], is_kept: NDArray[np.bool_]) -> None:
        name = f"u{len(self.manifests['samples']):06d}"
        self._commit("samples", name, pa.Table.from_pylist(rows, schema=tables.SAMPLES))
        keys = [row["key"] for row in rows]
        scores = np.round(self.rng.random(len(rows)), 6)
        self._commit(
            "signals", name, pa.table({"key": keys, "quality.words": scores * 100, "language.english": scores})
        )
        verdicts = [{"key": key, "modality": self.modality, "source": "made", "outcome": "kept" if kept else "dropped",
                     "filter": None if kept else "quality", "reason": None if kept else "short"}
                    for key, kept in zip(keys, is_kept, strict=True)]  # fmt: skip
        self._commit("verdicts", name, pa.Table.from_pylist(verdicts, schema=tables.VERDICTS))

    def _commit(self, stage: str, name: str, table: pa.Table) -> None:
        path = self.folder / stage / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        tables.write(str(path), table)
        self.manifests[stage].append(Unit(name, table.num_rows, storage.sha256(str(path))))

    def _write_shard(self, start: int, end: int, drafts: list[Draft]) -> None:
        """Write tar, members and card of the kept samples among the inputs from `start` up to `end`."""
        name = f"{self.modality}-{len(self.manifests['members']):06d}"
        drafts.sort(key=lambda draft: draft.key)
        path = self.folder / "shards" / f"{name}.tar"
        path.parent.mkdir(exist_ok=True)
        digest, written = write_tar(path, ((draft.key, draft.members) for draft in drafts))
        rows = [{**draft.columns, "key": sample.key, "shard": name, "offset": sample.offset, "size": sample.size,
                 "members": [{"name": n, "offset": o, "size": s} for n, o, s in sample.members]}
                for sample, draft in zip(written, drafts, strict=True)]  # fmt: skip
        members = pa.Table.from_pylist(rows, schema=tables.MEMBERS)
        self._commit("members", name, members)
        spans, signals, verdicts = self._read_inputs(start, end)
        ledger: Any = tally(verdicts, {})["all"]
        card = cards.build_card(
            name=name, tar={"sha256": digest, "bytes": path.stat().st_size},
            series=Series(self.modality, ("jpg", "json", "txt") if self.modality == "image" else ("json", "txt")),
            members=members, signals=signals, score_columns=histogram_columns([]),
            ledger=ledger, reasons={"quality: short": ledger["dropped"]["quality"]}, unused_captions=0,
            made_by={"name": "made", "seed": 0, "reelmill": "0", "tables": tables.VERSION,
                     "manifests": dict.fromkeys(("samples", "signals", "verdicts"), "0" * 32),
                     "filters": [], "duplicates": {}, "resample": None, "models": {}, "dialogues": "none",
                     "lineage": spans},
        )  # fmt: skip
        storage.write_bytes(str(self.folder / "shards" / f"{name}.card.json"), canonical_json(card))

    def _read_inputs(self, start: int, end: int) -> tuple[list[dict[str, Any]], pa.Table, pa.Table]:
        """(spans of units, signals of the kept rows, verdicts of all rows) of the inputs from `start` up to `end`."""
        spans, signals, verdicts = [], [], []
        for number in range(start // UNIT, (end - 1) // UNIT + 1):
            first, last = max(start - number * UNIT, 0), min(end - number * UNIT, UNIT) - 1
            is_kept = self.is_kept[number * UNIT + first : number * UNIT + last + 1]
            kept = (first + np.flatnonzero(is_kept)).tolist()
            spans.append({"unit": f"u{number:06d}", "rows": [kept[0], kept[-1]] if kept else [], "kept": len(kept)})
            table = tables.read(str(self.folder / "signals" / f"u{number:06d}.parquet"))
            rows = table.slice(first, last - first + 1).filter(pa.array(is_kept))
            signals.append(rows.replace_schema_metadata(None))
            table = tables.read(str(self.folder / "verdicts" / f"u{number:06d}.parquet"))
            verdicts.append(table.slice(first, last - first + 1).replace_schema_metadata(None))
        return spans, pa.concat_tables(signals), pa.concat_tables(verdicts)

    def _write_ledger(self) -> None:
        paths = sorted((self.folder / "verdicts").glob("*"))
        verdicts = [tables.read(str(path)).replace_schema_metadata(None) for path in paths]
        ledger: Any = tally(pa.concat_tables(verdicts), {})
        ledger["all"]["unsharded"] = {"inputs": 0, "kept": 0, "duplicates": 0, "dropped": {}, "failed": {}}
        storage.write_bytes(str(self.folder / "ledger.json"), canonical_json(ledger))


def build_draft(row: dict[str, Any], picture: bytes, modality: str) -> Draft:
    """A kept row of samples with the members that export gives it. picture: bytes of an image."""
    images = int(modality == "image")
    text = row["text"]
    turns, kind = build_conversation(modality, text, images)
    words = estimate_text_tokens("".join(turn["value"] for turn in turns))
    media = RELEASED.media_tokens(np.array([modality], object), np.array([0.0]), np.array([images]))
    tokens = words + int(media[0])
    record = {
        "id": row["key"], "data_source": "made", "data_type": modality, "kind": kind, "conversations": turns,
        "caption": text, "licence": row["licence"], "origin": row["origin"], "container": row["container"],
        "position": row["position"], "sha256": [m["sha256"] for m in row["media"]] or [""], "width": 0, "height": 0,
        "duration": 0.0, "fps": 0.0, "n_frames": 0, "pixel_aspect": 0.0,
        "language": "", "ocr_text": "", "tokens": tokens,
    }  # fmt: skip
    members = [Member("jpg", content=picture)] if images else []
    members += [Member("json", content=canonical_json(record)), Member("txt", content=text.encode())]
    size = sum(len(member.content or b"") for member in members)
    columns = {"modality": modality, "source": "made", "licence": row["licence"], "kind": kind, "language": "",
               "tokens": tokens, "text_tokens": words, "images": images, "seconds": 0.0, "bytes": size}  # fmt: skip
    return Draft(row["key"], members, columns)


def hash_files(folder: Path) -> int:
    """Hash every file once with hashlib; returns the number of bytes."""
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
    """Run `work` and return its (wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare(folder: Path, rounds: int) -> Iterator[tuple[float, float]]:
    """Yield the minimum (audit, hashlib) of wall time, then of CPU time, in seconds."""
    run_audit(folder)
    hash_files(folder)
    times = [
        (measure_times(lambda: run_audit(folder)), measure_times(lambda: hash_files(folder))) for _ in range(rounds)
    ]
    for clock in (0, 1):
        yield min(audited[clock] for audited, _ in times), min(hashed[clock] for _, hashed in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--texts", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", help="folder that keeps the runs for the next call")
    arguments = parser.parse_args()
    root = Path(arguments.keep or tempfile.mkdtemp(prefix="reelmill-audit-"))
    figures: dict[str, Any] = {"images": arguments.images, "texts": arguments.texts}
    try:
        for modality, count, shard in (("image", arguments.images, 1000), ("text", arguments.texts, 10_000)):
            folder = root / modality
            if not folder.exists():
                print(f"making {count:,} samples of {modality}", file=sys.stderr)
                RunWriter(folder, modality, count).write(shard)
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
