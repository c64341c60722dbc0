"""Cells for units that were never seen as they stand now, found in units that share samples with them.

A unit whose content changed has a new UNITSET, and so no folder in the store, though most of its cells are there
under older ones. One job joins the ids that are wanted with the ids that are stored; what travels are ids and places.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import beam, storage, tables
from infra.commit import need_manifest
from infra.hashing import canonical_json, rows_fingerprint
from infra.store import Cells, content_ids
from pipelines.core.resolve import Step, ordered, resolve
from pipelines.core.run import Run

Place = tuple[str, str]  # (unitset, part name)


def copy_stored_cells(run: Run, steps: tuple[Step, ...], units: list[str]) -> int:
    """Give each of these units that has no folder in the store the cells that other units' folders hold.

    Returns how many (annotator, unit) pairs were looked for; mostly none, and then no job is run.
    """
    resolved = resolve(run)
    wanted: list[tuple[str, str, str]] = []
    stored = {}
    for annotator in ordered(steps):
        if folders := set(storage.list_folders(Cells(run.store, annotator, resolved.makers[annotator]).folder)):
            stored[annotator] = folders
    # Hashing every sample's content is for a store that could give something.
    sets = {name: _unitsets(run, name) for name in units} if stored else {}
    for annotator, known in stored.items():
        of = resolved.annotators[annotator].keyed_by
        wanted += [(annotator, name, of) for name in units if sets[name][of] not in known]
    if not wanted:
        return 0
    for annotator in sorted({annotator for annotator, _, _ in wanted}):
        mine = [(name, of) for found, name, of in wanted if found == annotator]
        _join(run, annotator, resolved.makers[annotator], mine)
    return len(wanted)


def _unitsets(run: Run, name: str) -> dict[str, str]:
    ids = content_ids(tables.read(run.at("samples", f"{name}.parquet"), ["modality", "text", "media"]))
    return {of: rows_fingerprint(values) for of, values in ids.items()}


def _join(run: Run, annotator: str, maker: str, units: list[tuple[str, str]]) -> None:
    cells = Cells(run.store, annotator, maker)
    result = run.work("borrow", f"{annotator}.json")

    def build(pipeline: Any) -> object:
        import apache_beam as ab

        stored = (
            pipeline
            | "parts" >> ab.Create(cells.parts())
            | "stored ids" >> ab.FlatMap(functools.partial(_stored, cells))
        )
        asked = pipeline | "units" >> ab.Create(units) | "wanted ids" >> ab.FlatMap(functools.partial(_wanted, run))
        return (
            {"stored": stored, "asked": asked}
            | "meet" >> ab.CoGroupByKey()
            | "matches" >> ab.FlatMap(_matches)
            | "by unit" >> ab.GroupByKey()
            | "copy" >> ab.Map(functools.partial(_copy, run, cells))
            | "sum" >> ab.CombineGlobally(sum)
            | "report" >> ab.Map(functools.partial(_report, result))
        )

    beam.run(f"borrow {annotator}", build, run.runner_for(need_manifest(run.out, "samples").rows))


def _stored(cells: Cells, place: Place) -> Iterator[tuple[bytes, Place]]:
    ids = tables.read(storage.join(cells.folder, *place), ["id"])["id"]
    return ((value, place) for value in ids.to_pylist())


def _wanted(run: Run, unit: tuple[str, str]) -> Iterator[tuple[bytes, tuple[str, str]]]:
    name, of = unit
    ids = content_ids(tables.read(run.at("samples", f"{name}.parquet"), ["modality", "text", "media"]))
    return ((value, unit) for value in sorted(set(ids[of].to_pylist())))


def _matches(group: tuple[bytes, Mapping[str, Iterable[Any]]]) -> Iterator[tuple[tuple[str, str], tuple[Place, bytes]]]:
    value, sides = group
    places = sorted(sides["stored"])
    if places:
        for unit in sides["asked"]:
            yield tuple(unit), (tuple(places[0]), value)


def _copy(run: Run, cells: Cells, group: tuple[tuple[str, str], Iterable[tuple[Place, bytes]]]) -> int:
    """Write one part into the unit's new folder."""
    (name, of), found = group
    by_part: dict[Place, list[bytes]] = {}
    for place, value in found:
        by_part.setdefault((place[0], place[1]), []).append(value)
    pieces = []
    for place in sorted(by_part):
        with storage.open_read(storage.join(cells.folder, *place)) as file:
            part = pq.ParquetFile(file).read(use_threads=False)
        keep = pa.compute.is_in(part["id"], value_set=pa.array(sorted(by_part[place]), type=pa.binary(16)))
        pieces.append(part.filter(keep))
    table = pa.concat_tables(pieces)
    cells.add(_unitsets(run, name)[of], table)
    return int(table.num_rows)


def _report(uri: str, rows: int) -> None:
    storage.write_bytes(uri, canonical_json({"cells": rows}))
