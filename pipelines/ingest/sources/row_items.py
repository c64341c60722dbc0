"""Items of the rows of a table: what every reader of tables does with a row, once the reader has said what is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra import storage
from infra.config import Source
from pipelines.ingest.sources.captions import select_captions
from pipelines.ingest.sources.interface import MembersRead, ReaderRecord, build_caption_items, build_item, file_uri
from pipelines.ingest.sources.rows import Row, read_positions


@dataclass(frozen=True)
class RowContent:
    """texts: of one sample, of which `captions.many` selects. further: fields of `build_item` beside text and error."""

    texts: Sequence[str]
    error: str | None
    further: Mapping[str, Any] = field(default_factory=dict)


def scan_rows(
    source: Source,
    container: storage.Entry,
    read_content: Callable[[Row], RowContent],
    *,
    modality: str | None = None,
    mark: str = "caption",
    media_columns: Sequence[str] = (),
) -> Iterator[ReaderRecord]:
    """Yield the items of each row of a table, by what `read_content` finds in it.

    modality: of rows that cannot be read, by default the source's. mark: as in build_caption_items. media_columns: of a
    Parquet file, whose cells stay bytes; they are no fields of the sample.
    """
    uri = file_uri(source, container.path)
    for position, row, problem in read_positions(source, uri, source.id_column, media_columns):
        yield MembersRead(1)
        if row is None:
            yield build_item(source, container.path, position, fields={}, modality=modality, error=problem)
            continue
        content = read_content(row)
        captions, unused = select_captions(source, content.texts, f"{container.path}:{position}")
        yield from build_caption_items(
            source,
            container.path,
            position,
            captions,
            unused=unused,
            mark=mark,
            fields={name: cell for name, cell in row.items() if name not in media_columns},
            error=problem or content.error,
            **content.further,
        )
