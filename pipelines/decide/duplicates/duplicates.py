"""Find duplicates among rows that passed their filters: link similar rows, group linked rows, choose survivors.

RUN/duplicates contains the groups, one table per modality and partition. RUN/work/duplicates/MODALITY contains the
intermediate files: sample/, times/, centroids.npy, cells/ (vectors by cell), hits/ (frames by pair of videos), bands/
(texts by band), edges/, components.parquet, unread/ (members that the environment kept from being read), ranks/
(members by group) and by-unit/ (the groups' rows by unit).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from infra import storage, tables
from infra.commit import (
    collect_units,
    need_manifest,
    read_json,
    read_manifest,
    read_scratch,
    unit_index,
    write_manifest,
    write_scratch,
)
from infra.engines.jobs import Phase, run_phases
from infra.hashing import canonical_json, fingerprint
from infra.media.interface import MODALITIES
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import ENVIRONMENT
from pipelines.decide.duplicates import components, picture_text, survivors, texts, vectors, videos
from pipelines.decide.duplicates.search import DuplicateSearch, list_partitions, list_units, unit_indexes

#: The file that names the searches some of whose members could not be read.
_UNREAD = "unread.json"


def run(run: Run, units: Sequence[str], inputs: str) -> None:
    """Write RUN/duplicates, in a job of its own. `inputs`: as of `list_phases`."""
    samples = read_manifest(run.at("samples"))
    runner = run.runner_for(0 if samples is None else samples.rows)
    run_phases("duplicates", list_phases(run, units, inputs), runner, run.work("phases", "duplicates"))


def list_phases(run: Run, units: Sequence[str], inputs: str) -> list[Phase]:
    """The phases that write RUN/duplicates. `inputs`: fingerprint of the judged tables (RUN/work/judged) and the
    settings."""
    phases, searches = [], []
    for modality in MODALITIES:
        settings = resolve(run).duplicates.for_modality(modality)
        if settings is None:
            continue
        stamp = fingerprint([inputs, modality, settings.model_dump(mode="json"), run.config.seed])
        search = DuplicateSearch(run, modality, tuple(units), stamp)
        searches.append(search)
        phases += [
            *_list_links(search),
            components.make_phase(search),
            *([] if modality == "text" else [picture_text.make_phase(search)]),
            search.phase("ranks", survivors.write_ranks, list_units),
            search.phase("survivors", survivors.write_survivors, list_partitions),
        ]
    task = functools.partial(write_groups, run, searches, inputs)
    return [*phases, Phase("duplicates", functools.partial(list, ["groups"]), task)]


def write_groups(run: Run, searches: Sequence[DuplicateSearch], inputs: str, _: str) -> Mapping[str, int]:
    """Task: write the manifest of the groups, and note the searches some of whose members could not be read."""
    names: list[str] = []
    unread: list[str] = []
    for search in searches:
        write_scratch(search.at("units.json"), "", list(search.units))
        unread += [search.read_cut().inputs] if search.has_unread else []
        names += [f"{search.modality}-{name}" for name in search.read_cut().partition_names]
    folder = run.at("duplicates")
    groups = collect_units(folder, names, "decide")
    write_manifest(folder, "duplicates", fingerprint([inputs, [unit.sha256 for unit in groups]]), groups)
    storage.write_bytes(run.work("duplicates", _UNREAD), canonical_json(unread))
    return {}


def cover_unread(run: Run, stamp: str) -> str:
    """A fingerprint of what follows from the groups, which the next run finds out of date where members of groups could
    not be read, for no fault of their own."""
    unread = read_json(run.work("duplicates", _UNREAD))
    return fingerprint([stamp, unread]) if unread else stamp


def count_lost_cells(run: Run, unit: str) -> Mapping[str, int]:
    """Task: count the rows of a unit that the search needs and whose fingerprints the store lacks, under its name."""
    count = 0
    for modality in MODALITIES:
        if resolve(run).duplicates.for_modality(modality) is not None:
            search = DuplicateSearch(run, modality, (unit,), "")
            annotator = "minhash" if modality == "text" else "fingerprint"
            count += search.count_lost(unit, annotator, search.read_row_ids(unit))
    return {unit: count} if count else {}


def _list_links(search: DuplicateSearch) -> list[Phase]:
    """The phases that link one modality's rows."""
    if search.modality == "text":
        return texts.list_phases(search)
    cells = vectors.list_phases(search)
    if search.modality == "image":
        return [*cells, search.phase("search", vectors.link_partition, list_partitions)]
    return [
        *cells,
        search.phase("search", videos.write_hits, list_partitions),
        search.phase("match", videos.match_partition, list_partitions),
    ]


def fail_unread(run: Run, name: str, judged: pa.Table) -> pa.Table:
    """A unit's judged rows, with those failed that the environment kept from being read for the search."""
    unread: dict[int, str] = {}
    for modality in MODALITIES:
        if resolve(run).duplicates.for_modality(modality) is not None:
            unread |= picture_text.read_unread(DuplicateSearch(run, modality, (), ""), name)
    if not unread:
        return judged
    rows = judged.to_pylist()
    for row, reason in unread.items():
        rows[row].update(outcome="failed", filter=ENVIRONMENT, reason=reason)
    return pa.Table.from_pylist(rows, schema=judged.schema)


def read_unit(run: Run, name: str) -> dict[str, dict[str, Any]]:
    """Read the rows of RUN/duplicates that belong to a unit, by key."""
    rows: dict[str, dict[str, Any]] = {}
    for groups in need_manifest(run.out, "duplicates").units:
        modality, _, partition = groups.name.partition("-")
        uri = run.work("duplicates", modality, "by-unit", f"{partition}.parquet")
        units = read_scratch(run.work("duplicates", modality, "units.json"), "") or []
        try:
            table = tables.read_group(uri, units.index(name))
        except tables.DAMAGE:  # RUN/work was cleared or is damaged
            table = run.read("duplicates", groups.name)
            table = table.filter(pa.array(unit_indexes(table["row"].to_numpy()) == unit_index(name)))
        rows.update({row["key"]: row for row in table.to_pylist()})
    return rows
