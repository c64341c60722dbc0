"""Tables without what was taken down: the same rows in the same order, and in place of the erased what a stage would
have written of a sample that failed before it. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra import storage, tables
from pipelines.core import tombstones as taken

Rows = NDArray[np.int64]


def as_in(uri: str, table: pa.Table) -> bytes:
    """A table that was read from `uri` and changed, to the byte as the stage that wrote it would have written it.

    Reading forgets what lists call their elements, and the order of the footer's entries; both are part of the bytes.
    """
    with storage.open_read(uri) as file:
        told = pq.ParquetFile(file).metadata.metadata
    schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(told[b"ARROW:schema"])))
    fingerprint, _, retry = tables.read_footer(uri) or ("", 0, False)
    return tables.to_bytes(table.cast(schema.remove_metadata()), fingerprint=fingerprint, retry=retry)


def nulled(table: pa.Table, rows: Rows, keep: tuple[str, ...] = ("key",)) -> pa.Table:
    """All columns but `keep` null in these rows (signals, late)."""
    take = np.arange(table.num_rows)
    gone = np.zeros(table.num_rows, dtype=bool)
    gone[rows] = True
    index = pa.array(take, mask=gone)
    columns = [table[name] if name in keep else table[name].take(index) for name in table.schema.names]
    return pa.table(columns, schema=table.schema)


def verdicts(table: pa.Table, rows: Rows, why: Mapping[str, str]) -> pa.Table:
    """Dropped by the filter "takedown", with nothing that was measured (verdicts, judged rows)."""
    reasons = [why[key] for key in table["key"].take(pa.array(rows)).to_pylist()]
    table = nulled(table, rows, ("key", "modality", "source"))
    for name, values in (("outcome", "dropped"), ("filter", taken.FILTER), ("reason", reasons)):
        table = put(table, name, rows, values)
    if "others" in table.schema.names:
        empty = pa.scalar([], type=table.schema.field("others").type)
        index = table.schema.get_field_index("others")
        table = table.set_column(
            index, table.schema.field(index), pc.if_else(_mask(table, rows), empty, table["others"])
        )
    return table


def dialogues(table: pa.Table, why: Mapping[str, str]) -> pa.Table:
    """Rejected, without turns and evidence; what they cost stays."""
    mine = pc.is_in(table["key"], value_set=pa.array(sorted(why), pa.string()))
    rows = np.flatnonzero(np.asarray(mine, dtype=bool))
    for name in ("turns", "evidence"):
        index, field = table.schema.get_field_index(name), table.schema.field(name)
        table = table.set_column(index, field, pc.if_else(mine, pa.scalar([], type=field.type), table[name]))
    keys = table["key"].take(pa.array(rows)).to_pylist()
    table = put(table, "outcome", rows, "rejected")
    return put(table, "reason", rows, [f"{taken.PREFIX}{why[key]}" for key in keys])


def plan(table: pa.Table, rows: Rows) -> pa.Table:
    """An export plan whose rows are not kept but keep their weight, so that no other row moves to another shard."""
    return put(put(table, "kept", rows, False), "caption", rows, "")


def sheets(table: pa.Table, erased: Mapping[str, str]) -> pa.Table:
    """Evidence sheets without evidence; which kinds they supported stays, as the odds of all kinds rest on it."""
    mine = pc.is_in(table["key"], value_set=pa.array(sorted(erased), pa.string()))
    index, field = table.schema.get_field_index("items"), table.schema.field("items")
    return table.set_column(index, field, pc.if_else(mine, pa.scalar([], type=field.type), table["items"]))


def put(table: pa.Table, name: str, rows: Rows, values: Any) -> pa.Table:
    """`table` with a column's values (one, or one a row) in some rows."""
    index, field = table.schema.get_field_index(name), table.schema.field(name)
    several = isinstance(values, list)
    new = pa.array(values if several else [values] * len(rows), field.type)
    changed = pc.replace_with_mask(table[name].combine_chunks(), _mask(table, rows), new)
    return table.set_column(index, field, changed)


def _mask(table: pa.Table, rows: Rows) -> pa.Array:
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[rows] = True
    return pa.array(mask)
