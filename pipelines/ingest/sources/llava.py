"""LLaVA JSON or JSONL: one item per row, whose media are files of the same source."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from infra import storage
from infra.config import Source
from mixtures.reading.conversations import MEDIA_TOKEN, find_turns
from pipelines.core.sample_media import source_root
from pipelines.ingest.sources.captions import read_conversation, read_texts
from pipelines.ingest.sources.interface import Listing, ReaderRecord, SourceReader, find_file, ignore_files
from pipelines.ingest.sources.row_items import RowContent, scan_rows
from pipelines.ingest.sources.rows import Row, name_columns
from pipelines.ingest.tables.streams import with_compression

#: Keys of a row that name media, with the modality of one medium and of several.
MEDIA_KEYS = (("video", "video", "video"), ("image", "image", "multi_image"), ("images", "image", "multi_image"))


class LlavaReader(SourceReader):
    """The reader of `format: llava`. An `id` names what its row is about, often a picture of several rows: it is the
    position of a row only where `id_column` says so."""

    suffixes = with_compression(".json", ".jsonl")

    def list_items(
        self, source: Source, entries: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
    ) -> Listing:
        listing = super().list_items(source, entries, excluded)
        if not listing.containers:  # what is there is named in an error
            return listing
        # The other files are media: inputs through the rows that name them.
        read = len(listing.containers) + len(listing.items) + len(excluded)
        return replace(listing, ignored=ignore_files(excluded, "not in include"), read=read)

    def scan(self, source: Source, container: storage.Entry) -> Iterator[ReaderRecord]:
        return scan_rows(source, container, functools.partial(_read_row, source, source_root(source)))


def _read_row(source: Source, root: str, row: Row) -> RowContent:
    paths, modality, fault = _media_paths(row)
    files, missing = _find_files(source, root, paths)
    texts, broken = _read_texts(source, row, modality, len(paths))
    further = {
        "modality": modality,
        "media": [{"uri": file.path, "offset": 0, "length": -1} for file in files],
        "size": sum(file.size for file in files) or sum(map(len, texts)),
        "stamp": " ".join(file.stamp for file in files),
    }
    return RowContent(texts, fault or missing or broken, further)


def _media_paths(row: Row) -> tuple[list[str], str, str | None]:
    """(paths, modality, error) of the media that a row names; an empty name, null and [] name none."""
    for key, single, several in MEDIA_KEYS:
        if not (paths := row.get(key)):
            continue
        paths = paths if isinstance(paths, list) else [paths]
        if not all(isinstance(path, str) and path for path in paths):
            return [], single, f"broken row: {key!r} is neither a path nor a list of paths"
        return paths, single if len(paths) == 1 else several, None
    named = next((key for key, _, _ in MEDIA_KEYS if key in row), None)
    if named and any(MEDIA_TOKEN.search(str(turn)) for turn in find_turns(row) or ()):
        return [], "text", f"missing medium: the conversation has a placeholder, but {named!r} is empty"
    return [], "text", None


def _find_files(source: Source, root: str, paths: Sequence[str]) -> tuple[list[storage.Entry], str | None]:
    """(files, error) of the media that a row names."""
    files: list[storage.Entry] = []
    for path in paths:
        file, error = find_file(source, root, path)
        if file is None:
            return [], error
        files.append(file)
    return files, None


def _read_texts(source: Source, row: Row, modality: str, media: int) -> tuple[list[str], str | None]:
    """(texts, error) of a row: of its conversation, else of its text column."""
    turns = find_turns(row)
    if turns is not None:
        texts, fault = read_conversation(turns, modality, media)
    else:
        texts, fault = read_texts(row, (source.text_column,), modality, media)
    if not texts and not fault and not source.captions.optional:
        columns = name_columns(row)
        fault = f"broken row: no conversation, no text in the column {source.text_column!r}; the row has {columns}"
    return texts, fault
