"""One run without what was taken down: staged whole, decided on, put in place, and what sums it up reissued."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage, tables
from infra.commit import MANIFEST, read_json, read_manifest
from infra.hashing import canonical_json, rows_fingerprint
from infra.store import content_ids
from pipelines.core import tombstones
from pipelines.core.run import Run
from pipelines.core.tombstones import Tombstones
from pipelines.decide.decide import write_ledger
from pipelines.export import export, provenance
from pipelines.export.dataset_card import list_files, write_dataset_card
from pipelines.takedown import cached_answers, rewrite_rows, rewrite_shards, rewrite_stores, staging
from pipelines.takedown.scan import TakedownScan

Rows = NDArray[np.int64]

#: Folders of RUN/work that hold texts or vectors and are made again when they are needed.
SCRATCH = ("work/inventory", "work/duplicates")

#: Stages whose sha256 later stages read.
READ = ("samples", "verdicts")


def stage(found: TakedownScan) -> dict[str, Any]:
    """Stage everything of a run that changes and decide on it; returns the journal.

    journal: files {path: sha256}; remove: folders of scratch; ids: content (hex) that the store must not hold any more;
    sets: {unitset before: unitset after}; shards: see `shards.stage`; answers: keys (hex) in the request cache.
    """
    run = found.run
    work = staging.Staging(run.out)
    after = found.list_after()
    before = {name: read_manifest(run.at(name)) for name in provenance.COVERED}
    sums: dict[str, dict[str, tuple[str, int]]] = {}
    new_verdicts: dict[str, pa.Table] = {}
    sets: dict[str, str] = {}
    for unit in found.units:
        new = _unit(found, after, unit)
        new_verdicts[unit] = new["verdicts"]
        sets |= _sets(tables.read(run.at("samples", f"{unit}.parquet")), new["samples"])
        for name, table in new.items():
            sums.setdefault(name, {})[unit] = (
                work.put(f"{name}/{unit}.parquet", rewrite_rows.as_in(run.at(name, f"{unit}.parquet"), table)),
                table.num_rows,
            )
    for name, table in _duplicates(found).items():
        sum_ = work.put(
            f"duplicates/{name}.parquet", rewrite_rows.as_in(run.at("duplicates", f"{name}.parquet"), table)
        )
        sums.setdefault("duplicates", {})[name] = (sum_, table.num_rows)
    _scratch(found, after, work)
    told = []
    if before["members"] is not None:
        told = rewrite_shards.stage(found, new_verdicts, work)
        for name in found.shards:
            uri = f"members/{name}.parquet"
            left = before_rows(before["members"], name) - len(found.shards[name])
            sums.setdefault("members", {})[name] = (work.sums[uri], left)
    rewritten = dict(after.rewritten)
    for name, changed in sums.items():
        manifest = before[name]
        assert manifest is not None
        units = [
            {"name": u.name, "rows": changed[u.name][1], "sha256": changed[u.name][0]} if u.name in changed
            else {"name": u.name, "rows": u.rows, "sha256": u.sha256}
            for u in manifest.units
        ]  # fmt: skip
        value = {"stage": manifest.stage, "input": manifest.fingerprint, "units": units}
        work.put(f"{name}/{MANIFEST}", canonical_json(value))
        for one in manifest.units if name in READ else ():
            if one.name in changed:
                rewritten[f"{name}/{one.name}.parquet"] = (changed[one.name][0], after.original_sha256(name, one))
    work.put(tombstones.FILE, Tombstones(after.erased, after.withheld, dict(sorted(rewritten.items()))).to_bytes())
    return work.decide(
        {
            "remove": list(SCRATCH),
            "ids": sorted(value.hex() for value in found.ids),
            "sets": sets,
            "shards": told,
            "answers": [key.hex() for key in cached_answers.find(found)],
        }
    )


def before_rows(manifest: Any, name: str) -> int:
    """Rows of one of a manifest's units."""
    return int(next(unit.rows for unit in manifest.units if unit.name == name))


def finish(run: Run, journal: dict[str, Any], stores_beside: tuple[str, ...]) -> list[dict[str, Any]]:
    """Put in place what was staged, and do what can only be done after; each step may be done again.

    Returns what was done to stores.
    """
    staging.apply(run.out, journal)
    for folder in journal["remove"]:
        storage.remove(storage.join(run.out, folder))
    told = [rewrite_stores.erase(uri, journal["ids"], journal["sets"]) for uri in stores_of(run, stores_beside)]
    cached_answers.forget(run, [bytes.fromhex(key) for key in journal["answers"]])
    reissue(run, journal)
    staging.finish(run.out)
    return told


def stores_of(run: Run, beside: tuple[str, ...]) -> list[str]:
    """The store that the run's config names, and those that were found beside it, each once."""
    own = str(storage.local_path(run.store).resolve()) if storage.is_local(run.store) else run.store.rstrip("/")
    return sorted({own, *beside})


def reissue(run: Run, journal: dict[str, Any]) -> None:
    """Ledger, README.md, croissant.json, pages, run.json and checksums.json from what now lies there."""
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
    held = read_json(run.at("run.json"))
    storage.write_bytes(run.at("run.json"), canonical_json({**held, "takedown": tombstones.load(run.out).summarize()}))
    if storage.is_file(run.at("checksums.json")):
        sums = read_json(run.at("checksums.json"))
        for path in changed:
            if not path.startswith("work/"):
                sums[path] = storage.sha256(run.at(path))
        storage.write_bytes(run.at("checksums.json"), canonical_json(sums))


# -- tables -----------------------------------------------------------------------------------------------------


def _unit(found: TakedownScan, after: Tombstones, unit: str) -> dict[str, pa.Table]:
    """The tables of one unit as they will be, by stage."""
    run = found.run
    gone = rows_of(found, unit)
    why = after.reasons
    new = {
        "samples": after.apply(_read(run, "samples", unit)),
        "signals": rewrite_rows.nulled(_read(run, "signals", unit), gone),
        "verdicts": rewrite_rows.verdicts(_read(run, "verdicts", unit), gone, why),
    }
    if read_manifest(run.at("late")) is not None:
        new["late"] = rewrite_rows.nulled(_read(run, "late", unit), gone)
    if read_manifest(run.at("dialogues")) is not None:
        new["dialogues"] = rewrite_rows.dialogues(_read(run, "dialogues", unit), why)
    return new


def rows_of(found: TakedownScan, unit: str) -> Rows:
    """Rows of a unit that are erased or held."""
    none = np.zeros(0, np.int64)
    return np.union1d(found.rows.get(unit, none), found.beside.get(unit, none))


def _read(run: Run, name: str, unit: str) -> pa.Table:
    return tables.read(run.at(name, f"{unit}.parquet"))


def _sets(old: pa.Table, new: pa.Table) -> dict[str, str]:
    """{unitset before: unitset after}: the store's cells are found by all that a unit holds."""
    before, after = content_ids(old), content_ids(new)
    return {rows_fingerprint(before[of]): rows_fingerprint(after[of]) for of in before}


def _duplicates(found: TakedownScan) -> dict[str, pa.Table]:
    """Tables of groups without the erased and the held."""
    manifest = read_manifest(found.run.at("duplicates"))
    gone = pa.array(sorted({**found.erased, **found.held}), pa.string())
    changed = {}
    for unit in () if manifest is None else manifest.units:
        table = _read(found.run, "duplicates", unit.name)
        mine = pc.is_in(table["key"], value_set=gone)
        if pc.any(mine).as_py():
            changed[unit.name] = table.filter(pc.invert(mine))
    return changed


def _scratch(found: TakedownScan, after: Tombstones, work: staging.Staging) -> None:
    """What RUN/work holds of these units and is needed so that a later run finds everything done."""
    run, why = found.run, after.reasons
    for unit in found.units:
        gone = rows_of(found, unit)
        for folder in ("judged", "export", "evidence"):
            uri = run.work(folder, f"{unit}.parquet")
            if not storage.is_file(uri):
                continue
            table = tables.read(uri)
            if folder == "judged":
                table = rewrite_rows.verdicts(table, gone, why)
            elif folder == "export":
                table = rewrite_rows.plan(table, gone)
            else:
                table = rewrite_rows.sheets(table, after.erased)
            work.put(f"work/{folder}/{unit}.parquet", rewrite_rows.as_in(uri, table))
