"""Folders of media files, with captions in files beside them or in one captions file; text files are texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from infra import storage
from infra.config import Source
from infra.errors import ConfigError
from pipelines.ingest.sources.interface import MEDIA_SUFFIXES, Listing, SourceItem, SourceReader
from pipelines.ingest.sources.rows import drop_keys, get_field, get_text, read_rows

SIDECAR_SUFFIXES = (".txt", ".json")

#: The captions file's name of a medium, added to its row.
_NAME = "__key__"


class FolderReader(SourceReader):
    """The reader of `format: folder`. Its listing is complete: there are no containers."""

    def list_items(
        self, source: Source, entries: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
    ) -> Listing:
        media = [entry for entry in entries if entry.path.lower().endswith(MEDIA_SUFFIXES[source.modality])]
        ignored = len(excluded) + len(entries) - len(media)
        if source.modality == "text":
            items = [SourceItem(e.path, "", "text", sidecars=[e.path], size=e.size, stamp=e.stamp) for e in media]
            return Listing(items, [], ignored)
        if source.captions.file:
            items = list(_match_captions_file(source, source.captions.file, media, excluded))
            ignored -= sum(entry.path == source.captions.file for entry in entries)
        else:
            sidecars = [entry for entry in entries if entry.path.lower().endswith(SIDECAR_SUFFIXES)]
            items = list(_match_sidecars(source, media, sidecars))
            ignored -= len(sidecars)
        return Listing(sorted(items, key=lambda item: (item.container, item.position)), [], ignored)


def _medium_item(source: Source, entry: storage.Entry, **fields: Any) -> SourceItem:
    medium = {"uri": entry.path, "offset": 0, "length": -1}
    return SourceItem(entry.path, "", source.modality, media=[medium], size=entry.size, **fields)


def _match_sidecars(
    source: Source, media: Sequence[storage.Entry], sidecars: Sequence[storage.Entry]
) -> Iterator[SourceItem]:
    """Media with the caption files beside them, and caption files without a medium."""
    by_stem: dict[str, list[storage.Entry]] = {}
    for sidecar in sidecars:
        by_stem.setdefault(_stem(sidecar.path), []).append(sidecar)
    unused = {sidecar.path for sidecar in sidecars}
    for entry in media:
        beside = sorted(by_stem.get(_stem(entry.path), by_stem.get(entry.path, [])), key=lambda sidecar: sidecar.path)
        paths = [sidecar.path for sidecar in beside]
        unused.difference_update(paths)
        # A changed caption leaves the medium unchanged, so the sample's stamp covers both.
        stamp = " ".join([entry.stamp, *(f"{sidecar.stamp}+{sidecar.size}" for sidecar in beside)])
        yield _medium_item(source, entry, sidecars=paths, stamp=stamp)
    for path in unused:
        yield SourceItem(path, "", source.modality, error="orphan caption: there is no medium beside it")


def _match_captions_file(
    source: Source, captions_file: str, media: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
) -> Iterator[SourceItem]:
    """Media with their rows of the captions file, and rows without a medium."""
    table = _read_captions(source, captions_file)
    text_column = source.captions.text_column
    # A captions file may serve several sources: a medium that `include` leaves out is not a missing medium.
    used = {name for entry in excluded for name in _names(entry.path)}
    for entry in media:
        row: Mapping[str, Any] = next((table[name] for name in _names(entry.path) if name in table), {})
        if row:
            used.add(row[_NAME])
        yield _medium_item(
            source,
            entry,
            text=get_text(row, text_column),
            licence=get_field(row, source.licence_column),
            origin=get_field(row, source.origin_column),
            extra=drop_keys(row, (_NAME, text_column)),
            stamp=entry.stamp,
        )
    for name in set(table) - used:
        text = get_text(table[name], text_column)
        error = "orphan caption: the medium that it names is not there"
        yield SourceItem(captions_file, name, source.modality, text=text, error=error)


def _read_captions(source: Source, captions_file: str) -> dict[str, dict[str, Any]]:
    """The rows of the captions file by the medium that they name."""
    uri = storage.join(source.path, captions_file)
    if not storage.is_file(uri):
        raise ConfigError(f"source {source.name!r}: there is no captions file at {uri}")
    column = source.captions.media_column
    table = {}
    for _, row, error in read_rows(uri):
        if error is None and isinstance(row, dict) and row.get(column) is not None:
            name = str(row[column])
            table[name] = {**row, _NAME: name}
    return table


def _names(path: str) -> tuple[str, ...]:
    """The names that a captions file may use for a medium: its path or base name, with or without suffix."""
    stem = _stem(path)
    return path, PurePosixPath(path).name, stem, PurePosixPath(stem).name


def _stem(path: str) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.suffix else path
