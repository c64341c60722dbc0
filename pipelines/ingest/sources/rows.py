"""Rows of JSON, JSONL, CSV, TSV and Parquet files, each with a position or the error that it failed with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from infra.config import Source
from infra.errors import BadSample
from pipelines.ingest.sources.interface import make_unique
from pipelines.ingest.sources.storable import to_storable_text
from pipelines.ingest.tables.delimited import read_delimited
from pipelines.ingest.tables.json_rows import read_json
from pipelines.ingest.tables.parquet import read_parquet
from pipelines.ingest.tables.streams import open_text, open_unpacked, starts_as_json, strip_compression

Row = dict[str, Any]

_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
_CSV_SUFFIXES = (".csv", ".tsv")

#: Names of columns in a message (ours).
_MAX_NAMES = 12


def read_positions(
    source: Source, uri: str, id_column: str | None, media: Sequence[str] = ()
) -> Iterator[tuple[str, Row | None, str | None]]:
    """(unique position, row, error) of each row; the row is None where it could not be read. A position is the row's
    id, or its number where it has none. media: columns of a Parquet file whose cells stay bytes."""
    used: set[str] = set()
    for number, row, error in read_rows(uri, text_column=source.text_column, encoding=source.encoding, media=media):
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


def read_rows(
    uri: str, *, text_column: str | None = None, encoding: str | None = None, media: Sequence[str] = ()
) -> Iterator[tuple[int, Any, str | None]]:
    """(number, row, error) of each row. text_column: where a CSV has its text. encoding: of a table that is text.

    A table that cannot be read on has a last row with the error. Raises OSError where the storage is at fault.
    """
    name = strip_compression(uri)
    number = 0
    try:
        if name.endswith(".parquet"):
            rows = read_parquet(uri, text_column, media)
        else:
            rows = _read_text(uri, name, text_column, encoding)
        for number, row, error in rows:
            yield number, row, error
            number += 1
    except (BadSample, UnicodeError) as error:
        yield number, None, str(error) if isinstance(error, BadSample) else f"unreadable table: {error}"


def _read_text(
    uri: str, name: str, text_column: str | None, encoding: str | None
) -> Iterator[tuple[int, Any, str | None]]:
    with open_unpacked(uri) as file:
        is_json = name.endswith(_JSON_SUFFIXES) or (not name.endswith(_CSV_SUFFIXES) and starts_as_json(file))
        with open_text(file, encoding) as text:
            yield from read_json(text, name) if is_json else read_delimited(text, name, text_column)


def ends_table(error: str) -> bool:
    """Whether the error of a row says that the table cannot be read on."""
    return error.startswith(("unreadable table", "too_large: the table"))


def name_columns(names: Collection[str]) -> str:
    """Names of columns, for a message."""
    shown = [name[:40] for name in list(names)[:_MAX_NAMES]]
    return ", ".join(map(repr, shown)) + (", …" if len(names) > _MAX_NAMES else "") if shown else "no columns"


def drop_keys(row: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """The other fields of a row."""
    return {key: value for key, value in row.items() if key not in keys}
