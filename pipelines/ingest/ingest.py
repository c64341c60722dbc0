"""ingest: sources -> samples. Take the inventory, cut it into units, read captions and hash every medium once."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from infra import beam, progress, storage, tables
from infra.columns import is_environment
from infra.commit import Manifest, Unit, collect_units, read_json, read_scratch, write_manifest, write_scratch
from infra.config import Source
from infra.engines.jobs import end_share, select_own
from infra.errors import StageError
from infra.hashing import canonical_json, fingerprint, sample_key
from pipelines.core import tombstones
from pipelines.core.at_work import note_unit
from pipelines.core.integrity import withdraw_checksums
from pipelines.core.resolve import check_measure
from pipelines.core.run import Run
from pipelines.core.sample_media import MediaRoot, media_root
from pipelines.ingest.inventory import take_inventory
from pipelines.ingest.sources.accounting import MemberAccount
from pipelines.ingest.sources.captions import describe_read_error, read_sidecars
from pipelines.ingest.sources.storable import dump_fields, get_field, to_storable_text
from pipelines.ingest.units import cut_units


def run(run: Run) -> Manifest:
    """Bring RUN/samples up to date and return its manifest."""
    return ingest_parts(run, *take_inventory(run))


def ingest_parts(run: Run, parts: Sequence[Sequence[str]], accounts: Sequence[MemberAccount] = ()) -> Manifest:
    """The same from the parts of an inventory and the accounts of its members, per source; () ignores nothing."""
    units = cut_units(run, parts)
    storage.write_bytes(run.work("units.json"), canonical_json(units))
    folder = run.at("samples")
    task = functools.partial(ingest_unit, run)
    own = select_own("ingest", sorted(units), run.runner, functools.partial(_table, run))
    with progress.watch(
        "ingest", len(units), lambda: _count_tables(folder), what="units", quiet=run.quiet, uri=run.progress("ingest")
    ):
        beam.run_tasks("ingest", task, own, run.work("ingest.counters.json"), run.runner)
    end_share(run.runner, own)
    committed_units = collect_units(folder, sorted(units), "ingest")
    _check_keys(folder, committed_units)
    members = _write_accounts(run, accounts, units)
    takedowns = tombstones.load(run.out)
    sha256s = [[unit.name, takedowns.original_sha256("samples", unit)] for unit in committed_units]
    return write_manifest(folder, "samples", fingerprint({"units": sha256s, "members": members}), committed_units)


def _write_accounts(run: Run, accounts: Sequence[MemberAccount], units: Mapping[str, Any]) -> dict[str, Any]:
    """Write samples/_members.json, the accounts by source, and _ignored.json, the ignored members by modality; returns
    the former."""
    members: dict[str, Any] = {}
    ignored: dict[str, int] = {}
    if accounts:
        _count_sidecars(run, accounts, units)
    for source, account in zip(run.config.sources, accounts, strict=bool(accounts)):
        members[source.name] = {"modality": source.modality, **account.to_json()}
        ignored[source.modality] = ignored.get(source.modality, 0) + account.ignored_members
    storage.write_bytes(run.at("samples", "_members.json"), canonical_json(members))
    storage.write_bytes(run.at("samples", "_ignored.json"), canonical_json(ignored))
    return members


def _count_sidecars(run: Run, accounts: Sequence[MemberAccount], units: Mapping[str, Any]) -> None:
    """Add the captions of files beside media, which are read with their unit, to the accounts of the sources."""
    for name, ((number,), *_) in units.items():
        counts = read_json(run.work("ingest", f"{name}.json"))["content"]
        accounts[number].inputs += counts["further_samples"]
        accounts[number].unused_captions += counts["unused_captions"]


def _count_tables(folder: str) -> int:
    return sum(name.endswith(".parquet") for name in storage.list_names(folder))


def _check_keys(folder: str, units: Sequence[Unit]) -> None:
    """Raise StageError if two samples of a unit have one key: keys are unique by construction."""
    for unit in units:
        keys = tables.read(storage.join(folder, f"{unit.name}.parquet"), ["key"])["key"]
        if len(keys.unique()) != len(keys):
            raise StageError(f"unit {unit.name} has two samples with one key", where=folder)


@dataclass(frozen=True)
class _UnitItems:
    """The items of a unit as rows, and the stamps of their files. inputs: fingerprint of what samples depend on."""

    source: Source
    rows: list[dict[str, Any]]
    stamps: list[str]
    inputs: str
    max_bytes: int


def _read_items(run: Run, name: str) -> _UnitItems:
    (number,), *slices = read_json(run.work("units.json"))[name]
    source = run.config.sources[number]
    items = pa.concat_tables([tables.read(uri).slice(start, count) for uri, start, count in slices])
    rows = items.drop_columns(["stamp"]).to_pylist()
    # Samples depend on the settings of their source, but not on its location.
    settings = source.model_dump(mode="json", exclude={"path", "mean_bytes"})
    max_bytes = check_measure(run.document, run.config).max_bytes
    inputs = fingerprint({"source": settings, "items": rows, "max_bytes": max_bytes})
    return _UnitItems(source, rows, items["stamp"].to_pylist(), inputs, max_bytes)


def _table(run: Run, name: str) -> tuple[str, str]:
    return run.at("samples", f"{name}.parquet"), _read_items(run, name).inputs


def ingest_unit(run: Run, name: str) -> Mapping[str, int]:
    """Task: write one unit's samples; a unit whose files have not changed is left as it is."""
    with note_unit(run, "ingest", name):
        return _ingest_unit(run, name)


def _ingest_unit(run: Run, name: str) -> Mapping[str, int]:
    begun = time.monotonic()
    items = _read_items(run, name)
    source, rows, inputs, max_bytes = items.source, items.rows, items.inputs, items.max_bytes
    inputs_and_stamps = fingerprint({"input": inputs, "stamps": items.stamps})
    uri, stamp_uri = run.at("samples", f"{name}.parquet"), run.work("ingest", f"{name}.json")
    takedowns = tombstones.load(run.out)
    is_done = tables.is_done(uri, inputs) and bool(read_scratch(stamp_uri, inputs_and_stamps))
    if is_done and not takedowns.has_unmarked(uri):
        return {"units_kept": 1}
    root = media_root(run, source)
    built = [sample for row in rows for sample in _build_samples(source, root, row, max_bytes)]
    samples = pa.Table.from_pylist(built, schema=tables.SAMPLES)
    unread = int(is_environment(samples["error"]).sum())
    withdraw_checksums(run)
    tables.write(uri, takedowns.apply(samples), fingerprint=inputs, retry=unread > 0)
    unused = sum(sample["unused_captions"] for sample in built) - sum(row["unused_captions"] for row in rows)
    counts = {"further_samples": len(samples) - len(rows), "unused_captions": unused}
    write_scratch(stamp_uri, inputs_and_stamps, counts)
    total_ms = int(1000 * (time.monotonic() - begun))
    return {"units_made": 1, "samples": len(samples), "environment": unread, "total_ms": total_ms}


def _build_samples(source: Source, root: MediaRoot, item: Mapping[str, Any], max_bytes: int) -> list[dict[str, Any]]:
    """The rows of samples of an item: reads its caption files, of which there may be a row for each caption, and hashes
    its media."""
    error, texts, extra = item["error"], [item["text"]], item["extra"] or "{}"
    fields: Mapping[str, Any] = {}
    unused = 0
    if item["sidecars"] and error is None and item["text"] is None:
        read = read_sidecars(source, root.source, item["container"], item["sidecars"])
        texts = [to_storable_text(text) for text in read.texts] or [None]
        fields, error, unused = read.fields, read.error, read.unused
        extra = dump_fields(fields) if fields else extra
    media = []
    for medium in item["media"] or []:
        sha256, problem = _hash_medium(root.locate(medium["uri"]), medium["offset"], medium["length"], max_bytes)
        error = error or problem
        media.append({**medium, "start_s": 0.0, "end_s": -1.0, "sha256": sha256})
    hashes = "".join(medium["sha256"] for medium in media)
    sample = {
        "modality": item["modality"],
        "source": source.name,
        "container": item["container"],
        "media": media,
        "licence": item["licence"] or get_field(fields, source.licence_column) or source.licence,
        "origin": item["origin"] or get_field(fields, source.origin_column) or source.origin,
        "extra": extra,
        "error": error,
    }
    unused += item["unused_captions"]
    positions = [f"caption={number}" for number in range(len(texts))] if len(texts) > 1 else [item["position"]]
    keys = [
        sample_key(source.name, item["container"], position, hashes, text or "")
        for position, text in zip(positions, texts, strict=True)
    ]
    rows = zip(keys, positions, texts, strict=True)
    samples = [{**sample, "key": key, "position": position, "text": text, "members": 0, "unused_captions": 0}
               for key, position, text in rows]  # fmt: skip
    samples[0].update(members=item["members"], unused_captions=unused)  # the first accounts for all
    return samples


def _hash_medium(uri: str, offset: int, length: int, max_bytes: int) -> tuple[str, str | None]:
    """(sha256 in hex, error) of a medium's bytes. One that is larger than `max_bytes` is not read."""
    try:
        size = length if length >= 0 else storage.retry(functools.partial(storage.file_size, uri)) - offset
        if size > max_bytes:
            return "", f"too_large: {size:,} bytes, more than measure.max_bytes ({max_bytes:,})"
        return storage.retry(functools.partial(storage.sha256, uri, offset, length)), None
    except OSError as error:
        return "", describe_read_error("unreadable medium:", error)
