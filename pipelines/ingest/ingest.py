"""ingest: sources -> samples. Lists, scans, cuts into units, hashes every medium once."""

from __future__ import annotations

import functools
import hashlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from infra import beam, progress, storage, tables
from infra.commit import Manifest, Unit, committed, read_json, unit_name, write_manifest
from infra.config import Source
from infra.errors import StageError
from infra.hashing import canonical_json, digest, fingerprint, sample_key
from pipelines.core import tombstones
from pipelines.core.run import Run
from pipelines.core.sample_media import source_root
from pipelines.ingest.sources import inventory

#: Expected bytes of an item where the config names none (ours); units are cut from this, never from the data.
MEAN_BYTES = {"video": 8 * 2**20, "image": 256 * 2**10, "multi_image": 2**20, "text": 4 * 2**10}

#: Rows of an inventory part, and containers scanned by one task.
PART_ROWS = 20_000


@dataclass(frozen=True)
class Slice:
    """`count` rows from `start` of an inventory part."""

    part: str
    start: int
    count: int


def run(run: Run) -> Manifest:
    """Bring RUN/samples up to date and return its manifest."""
    return ingest_parts(run, *take_inventory(run))


def ingest_parts(run: Run, parts: Sequence[Sequence[str]], ignored: Mapping[str, int]) -> Manifest:
    """The same from inventory parts (tables of inventory.ITEMS), listed by source."""
    units = _cut(run, parts)
    storage.write_bytes(run.work("units.json"), canonical_json(units))
    result = run.work("ingest.counters.json")
    folder = run.at("samples")
    task = functools.partial(ingest_unit, run)
    with progress.watch("ingest", len(units), lambda: _committed(folder), what="units", quiet=run.quiet):
        beam.run_tasks("ingest", task, sorted(units), result, run.runner)
    there = committed(folder, sorted(units), "ingest")
    _no_two_keys(folder, there)
    storage.write_bytes(storage.join(folder, "_ignored.json"), canonical_json(ignored))
    gone = tombstones.load(run.out)
    stamp = fingerprint({"units": [[u.name, gone.original_sha256("samples", u)] for u in there], "ignored": ignored})
    return write_manifest(folder, "samples", stamp, there)


def _committed(folder: str) -> int:
    return sum(name.endswith(".parquet") for name in storage.names(folder))


def _source_facts(source: Source) -> dict[str, object]:
    """What of a source's settings its samples depend on; not where it lies."""
    return source.model_dump(mode="json", exclude={"path", "mean_bytes"})


# -- inventory --------------------------------------------------------------------------------------------------


def take_inventory(run: Run) -> tuple[list[list[str]], dict[str, int]]:
    """Write the inventory of every source and return its parts per source, and what is ignored per modality."""
    parts: list[list[str]] = []
    ignored: dict[str, int] = {}
    tasks: list[str] = []
    plan: list[list[str]] = []
    for number, source in enumerate(run.config.sources):
        listing = inventory.list_source(source)
        ignored[source.modality] = ignored.get(source.modality, 0) + listing.ignored
        if inventory.is_folder(source, listing):
            uris = _write_parts(run.work("inventory"), f"s{number:03d}-000000", iter(listing.items))
            parts.append(uris)
            plan.append([])
            continue
        rows = [{"path": e.path, "size": e.size, "stamp": e.stamp} for e in listing.containers]
        storage.write_bytes(run.work("inventory", f"s{number:03d}.json"), canonical_json(rows))
        mine = [f"{number}:{i}" for i in range(len(rows))]
        tasks += mine
        plan.append(mine)
        parts.append([])
    beam.run_tasks(
        "inventory",
        functools.partial(scan_container, run),
        tasks,
        run.work("inventory.counters.json"),
        run.runner_for(len(tasks) * PART_ROWS),
    )
    for number, mine in enumerate(plan):
        for task in mine:
            parts[number] += list(read_json(run.work("inventory", f"{_task_name(task)}.parts.json")))
    return parts, ignored


def _task_name(task: str) -> str:
    number, index = task.split(":")
    return f"s{int(number):03d}-{int(index):06d}"


def scan_container(run: Run, task: str) -> Mapping[str, int]:
    """Task: the items of one tar or table, as inventory parts."""
    number, index = (int(part) for part in task.split(":"))
    source = run.config.sources[number]
    row = read_json(run.work("inventory", f"s{number:03d}.json"))[index]
    entry = storage.Entry(row["path"], row["size"], row["stamp"])
    name = _task_name(task)
    uris = _write_parts(run.work("inventory"), name, inventory.scan(source, entry))
    storage.write_bytes(run.work("inventory", f"{name}.parts.json"), canonical_json(uris))
    return {"containers": 1}


def _write_parts(folder: str, name: str, items: Iterator[inventory.SourceItem]) -> list[str]:
    uris: list[str] = []
    rows: list[dict[str, object]] = []

    def flush() -> None:
        uri = storage.join(folder, f"{name}-{len(uris):05d}.parquet")
        tables.write(uri, pa.Table.from_pylist(rows, schema=inventory.ITEMS))
        uris.append(uri)
        rows.clear()

    for item in items:
        rows.append(item.row())
        if len(rows) >= PART_ROWS:
            flush()
    if rows:
        flush()
    return uris


# -- units ------------------------------------------------------------------------------------------------------


def _cut(run: Run, parts: Sequence[Sequence[str]]) -> dict[str, list[list[object]]]:
    """{unit name: [source number, [part, start, count], …]}: boundaries depend on the inventory and the config only."""
    units: dict[str, list[list[object]]] = {}
    for number, (source, uris) in enumerate(zip(run.config.sources, parts, strict=True)):
        cutter = Cutter.of(source, run.config.units.target_bytes, run.config.units.target_rows)
        slices: list[Slice] = []
        for uri in uris:
            items = tables.read(uri, ["container", "position", "size"])
            start = 0
            for end in cutter.boundaries(items):
                slices.append(Slice(uri, start, end - start))
                units[unit_name(len(units))] = [[number], *[[s.part, s.start, s.count] for s in slices]]
                slices, start = [], end
            if start < items.num_rows:
                slices.append(Slice(uri, start, items.num_rows - start))
        if slices:
            units[unit_name(len(units))] = [[number], *[[s.part, s.start, s.count] for s in slices]]
    return units


@dataclass
class Cutter:
    """Cuts a stream of items after those whose 64-bit hash is 0 modulo `modulus`, and always at 4 × target."""

    source: str
    target_bytes: int
    target_rows: int
    modulus: int
    bytes: int = 0
    rows: int = 0

    @classmethod
    def of(cls, source: Source, target_bytes: int, target_rows: int) -> Cutter:
        mean = source.mean_bytes or MEAN_BYTES[source.modality]
        items = max(1, min(target_bytes // mean, target_rows))
        return cls(source.name, target_bytes, target_rows, 2 ** math.ceil(math.log2(items)))

    def boundaries(self, items: pa.Table) -> list[int]:
        """Ends of the units that end within `items`."""
        ends = []
        columns = (items[name].to_pylist() for name in ("container", "position", "size"))
        for index, (container, position, size) in enumerate(zip(*columns, strict=True)):
            self.bytes += size
            self.rows += 1
            name = digest(self.source.encode(), container.encode(), position.encode(), size=8)
            full = self.bytes >= 4 * self.target_bytes or self.rows >= 4 * self.target_rows
            if full or int.from_bytes(name, "little") % self.modulus == 0:
                ends.append(index + 1)
                self.bytes = self.rows = 0
        return ends


# -- units to samples -------------------------------------------------------------------------------------------


def ingest_unit(run: Run, name: str) -> Mapping[str, int]:
    """Task: one unit's samples. Media is read once, to hash it; a unit whose files have not changed is left alone."""
    begun = time.monotonic()
    (number,), *slices = read_json(run.work("units.json"))[name]
    source = run.config.sources[number]
    items = pa.concat_tables([tables.read(uri).slice(start, count) for uri, start, count in slices])
    uri = run.at("samples", f"{name}.parquet")
    seen = run.work("ingest", f"{name}.json")
    content = items.drop_columns(["stamp"]).to_pylist()
    inputs = fingerprint({"source": _source_facts(source), "items": content})
    stamps = fingerprint({"input": inputs, "stamps": items["stamp"].to_pylist()})
    gone = tombstones.load(run.out)
    if (
        tables.is_done(uri, inputs)
        and storage.is_file(seen)
        and read_json(seen) == stamps
        and not gone.has_unmarked(uri)
    ):
        return {"units_kept": 1}
    root = source_root(source)
    rows = [_sample(source, root, item) for item in content]
    tables.write(uri, gone.apply(pa.Table.from_pylist(rows, schema=tables.SAMPLES)), fingerprint=inputs)
    storage.write_bytes(seen, canonical_json(stamps))
    return {"units_made": 1, "samples": len(rows), "total_ms": int(1000 * (time.monotonic() - begun))}


def _sample(source: Source, root: str, item: dict[str, object]) -> dict[str, object]:
    error = item["error"]
    text = item["text"]
    extra = str(item["extra"] or "{}")
    fields: Mapping[str, Any] = {}
    sidecars = list(item["sidecars"] or [])  # type: ignore[call-overload]
    if sidecars and error is None and text is None:
        found, fields, error = inventory.read_sidecars(root, sidecars)
        text = None if found is None else inventory.valid(found)
        if fields:
            extra = canonical_json(inventory.jsonable(fields)).decode().strip()
    media = []
    hashes = []
    for medium in item["media"] or []:  # type: ignore[attr-defined]
        digest_hex, problem = _hash(storage.join(root, medium["uri"]), medium["offset"], medium["length"])
        error = error or problem
        hashes.append(digest_hex)
        media.append({**medium, "start_s": 0.0, "end_s": -1.0, "sha256": digest_hex})
    key = sample_key(
        source.name, str(item["container"]), str(item["position"]), "".join(hashes), str(text) if text else ""
    )
    return {
        "key": key,
        "modality": item["modality"],
        "source": source.name,
        "container": item["container"],
        "position": item["position"],
        "media": media,
        "text": text,
        "licence": item["licence"] or _field(fields, source.licence_column) or source.licence,
        "origin": item["origin"] or _field(fields, source.origin_column) or source.origin,
        "extra": extra,
        "error": error,
    }


def _field(fields: Mapping[str, Any], name: str | None) -> str | None:
    value = fields.get(name) if name else None
    return None if value is None else inventory.valid(str(value))


def _hash(uri: str, offset: int, length: int) -> tuple[str, str | None]:
    state = hashlib.sha256()
    try:
        for block in storage.blocks(uri, offset, length):
            state.update(block)
    except OSError as error:
        return "", f"unreadable medium: {error.strerror or error}"
    return state.hexdigest(), None


def _no_two_keys(folder: str, units: Sequence[Unit]) -> None:
    """Keys are unique by construction; within a unit this is cheap to hold against the rows."""
    for unit in units:
        keys = tables.read(storage.join(folder, f"{unit.name}.parquet"), ["key"])["key"]
        if len(keys.unique()) != len(keys):
            raise StageError(f"unit {unit.name} has two samples with one key", where=folder)
