"""Reuse cells of the store for units whose content changed.

A changed unit has a new UNITSET and thus no folder in the store, although older folders contain most of its cells. One
job joins the ids of such units with the stored ids; only ids and paths are shuffled.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from infra import beam, storage
from infra.commit import need_manifest
from infra.hashing import canonical_json, rows_fingerprint
from infra.store import Cells, content_ids
from pipelines.core.resolve import Step, ordered, resolve
from pipelines.core.run import Run

Unit = tuple[str, str]  # (name, content that the cells are keyed by)
PartPath = tuple[str, str]  # (unitset, name of the part)


def copy_stored_cells(run: Run, steps: tuple[Step, ...], units: list[str]) -> int:
    """For units without a folder in the store, copy their cells from the folders of other units, in one job.

    Returns the number of (annotator, unit) pairs without a folder; if there are none, no job runs.
    """
    resolved = resolve(run)
    stores = {name: Cells(run.store, name, resolved.makers[name]) for name in ordered(steps)}
    folders = {name: found for name, cells in stores.items() if (found := set(storage.list_folders(cells.folder)))}
    # Hashing the content of every sample only pays if the store has any cells.
    unitsets_of = {unit: _hash_unit(run, unit) for unit in units} if folders else {}
    missing: dict[str, list[Unit]] = {}
    for name, unitsets in sorted(folders.items()):
        keyed_by = resolved.annotators[name].keyed_by
        lacking: list[Unit] = [(unit, keyed_by) for unit in units if unitsets_of[unit][keyed_by] not in unitsets]
        if lacking:
            missing[name] = lacking
    if missing:
        copies = [(stores[name], lacking) for name, lacking in missing.items()]
        runner = run.runner_for(need_manifest(run.out, "samples").rows)
        beam.run("reuse cells", functools.partial(_build, run, copies), runner)
    return sum(map(len, missing.values()))


def _read_ids(run: Run, unit: str) -> dict[str, pa.Array]:
    return content_ids(run.read("samples", unit, ["modality", "text", "media"]))


def _hash_unit(run: Run, unit: str) -> dict[str, str]:
    """The unitset of a unit by the content that cells are keyed by."""
    return {keyed_by: rows_fingerprint(ids) for keyed_by, ids in _read_ids(run, unit).items()}


def _build(run: Run, copies: Sequence[tuple[Cells, Sequence[Unit]]], pipeline: Any) -> None:
    """copies: cells of an annotator, and the units that lack them."""
    import apache_beam as ab

    for cells, units in copies:
        name = cells.annotator
        stored = (
            pipeline
            | f"{name}: parts" >> ab.Create(cells.parts())
            | f"{name}: stored ids" >> ab.FlatMap(functools.partial(_stored_ids, cells))
        )
        missing = (
            pipeline
            | f"{name}: units" >> ab.Create(units)
            | f"{name}: missing ids" >> ab.FlatMap(functools.partial(_unit_ids, run))
        )
        _ = (
            {"stored": stored, "missing": missing}
            | f"{name}: join" >> ab.CoGroupByKey()
            | f"{name}: matches" >> ab.FlatMap(_match)
            | f"{name}: by unit" >> ab.GroupByKey()
            | f"{name}: copy" >> ab.Map(functools.partial(_write_part, run, cells))
            | f"{name}: sum" >> ab.CombineGlobally(sum)
            | f"{name}: report" >> ab.Map(functools.partial(_write_report, run.work("borrow", f"{name}.json")))
        )


def _stored_ids(cells: Cells, part_path: PartPath) -> Iterator[tuple[bytes, PartPath]]:
    part = cells.read_part(*part_path, [])
    return ((id_, part_path) for id_ in ([] if part is None else part["id"].to_pylist()))


def _unit_ids(run: Run, unit: Unit) -> Iterator[tuple[bytes, Unit]]:
    name, keyed_by = unit
    return ((id_, unit) for id_ in sorted(set(_read_ids(run, name)[keyed_by].to_pylist())))


def _match(group: tuple[bytes, Mapping[str, Iterable[Any]]]) -> Iterator[tuple[Unit, tuple[PartPath, bytes]]]:
    """(unit, (part, id)) for each unit that lacks an id, from the first part that has it."""
    id_, sides = group
    part_paths = sorted(sides["stored"])
    if part_paths:
        for name, keyed_by in sides["missing"]:
            yield (name, keyed_by), (tuple(part_paths[0]), id_)


def _write_part(run: Run, cells: Cells, group: tuple[Unit, Iterable[tuple[PartPath, bytes]]]) -> int:
    """Write the copies into the unit's new folder, as one part; returns their number."""
    (name, keyed_by), matches = group
    ids_of: dict[PartPath, list[bytes]] = {}
    for (unitset, part_name), id_ in matches:
        ids_of.setdefault((unitset, part_name), []).append(id_)
    copies = []
    for part_path in sorted(ids_of):
        part = cells.read_part(*part_path)
        if part is not None:
            ids = pa.array(sorted(ids_of[part_path]), type=pa.binary(16))
            copies.append(part.filter(pa.compute.is_in(part["id"], value_set=ids)))
    if not copies:
        return 0
    table = pa.concat_tables(copies)
    cells.add(_hash_unit(run, name)[keyed_by], table)
    return int(table.num_rows)


def _write_report(uri: str, rows: int) -> None:
    storage.write_bytes(uri, canonical_json({"cells": rows}))
