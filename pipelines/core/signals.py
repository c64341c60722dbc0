"""The signals of a unit as later stages see them: the cascade's columns and those measured late."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from infra import storage, tables
from infra.commit import read_manifest
from pipelines.core.run import Run


def read_signals(run: Run, unit: str) -> pa.Table:
    """A unit's signals joined with its late columns, row by row."""
    signals = run.read("signals", unit)
    uri = run.at("late", f"{unit}.parquet")
    if read_manifest(run.at("late")) is None or not storage.is_file(uri):
        return signals
    late = tables.read(uri)
    for column in late.schema.names:
        if column not in signals.schema.names:
            signals = signals.append_column(late.schema.field(column), late[column])
        elif column != "key":  # in the cascade for some modalities, late for the others
            both = pc.coalesce(signals[column], late[column])
            signals = signals.set_column(signals.schema.get_field_index(column), late.schema.field(column), both)
    return signals
