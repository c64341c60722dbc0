"""Rewrite tables: the same rows in the same order, but with the rows of samples that are taken down as a stage writes
them for a sample that failed before it. Pure."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra import storage, tables
from infra.columns import to_mask
from pipelines.core import tombstones

RowNumbers = NDArray[np.int64]


def encode_table(uri: str, table: pa.Table) -> bytes:
    """Encode a table that was read from `uri` and changed, byte for byte as the stage that wrote `uri` would.

    Reading drops the names of list elements and the order of the footer's entries; both are part of the bytes.
    """
    with storage.open_read(uri) as file:
        metadata = pq.ParquetFile(file).metadata.metadata
    schema = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(metadata[b"ARROW:schema"])))
    fingerprint, _, retry = tables.read_footer(uri) or ("", 0, False)
    return tables.to_bytes(table.cast(schema.remove_metadata()), fingerprint=fingerprint, retry=retry)


def erase_columns(table: pa.Table, rows: RowNumbers, keep: tuple[str, ...] = ("key",)) -> pa.Table:
    """Set all columns but `keep` to null in these rows (signals, late)."""
    index = pa.array(np.arange(table.num_rows), mask=to_row_mask(table, rows))
    columns = [table[name] if name in keep else table[name].take(index) for name in table.schema.names]
    return pa.table(columns, schema=table.schema)


def drop_verdicts(table: pa.Table, rows: RowNumbers, reasons: Mapping[str, str]) -> pa.Table:
    """Drop these rows by the filter "takedown", without anything measured (verdicts, judged). reasons: by key."""
    row_reasons = [reasons[key] for key in table["key"].take(pa.array(rows)).to_pylist()]
    table = erase_columns(table, rows, ("key", "modality", "source"))
    for name, cells in (("outcome", "dropped"), ("filter", tombstones.FILTER), ("reason", row_reasons)):
        table = put(table, name, rows, cells)
    return _empty_lists(table, "others", to_row_mask(table, rows)) if "others" in table.schema.names else table


def reject_dialogues(table: pa.Table, reasons: Mapping[str, str]) -> pa.Table:
    """Reject the dialogues of these keys and remove their turns and evidence; what they cost is kept."""
    mask = _match_keys(table, reasons)
    rows = np.flatnonzero(mask)
    table = _empty_lists(_empty_lists(table, "turns", mask), "evidence", mask)
    keys = table["key"].take(pa.array(rows)).to_pylist()
    table = put(table, "outcome", rows, "rejected")
    return put(table, "reason", rows, [f"{tombstones.PREFIX}{reasons[key]}" for key in keys])


def drop_from_plan(table: pa.Table, rows: RowNumbers) -> pa.Table:
    """Mark rows of an export plan as not kept. They keep their weight, so that no other row moves to another shard."""
    return put(put(table, "kept", rows, False), "caption", rows, "")


def erase_evidence(table: pa.Table, keys: Collection[str]) -> pa.Table:
    """Remove the evidence of these keys. The kinds that it supported stay: the odds of all kinds depend on them."""
    return _empty_lists(table, "items", _match_keys(table, keys))


def put(table: pa.Table, name: str, rows: RowNumbers, cells: Any) -> pa.Table:
    """Set a column in some rows; cells: one for all rows, or a list with one for each."""
    index, field = table.schema.get_field_index(name), table.schema.field(name)
    new = pa.array(cells if isinstance(cells, list) else [cells] * len(rows), field.type)
    mask = pa.array(to_row_mask(table, rows))
    return table.set_column(index, field, pc.replace_with_mask(table[name].combine_chunks(), mask, new))


def to_row_mask(table: pa.Table, rows: RowNumbers) -> NDArray[np.bool_]:
    """bool (n,): row numbers as a mask."""
    mask = np.zeros(table.num_rows, dtype=bool)
    mask[rows] = True
    return mask


def _match_keys(table: pa.Table, keys: Collection[str]) -> NDArray[np.bool_]:
    return to_mask(pc.is_in(table["key"], value_set=pa.array(sorted(keys), pa.string())))


def _empty_lists(table: pa.Table, name: str, mask: NDArray[np.bool_]) -> pa.Table:
    index, field = table.schema.get_field_index(name), table.schema.field(name)
    return table.set_column(index, field, pc.if_else(pa.array(mask), pa.scalar([], type=field.type), table[name]))
