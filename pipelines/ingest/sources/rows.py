"""Rows of JSON, JSONL, CSV, TSV and Parquet files, each with a position or the error that it failed with."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from pipelines.ingest.sources.interface import MAX_TEXT_BYTES, make_unique
from pipelines.ingest.sources.storable import to_storable_text

Row = dict[str, Any]


def read_positions(uri: str, id_column: str | None) -> Iterator[tuple[str, Row | None, str | None]]:
    """(unique position, row, error) of each row; the row is None where it could not be read. A position is the row's
    id, or its number where it has none."""
    used: set[str] = set()
    for number, row, error in read_rows(uri):
        position = f"row={number}"
        if error is not None or not isinstance(row, dict):
            yield make_unique(position, used, "@row"), None, error or "broken row: not an object"
            continue
        problem = None
        if id_column and row.get(id_column) is not None:
            position = to_storable_text(str(row[id_column]))
            if position in used:
                problem = f"duplicate member: the id {position!r} stands in this table twice"
        yield make_unique(position, used, f"@row={number}"), row, problem


def read_rows(uri: str) -> Iterator[tuple[int, Any, str | None]]:
    """(number, row, error) of each row."""
    name = uri.lower()
    with storage.open_read(uri) as file:
        if name.endswith(".parquet"):
            yield from _parquet_rows(file)
        elif name.endswith((".csv", ".tsv")):
            yield from _csv_rows(file, "\t" if name.endswith(".tsv") else ",")
        elif name.endswith(".json"):
            yield from _json_rows(file)
        else:
            yield from _json_lines(file)


def _csv_rows(file: Any, delimiter: str) -> Iterator[tuple[int, Any, str | None]]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
    csv.field_size_limit(MAX_TEXT_BYTES)  # the library's own 128 KiB would end the table at a long document
    number = -1
    try:
        for number, row in enumerate(csv.DictReader(text, delimiter=delimiter)):
            yield number, {k: v for k, v in row.items() if isinstance(k, str)}, None
    except csv.Error as error:
        yield number + 1, None, f"broken row: {error}"


def _json_rows(file: Any) -> Iterator[tuple[int, Any, str | None]]:
    try:
        content = json.loads(file.read())
    except (ValueError, RecursionError) as error:
        yield 0, None, f"unreadable table: {error}"
        return
    for number, row in enumerate(content if isinstance(content, list) else [content]):
        yield number, row, None


def _json_lines(file: Any) -> Iterator[tuple[int, Any, str | None]]:
    for number, line in enumerate(iter(lambda: file.readline(MAX_TEXT_BYTES + 1), b"")):
        if len(line) > MAX_TEXT_BYTES:
            yield number, None, f"too_large: the row has over {MAX_TEXT_BYTES} bytes"
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_TEXT_BYTES)
        elif line.strip():
            try:
                yield number, json.loads(line.decode("utf-8-sig", "replace")), None
            except (ValueError, RecursionError) as error:
                yield number, None, f"broken row: {error}"


def _parquet_rows(file: Any) -> Iterator[tuple[int, Any, str | None]]:
    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield number, row, None
                number += 1
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: text that is not Unicode
        yield number, None, f"unreadable table: {error}"


def get_text(row: Mapping[str, Any], column: str) -> str | None:
    """A column's text; None if it is not a string."""
    text = row.get(column)
    return text if isinstance(text, str) else None


def drop_keys(row: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """The other fields of a row."""
    return {key: value for key, value in row.items() if key not in keys}
