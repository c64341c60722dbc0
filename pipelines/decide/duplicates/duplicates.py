"""Find duplicates among rows that passed their filters: link similar rows, group linked rows, choose survivors.

RUN/duplicates contains the groups, one table per modality and partition. RUN/work/duplicates/MODALITY contains the
intermediate files: sample/, times/, centroids.npy, cells/ (vectors by cell), hits/ (frames by pair of videos), bands/
(texts by band), edges/, components.parquet, unread/ (members that the environment kept from being read), ranks/
(members by group) and by-unit/ (the groups' rows by unit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from infra import tables
from infra.commit import collect_units, need_manifest, read_scratch, unit_index, write_manifest, write_scratch
from infra.hashing import fingerprint
from infra.media.interface import MODALITIES
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import ENVIRONMENT
from pipelines.decide.duplicates import components, picture_text, survivors, texts, vectors, videos
from pipelines.decide.duplicates.search import DuplicateSearch, unit_indexes


def run(run: Run, units: Sequence[str], inputs: str) -> list[str]:
    """Write RUN/duplicates. `inputs`: fingerprint of the judged tables (RUN/work/judged) and the settings.

    Returns a fingerprint for each modality of whose members the environment kept some from being read.
    """
    tables_: list[str] = []
    unread: list[str] = []
    for modality in MODALITIES:
        settings = resolve(run).duplicates.for_modality(modality)
        if settings is None:
            continue
        stamp = fingerprint([inputs, modality, settings.model_dump(mode="json"), run.config.seed])
        search = DuplicateSearch(run, modality, tuple(units), stamp)
        write_scratch(search.at("units.json"), "", list(units))
        complete = _search(search)
        search = picture_text.measure_members(complete)
        if search != complete:
            unread.append(search.inputs)
        search.run_tasks("ranks", survivors.write_ranks, search.units)
        search.run_tasks("survivors", survivors.write_survivors, search.partition_names)
        tables_ += [f"{modality}-{name}" for name in search.partition_names]
    folder = run.at("duplicates")
    groups = collect_units(folder, tables_, "decide")
    write_manifest(folder, "duplicates", fingerprint([inputs, [unit.sha256 for unit in groups]]), groups)
    return unread


def count_lost_cells(run: Run, unit: str) -> Mapping[str, int]:
    """Task: count the rows of a unit that the search needs and whose fingerprints the store lacks, under its name."""
    count = 0
    for modality in MODALITIES:
        if resolve(run).duplicates.for_modality(modality) is not None:
            search = DuplicateSearch(run, modality, (unit,), "")
            annotator = "minhash" if modality == "text" else "fingerprint"
            count += search.count_lost(unit, annotator, search.read_row_ids(unit))
    return {unit: count} if count else {}


def _search(search: DuplicateSearch) -> DuplicateSearch:
    """Link and group one modality's rows; returns the search with its partitions."""
    if search.modality == "text":
        search = texts.partition(search)
        search.run_tasks("bands", texts.write_bands, search.units)
        search.run_tasks("buckets", texts.link_bands, search.partition_names)
    else:
        search = vectors.partition(search)
        search.run_tasks("cells", vectors.write_cells, search.units)
        if search.modality == "image":
            search.run_tasks("search", vectors.link_partition, search.partition_names)
        else:
            search.run_tasks("search", videos.write_hits, search.partition_names)
            search.run_tasks("match", videos.match_partition, search.partition_names)
    components.write_components(search)
    return search


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
