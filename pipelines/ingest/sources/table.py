"""Tables of text: JSONL, CSV, TSV or Parquet, one item per row."""

from __future__ import annotations

from collections.abc import Iterator

from infra import storage
from infra.config import Source
from pipelines.ingest.sources.captions import join_turns
from pipelines.ingest.sources.interface import MembersRead, ReaderRecord, SourceReader, build_item, file_uri
from pipelines.ingest.sources.rows import drop_keys, get_text, read_positions


class TableReader(SourceReader):
    """The reader of `format: table`."""

    suffixes = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")

    def scan(self, source: Source, container: storage.Entry) -> Iterator[ReaderRecord]:
        for position, row, problem in read_positions(file_uri(source, container.path), source.id_column):
            yield MembersRead(1)
            if row is None:
                yield build_item(source, container.path, position, fields={}, modality="text", error=problem)
                continue
            turns = row.get("conversations") or row.get("messages")
            text = get_text(row, source.text_column)
            if text is None and isinstance(turns, list):
                text = join_turns(turns)
            if text is None and problem is None:
                problem = f"broken row: there is no text in the column {source.text_column!r}"
            extra = drop_keys(row, (source.text_column,))
            yield build_item(
                source, container.path, position, fields=row, text=text, modality="text", extra=extra, error=problem
            )
