"""Rewrite one run without the samples that are taken down: stage all files, commit, move them, reissue the totals."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra import storage, tables
from infra.commit import MANIFEST, Manifest, read_json, read_manifest
from infra.hashing import canonical_json, rows_fingerprint
from infra.store import content_ids
from pipelines.core import tombstones
from pipelines.core.finished_run import read_run_json
from pipelines.core.integrity import COVERED
from pipelines.core.run import Run
from pipelines.core.tombstones import Tombstones
from pipelines.decide.decide import write_ledger
from pipelines.export import export
from pipelines.export.dataset_card import list_files, write_dataset_card
from pipelines.takedown import cached_answers, rewrite_rows, rewrite_shards, rewrite_stores, staging
from pipelines.takedown.discover import normalise
from pipelines.takedown.scan import TakedownScan

#: Folders of RUN/work that contain texts or vectors and are recomputed when they are needed; the damaged files may
#: contain anything.
SCRATCH = ("work/inventory", "work/duplicates", "work/damaged")

#: Stages whose sha256 later stages use as input.
INPUTS = ("samples", "verdicts")


def stage(scan: TakedownScan) -> dict[str, Any]:
    """Stage all changes of a run and commit them; returns the journal.

    journal: files {path: sha256}; remove: scratch folders; ids: content ids (hex) to remove from stores;
    sets: {unitset before: unitset after}; shards: see `rewrite_shards.stage`; answers: keys (hex) in the request cache.
    """
    run, after = scan.run, scan.merge_tombstones()
    work = staging.Staging(run.out)
    manifests = {name: read_manifest(run.at(name)) for name in COVERED}
    #: stage -> unit -> (sha256, rows) of rewritten tables
    changed: dict[str, dict[str, tuple[str, int]]] = {}
    verdicts: dict[str, pa.Table] = {}
    sets: dict[str, str] = {}
    for unit in scan.units:
        new = _rewrite_unit(scan, after, unit)
        verdicts[unit] = new["verdicts"]
        sets |= _match_unitsets(run.read("samples", unit), new["samples"])
        for name, table in new.items():
            changed.setdefault(name, {})[unit] = _put_table(run, work, name, unit, table), table.num_rows
    for unit, table in _rewrite_duplicates(scan).items():
        changed.setdefault("duplicates", {})[unit] = _put_table(run, work, "duplicates", unit, table), table.num_rows
    _rewrite_work(scan, after, work)
    shards = []
    if (members := manifests["members"]) is not None:
        shards = rewrite_shards.stage(scan, verdicts, work)
        rows = {unit.name: unit.rows for unit in members.units}
        for name, keys in scan.shards.items():
            changed.setdefault("members", {})[name] = work.sums[f"members/{name}.parquet"], rows[name] - len(keys)
    rewritten = dict(after.rewritten)
    for name, sums in changed.items():
        manifest = manifests[name]
        assert manifest is not None
        work.put(f"{name}/{MANIFEST}", _encode_manifest(manifest, sums))
        for entry in manifest.units if name in INPUTS else ():
            if entry.name in sums:
                rewritten[f"{name}/{entry.name}.parquet"] = (sums[entry.name][0], after.original_sha256(name, entry))
    work.put(tombstones.FILE, Tombstones(after.erased, after.withheld, dict(sorted(rewritten.items()))).to_bytes())
    return work.commit(
        {
            "remove": list(SCRATCH),
            "ids": sorted(id_.hex() for id_ in scan.ids),
            "sets": sets,
            "shards": shards,
            "answers": [key.hex() for key in cached_answers.find(scan)],
        }
    )


def finish(run: Run, journal: dict[str, Any], stores_beside: tuple[str, ...]) -> list[dict[str, Any]]:
    """Move the staged files into place and do everything that must follow; safe to repeat.

    Returns what was removed from each store.
    """
    staging.apply(run.out, journal)
    for folder in journal["remove"]:
        storage.remove(storage.join(run.out, folder))
    erased = [rewrite_stores.erase(uri, journal["ids"], journal["sets"]) for uri in list_stores(run, stores_beside)]
    cached_answers.forget(run, [bytes.fromhex(key) for key in journal["answers"]])
    _reissue(run, journal)
    staging.finish(run.out)
    return erased


def list_stores(run: Run, beside: tuple[str, ...]) -> list[str]:
    """The store of the run's config and the discovered stores, each once."""
    return sorted({normalise(run.store), *beside})


def _reissue(run: Run, journal: dict[str, Any]) -> None:
    """Rewrite ledger, README.md, croissant.json, pages, run.json and checksums.json from the files in place."""
    verdicts, members = (read_manifest(run.at(name)) for name in ("verdicts", "members"))
    assert verdicts is not None
    units = [unit.name for unit in verdicts.units]
    write_ledger(run, units)
    changed = {*journal["files"], "ledger.json"}
    if members is not None:
        names = [unit.name for unit in members.units]
        export.write_unsharded_counts(run, units)
        write_dataset_card(run, names)
        changed |= set(list_files(names))
    run_json = {**read_run_json(run.out), "takedown": tombstones.load(run.out).summarize()}
    storage.write_bytes(run.at("run.json"), canonical_json(run_json))
    if storage.is_file(run.at("checksums.json")):
        sums = read_json(run.at("checksums.json"))
        sums |= {path: storage.sha256(run.at(path)) for path in changed if not path.startswith("work/")}
        storage.write_bytes(run.at("checksums.json"), canonical_json(sums))


# -- tables -----------------------------------------------------------------------------------------------------


def _put_table(run: Run, work: staging.Staging, stage: str, unit: str, table: pa.Table) -> str:
    """Stage a rewritten table; returns its sha256."""
    path = f"{stage}/{unit}.parquet"
    return work.put(path, rewrite_rows.encode_table(run.at(path), table))


def _encode_manifest(manifest: Manifest, sums: dict[str, tuple[str, int]]) -> bytes:
    units = []
    for unit in manifest.units:
        sha256, rows = sums.get(unit.name, (unit.sha256, unit.rows))
        units.append({"name": unit.name, "rows": rows, "sha256": sha256})
    return canonical_json({"stage": manifest.stage, "input": manifest.fingerprint, "units": units})


def _rewrite_unit(scan: TakedownScan, after: Tombstones, unit: str) -> dict[str, pa.Table]:
    """The new tables of one unit, by stage."""
    run, rows, reasons = scan.run, scan.changed_rows(unit), after.reasons
    new = {
        "samples": after.apply(run.read("samples", unit)),
        "signals": rewrite_rows.erase_columns(run.read("signals", unit), rows),
        "verdicts": rewrite_rows.drop_verdicts(run.read("verdicts", unit), rows, reasons),
    }
    if read_manifest(run.at("late")) is not None:
        new["late"] = rewrite_rows.erase_columns(run.read("late", unit), rows)
    if read_manifest(run.at("dialogues")) is not None:
        new["dialogues"] = rewrite_rows.reject_dialogues(run.read("dialogues", unit), reasons)
    return new


def _match_unitsets(old: pa.Table, new: pa.Table) -> dict[str, str]:
    """{unitset before: unitset after}: the store names the cells of a unit by the content ids of all its samples."""
    before, after = content_ids(old), content_ids(new)
    return {rows_fingerprint(before[kind]): rows_fingerprint(after[kind]) for kind in before}


def _rewrite_duplicates(scan: TakedownScan) -> dict[str, pa.Table]:
    """The tables of duplicates that contain an erased or withheld key, without those keys."""
    manifest = read_manifest(scan.run.at("duplicates"))
    keys = pa.array(sorted({**scan.erased, **scan.withheld}), pa.string())
    changed = {}
    for unit in () if manifest is None else manifest.units:
        table = scan.run.read("duplicates", unit.name)
        listed = pc.is_in(table["key"], value_set=keys)
        if pc.any(listed).as_py():
            changed[unit.name] = table.filter(pc.invert(listed))
    return changed


def _rewrite_work(scan: TakedownScan, after: Tombstones, work: staging.Staging) -> None:
    """Rewrite the tables of RUN/work by which a later run recognises that its work is done."""
    for unit in scan.units:
        rows = scan.changed_rows(unit)
        for folder in ("judged", "export", "evidence"):
            uri = scan.run.work(folder, f"{unit}.parquet")
            if not tables.is_readable(uri):
                storage.remove(uri)  # if it exists, it is damaged; a later run makes it again
                continue
            table = tables.read(uri)
            if folder == "judged":
                table = rewrite_rows.drop_verdicts(table, rows, after.reasons)
            elif folder == "export":
                table = rewrite_rows.drop_from_plan(table, rows)
            else:
                table = rewrite_rows.erase_evidence(table, after.erased)
            work.put(f"work/{folder}/{unit}.parquet", rewrite_rows.encode_table(uri, table))
