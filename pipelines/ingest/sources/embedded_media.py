"""Media within Parquet, as on the Hugging Face hub: a column of {bytes, path}, or a list of these.

Their bytes are in compressed pages, while media are addressed by byte range. They are written, one after the other,
into one file per table in the run's scratch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from infra import storage
from infra.config import Source
from infra.errors import BadSample
from infra.hashing import digest
from pipelines.ingest.sources.captions import read_texts
from pipelines.ingest.sources.interface import ReaderRecord, build_item, file_uri
from pipelines.ingest.sources.row_items import RowContent, scan_rows
from pipelines.ingest.sources.rows import Row, drop_keys, name_columns
from pipelines.ingest.tables.parquet import list_columns

#: Types of columns with media, as Arrow prints them.
_MEDIA_TYPE = re.compile(r"(list<[^<]*)?struct<.*\bbytes: (large_)?binary")


def scan_embedded_media(
    source: Source, container: storage.Entry, scratch: str, scratch_path: str
) -> Iterator[ReaderRecord]:
    """Yield an item for each row. scratch, scratch_path: as in SourceReader."""
    uri = file_uri(source, container.path)
    try:
        column = _find_column(container.path, uri)
    except BadSample as broken_table:
        yield build_item(source, container.path, "", fields={}, error=str(broken_table), members=0)
        return
    target = f"{digest(source.name.encode(), container.path.encode(), size=16).hex()}.media"
    state, offset = hashlib.sha256(), 0
    with storage.publish_when_written(storage.join(scratch, target)) as file, file.path.open("wb") as output:

        def read_row(row: Row) -> RowContent:
            nonlocal offset
            contents, fault = _read_media(source, row.get(column))
            media = []
            for content in contents:
                with storage.report_disk_errors(file.path):
                    output.write(content)
                state.update(content)
                media.append({"uri": f"{scratch_path}/{target}", "offset": offset, "length": len(content)})
                offset += len(content)
            fields = drop_keys(row, (column,))
            texts, broken = read_texts(fields, (source.text_column,), source.modality, len(media))
            extra = drop_keys(fields, (source.text_column,))
            further = {"media": media, "extra": extra, "size": sum(map(len, contents))}
            return RowContent(texts, fault or broken or _missing_text(source, fields), further)

        yield from scan_rows(source, container, read_row, media_columns=(column,))
        with storage.report_disk_errors(file.path):
            output.flush()
        file.sha256 = state.hexdigest()


def _find_column(path: str, uri: str) -> str:
    """The column with the media of a Parquet file. Raises BadSample if there is not exactly one."""
    if not path.lower().endswith(".parquet"):
        raise BadSample("unreadable table", "media are read from Parquet only; `modality: text` reads its texts")
    columns = list_columns(uri)
    fitting = [name for name, kind in columns.items() if _MEDIA_TYPE.match(kind)]
    if len(fitting) != 1:
        raise BadSample("unreadable table", f"not one column of {{bytes, path}} among {name_columns(columns)}")
    return fitting[0]


def _read_media(source: Source, cell: Any) -> tuple[list[bytes], str | None]:
    """(contents, error) of a cell: one medium, or several for multi_image."""
    cells = cell if isinstance(cell, list) else [cell]
    contents = [medium["bytes"] for medium in cells if isinstance(medium, dict) and medium.get("bytes")]
    if not contents or len(contents) != len(cells):
        return [], "missing medium: its row has no bytes"
    if len(contents) > 1 and source.modality != "multi_image":
        return [], f"broken row: {len(contents)} media, `modality: multi_image` reads them"
    return contents, None


def _missing_text(source: Source, fields: Mapping[str, Any]) -> str | None:
    """The error of a row that has not even the column of the caption."""
    if source.text_column in fields or "conversations" in fields or "messages" in fields or source.captions.optional:
        return None
    columns = name_columns(fields)
    return f"broken row: no column {source.text_column!r}; it has {columns}: set text_column, or `captions: optional`"
