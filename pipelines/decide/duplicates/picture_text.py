"""Text in the pictures of copies: measured before the survivor is chosen, so that the copy without a watermark stays.

Only where the config measures `overlay` under `measure.late`: the survivors would be read anyway, and here the other
members of their groups are read too. The cells are kept in the store, where the late stage finds them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from infra import beam, tables
from infra.commit import unit_index
from pipelines.core.resolve import Resolved, Step, ordered, resolve, with_dependencies
from pipelines.decide.duplicates.search import DuplicateSearch, Ids, unit_indexes, unit_rows
from pipelines.measure.measure import measure_rows

OVERLAY = "overlay"


def is_measured_late(resolved: Resolved) -> bool:
    """Whether the config measures text in pictures on kept samples."""
    return OVERLAY in ordered(resolved.late)


def measure_members(search: DuplicateSearch) -> None:
    """Add what the store lacks of text in the pictures of every member of a group."""
    if search.modality == "text" or not is_measured_late(resolve(search.run)):
        return
    units = np.unique(unit_indexes(tables.read(search.at("components.parquet"), ["row"])["row"].to_numpy()))
    names = [name for name in search.units if unit_index(name) in units]
    counters = search.at("overlay.counters.json")
    task = functools.partial(measure_unit_members, search)
    beam.run_tasks(f"duplicates {search.modality} overlay", task, names, counters, search.run.runner)


def measure_unit_members(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: the same for one unit."""
    rows = tables.read(search.at("components.parquet"), ["row"])["row"].to_numpy()
    samples = search.run.read("samples", name)
    is_member = np.zeros(samples.num_rows, dtype=bool)
    is_member[unit_rows(rows[unit_indexes(rows) == unit_index(name)])] = True
    steps = (Step(with_dependencies([OVERLAY])),)
    measurer, _ = measure_rows(search.run, steps, name, samples, is_member)
    return dict(measurer.counters)


def read_text_area(search: DuplicateSearch, unit: str, rows: Ids, signals: pa.Table) -> pa.Table:
    """`signals` of some rows of a unit with `overlay.text_area` from the store, where it is measured late; null where
    it could not be measured."""
    column = f"{OVERLAY}.text_area"
    if not is_measured_late(resolve(search.run)):
        return signals
    area = search.find_cells(unit, OVERLAY, rows, ["text_area"])["text_area"]
    signals = signals.drop_columns([column]) if column in signals.column_names else signals
    return signals.append_column(column, area)
