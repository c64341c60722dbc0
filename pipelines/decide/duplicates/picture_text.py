"""Text in the pictures of copies: measured before the survivor is chosen, so that the copy without a watermark stays.

Only where the config measures `overlay` under `measure.late`: the survivors would be read anyway, and here the other
members of their groups are read too. The cells are kept in the store, where the late stage finds them.

A member that the environment kept from being read is no worse for it: it fails for this run, and as the fingerprint of
the search covers it, the next run reads it and chooses again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import storage, tables
from infra.columns import is_environment
from infra.commit import unit_index
from infra.engines.jobs import Phase
from pipelines.core.environment import request_ingest
from pipelines.core.resolve import Resolved, Step, ordered, resolve, with_dependencies
from pipelines.decide.duplicates.search import DuplicateSearch, Ids, unit_indexes, unit_rows
from pipelines.measure.measure import measure_rows

OVERLAY = "overlay"

#: Members that the environment kept from being read, with "ANNOTATOR: KIND: detail".
UNREAD = pa.schema([("row", pa.uint64()), ("reason", pa.string())])


def is_measured_late(resolved: Resolved) -> bool:
    """Whether the config measures text in pictures on kept samples."""
    return OVERLAY in ordered(resolved.late)


def make_phase(search: DuplicateSearch) -> Phase:
    """The phase that adds what the store lacks of text in the pictures of every member of a group."""
    finish = functools.partial(_cover_unread, search)
    return search.phase("overlay", measure_unit_members, _list_units_of_members, finish=finish)


def _list_units_of_members(search: DuplicateSearch) -> Sequence[str]:
    storage.remove(search.at("unread"))
    if not is_measured_late(resolve(search.run)):
        return []
    units = np.unique(unit_indexes(tables.read(search.at("components.parquet"), ["row"])["row"].to_numpy()))
    return [name for name in search.units if unit_index(name) in units]


def _cover_unread(search: DuplicateSearch, _: Mapping[str, int] | None) -> None:
    """Make the fingerprint of the search cover the members that the environment kept from being read, if any."""
    folder = search.at("unread")
    if unread := [[name, storage.sha256(storage.join(folder, name))] for name in storage.list_names(folder)]:
        search.cover_unread(unread)


def measure_unit_members(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: add them for one unit."""
    rows = tables.read(search.at("components.parquet"), ["row"])["row"].to_numpy()
    rows = rows[unit_indexes(rows) == unit_index(name)]
    samples = search.run.read("samples", name)
    is_member = np.zeros(samples.num_rows, dtype=bool)
    is_member[unit_rows(rows)] = True
    step = Step(with_dependencies([OVERLAY]))
    measurer, media = measure_rows(search.run, (step,), name, samples, is_member)
    if media.environment["changed"]:
        request_ingest(search.run, name)
    signals = measurer.build_signals().take(pa.array(unit_rows(rows)))
    errors = [signals[f"{annotator}.error"] for annotator in step.annotators]
    named = [
        pc.if_else(pa.array(is_environment(error)), pc.binary_join_element_wise(annotator, error, ": "), None)
        for annotator, error in zip(step.annotators, errors, strict=True)
    ]
    unread = pa.table({"row": rows, "reason": pc.coalesce(*named)}, schema=UNREAD).drop_null()
    if unread.num_rows:
        tables.write(search.at("unread", f"{name}.parquet"), unread)
    return dict(measurer.counters)


def read_unread(search: DuplicateSearch, unit: str) -> dict[int, str]:
    """Reasons by row of the unit: the members of a unit that the environment kept from being read."""
    uri = search.at("unread", f"{unit}.parquet")
    if not storage.is_file(uri):
        return {}
    unread = tables.read(uri)
    return dict(zip(unit_rows(unread["row"].to_numpy()).tolist(), unread["reason"].to_pylist(), strict=True))


def read_text_area(search: DuplicateSearch, unit: str, rows: Ids, signals: pa.Table) -> pa.Table:
    """`signals` of some rows of a unit with `overlay.text_area` from the store, where it is measured late; null where
    it could not be measured."""
    column = f"{OVERLAY}.text_area"
    if not is_measured_late(resolve(search.run)):
        return signals
    area = search.find_cells(unit, OVERLAY, rows, ["text_area"])["text_area"]
    signals = signals.drop_columns([column]) if column in signals.column_names else signals
    return signals.append_column(column, area)
