"""Tables of text: JSONL, CSV, TSV or Parquet, one item per row; Parquet may also have media."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from infra import storage
from infra.config import Source
from pipelines.ingest.sources.captions import read_texts
from pipelines.ingest.sources.embedded_media import scan_embedded_media
from pipelines.ingest.sources.interface import ReaderRecord, SourceReader
from pipelines.ingest.sources.row_items import RowContent, scan_rows
from pipelines.ingest.sources.rows import Row, drop_keys, name_columns
from pipelines.ingest.tables.streams import with_compression


class TableReader(SourceReader):
    """The reader of `format: table`."""

    suffixes = with_compression(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

    def scan(self, source: Source, container: storage.Entry) -> Iterator[ReaderRecord]:
        if source.modality != "text":
            return scan_embedded_media(source, container, self.scratch, self.scratch_path)
        return scan_rows(source, container, functools.partial(_read_row, source), modality="text", mark="text")


def _read_row(source: Source, row: Row) -> RowContent:
    texts, fault = _read_texts(source, row)
    return RowContent(texts, fault, {"modality": "text", "extra": drop_keys(row, (source.text_column,))})


def _read_texts(source: Source, row: Row) -> tuple[list[str], str | None]:
    """(texts, error) of a row. A list of texts may be the paragraphs of a document: the config decides."""
    texts, fault = read_texts(row, (source.text_column,), "text", 0)
    if len(texts) > 1 and "many" not in source.captions.model_fields_set:
        column = f"the column {source.text_column!r}"
        return [], f"broken row: {column} has a list of {len(texts)} texts, set captions.many to use it"
    if not texts and not fault:
        columns = name_columns(row)
        fault = f"broken row: there is no text in the column {source.text_column!r}; the row has {columns}"
    return texts, fault
