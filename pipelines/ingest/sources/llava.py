"""LLaVA JSON or JSONL: one item per row, whose media are files of the same source."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from infra import storage
from infra.config import Source
from pipelines.core.sample_media import source_root
from pipelines.ingest.sources.captions import join_turns
from pipelines.ingest.sources.interface import (
    Listing,
    MembersRead,
    ReaderRecord,
    SourceReader,
    build_item,
    file_uri,
    ignore_files,
    leaves_source,
)
from pipelines.ingest.sources.rows import get_text, read_positions


class LlavaReader(SourceReader):
    """The reader of `format: llava`."""

    suffixes = (".json", ".jsonl")

    def list_items(
        self, source: Source, entries: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
    ) -> Listing:
        # The other files are media: inputs through the rows that name them.
        listing = super().list_items(source, entries, excluded)
        read = len(listing.containers) + len(excluded)
        return replace(listing, ignored=ignore_files(excluded, "not in include"), read=read)

    def scan(self, source: Source, container: storage.Entry) -> Iterator[ReaderRecord]:
        root = source_root(source)
        for position, row, problem in read_positions(file_uri(source, container.path), source.id_column or "id"):
            yield MembersRead(1)
            if row is None:
                yield build_item(source, container.path, position, fields={}, error=problem)
                continue
            paths, modality = _media_paths(row)
            files: list[storage.Entry] = []
            for path in paths:
                target = storage.join(root, path)
                if leaves_source(path):
                    problem = f"hostile path: {path!r} leaves the source"
                elif not storage.is_file(target):
                    problem = problem or f"missing medium: there is no {path}"
                else:
                    files += storage.list_files(target)
            turns = row.get("conversations")
            text = join_turns(turns) if isinstance(turns, list) else get_text(row, source.text_column)
            yield build_item(
                source,
                container.path,
                position,
                fields=row,
                text=text,
                media=[{"uri": path, "offset": 0, "length": -1} for path in paths],
                modality=modality,
                size=sum(file.size for file in files) or len(text or ""),
                stamp=" ".join(file.stamp for file in files),
                error=problem,
            )


def _media_paths(row: Mapping[str, Any]) -> tuple[list[str], str]:
    """The media that a row names, and its modality."""
    for key, single, several in (
        ("video", "video", "video"),
        ("image", "image", "multi_image"),
        ("images", "image", "multi_image"),
    ):
        paths = row.get(key)
        if isinstance(paths, str):
            return [paths], single
        if isinstance(paths, list) and paths:
            return [str(path) for path in paths], single if len(paths) == 1 else several
    return [], "text"
