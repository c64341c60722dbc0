"""Folders of media files, with captions in files beside them or in one captions file; text files are texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from infra import storage
from infra.config import Source
from pipelines.ingest.sources.captions_file import match_captions
from pipelines.ingest.sources.interface import (
    MEDIA_SUFFIXES,
    Listing,
    SourceItem,
    SourceReader,
    build_file_item,
    build_item,
    ignore_files,
    stem_of,
)

SIDECAR_SUFFIXES = (".txt", ".json")


class FolderReader(SourceReader):
    """The reader of `format: folder`. Its listing is complete: there are no containers."""

    def list_items(
        self, source: Source, entries: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
    ) -> Listing:
        media = [entry for entry in entries if entry.path.lower().endswith(MEDIA_SUFFIXES[source.modality])]
        matched = _match(source, media, entries, excluded)
        captions = SIDECAR_SUFFIXES if source.captions.file is None and source.modality != "text" else ()
        used = {entry.path for entry in media} | {source.captions.file}
        ignored = [e for e in entries if e.path not in used and not e.path.lower().endswith(captions)]
        return Listing(
            sorted(matched.items, key=lambda item: (item.container, item.position)),
            [],
            [*matched.ignored, *ignore_files(excluded, "not in include"), *ignore_files(ignored, "no known suffix")],
            matched.read + len(excluded) + len(ignored),
        )


def _match(
    source: Source, media: Sequence[storage.Entry], entries: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
) -> Listing:
    """Media with their captions: of the captions file or of the files beside them. Texts are media of their own."""
    if source.modality == "text":
        texts = [_text_item(source, entry) for entry in media]
        return Listing(texts, [], [], len(texts))
    if source.captions.file:
        return match_captions(source, source.captions.file, media, excluded)
    sidecars = [entry for entry in entries if entry.path.lower().endswith(SIDECAR_SUFFIXES)]
    items = list(_match_sidecars(source, media, sidecars))
    return Listing(items, [], [], len(media) + len(sidecars))


def _text_item(source: Source, entry: storage.Entry) -> SourceItem:
    item = build_item(source, entry.path, "", fields={}, size=entry.size, stamp=entry.stamp)
    item.sidecars = [entry.path]
    return item


def _match_sidecars(
    source: Source, media: Sequence[storage.Entry], sidecars: Sequence[storage.Entry]
) -> Iterator[SourceItem]:
    """Media with the caption files beside them, and caption files without a medium."""
    by_stem: dict[str, list[storage.Entry]] = {}
    for sidecar in sidecars:
        by_stem.setdefault(stem_of(sidecar.path), []).append(sidecar)
    unused = {sidecar.path for sidecar in sidecars}
    for entry in media:
        beside = sorted(by_stem.get(stem_of(entry.path), by_stem.get(entry.path, [])), key=lambda sidecar: sidecar.path)
        paths = [sidecar.path for sidecar in beside]
        # A changed caption leaves the medium unchanged, so the sample's stamp covers both.
        stamp = " ".join([entry.stamp, *(f"{sidecar.stamp}+{sidecar.size}" for sidecar in beside)])
        members = 1 + len(unused.intersection(paths))
        item = build_file_item(source, entry, fields={}, stamp=stamp, members=members)
        unused.difference_update(paths)
        item.sidecars = paths
        yield item
    for path in unused:
        yield build_item(source, path, "", fields={}, error="orphan caption: there is no medium beside it")
