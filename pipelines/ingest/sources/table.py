"""Tables of text: JSONL, CSV, TSV or Parquet, one item per row; Parquet may also have media."""

from __future__ import annotations

from collections.abc import Iterator

from infra import storage
from infra.config import Source
from pipelines.ingest.sources.captions import read_texts, select_captions
from pipelines.ingest.sources.embedded_media import scan_embedded_media
from pipelines.ingest.sources.interface import (
    MembersRead,
    ReaderRecord,
    SourceReader,
    build_caption_items,
    build_item,
    file_uri,
)
from pipelines.ingest.sources.rows import Row, drop_keys, name_columns, read_positions
from pipelines.ingest.tables.streams import with_compression


class TableReader(SourceReader):
    """The reader of `format: table`."""

    suffixes = with_compression(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

    def scan(self, source: Source, container: storage.Entry) -> Iterator[ReaderRecord]:
        if source.modality != "text":
            yield from scan_embedded_media(source, container, self.scratch, self.scratch_path)
            return
        for position, row, problem in read_positions(source, file_uri(source, container.path), source.id_column):
            yield MembersRead(1)
            if row is None:
                yield build_item(source, container.path, position, fields={}, modality="text", error=problem)
                continue
            texts, fault = _read_texts(source, row)
            captions, unused = select_captions(source, texts, f"{container.path}:{position}")
            yield from build_caption_items(
                source,
                container.path,
                position,
                captions,
                unused=unused,
                mark="text",
                fields=row,
                modality="text",
                extra=drop_keys(row, (source.text_column,)),
                error=problem or fault,
            )


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
