"""Captions files: one table with the captions of a folder's media, matched by the names that its rows use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from infra import storage
from infra.config import Source
from infra.errors import ConfigError
from pipelines.ingest.sources.interface import Listing, build_file_item, build_item, normalise_name, stem_of
from pipelines.ingest.sources.rows import drop_keys, get_text, read_rows

#: The captions file's name of a medium, added to its row.
_NAME = "__key__"


def match_captions(
    source: Source, captions_file: str, media: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
) -> Listing:
    """Match media with their rows of the captions file; rows without a medium are orphan captions.

    captions_file: relative to the source. Members read are the media and the rows of the file.
    """
    table = _read_captions(source, captions_file)
    text_column = source.captions.text_column
    # A captions file may serve several sources: a medium that `include` leaves out is not a missing medium.
    used = {name for entry in excluded for name in _names(entry.path)}
    items = []
    for entry in media:
        row: Mapping[str, Any] = next((table[name] for name in _names(entry.path) if name in table), {})
        if row:
            used.add(row[_NAME])
        extra = drop_keys(row, (_NAME, text_column))
        text = get_text(row, text_column)
        items.append(build_file_item(source, entry, fields=row, text=text, extra=extra, stamp=entry.stamp))
    for name in set(table) - used:
        row, error = table[name], "orphan caption: the medium that it names is not there"
        text, extra = get_text(row, text_column), drop_keys(row, (_NAME, text_column))
        items.append(build_item(source, captions_file, name, fields=row, text=text, extra=extra, error=error))
    # To do: rows that are broken, repeated or of media that `include` leaves out are not counted yet.
    return Listing(items, [], [], sum(item.members for item in items))


def _read_captions(source: Source, captions_file: str) -> dict[str, dict[str, Any]]:
    """The rows of the captions file by the medium that they name."""
    uri = storage.join(source.path, captions_file)
    if not storage.is_file(uri):
        raise ConfigError(f"source {source.name!r}: there is no captions file at {uri}")
    column = source.captions.media_column
    table = {}
    for _, row, error in read_rows(uri):
        if error is None and isinstance(row, dict) and row.get(column) is not None:
            name = normalise_name(str(row[column]))
            table[name] = {**row, _NAME: name}
    return table


def _names(path: str) -> tuple[str, ...]:
    """The names that a captions file may use for a medium: its path or base name, with or without suffix."""
    path = normalise_name(path)
    stem = stem_of(path)
    return path, PurePosixPath(path).name, stem, PurePosixPath(stem).name
