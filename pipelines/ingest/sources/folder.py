"""Folders of media files, with captions in files beside them or in one captions file; text files are texts."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from infra import storage
from infra.config import Source
from infra.errors import ConfigError
from pipelines.core.sample_media import source_root
from pipelines.ingest.sources.captions import has_caption, parse_object
from pipelines.ingest.sources.captions_file import match_captions
from pipelines.ingest.sources.interface import (
    MAX_TEXT_BYTES,
    MEDIA_SUFFIXES,
    IgnoredMember,
    Listing,
    SourceItem,
    SourceReader,
    build_file_item,
    build_item,
    describe_fault,
    ignore_files,
    normalise_name,
    stem_of,
)
from pipelines.ingest.sources.signatures import recognise_files

SIDECAR_SUFFIXES = (".txt", ".json")


class FolderReader(SourceReader):
    """The reader of `format: folder`. Its listing is complete: there are no containers.

    Media are files with a suffix of the source's modality, and others whose first bytes are those of such a medium.
    """

    def list_items(
        self, source: Source, entries: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
    ) -> Listing:
        root = source_root(source)
        table = posixpath.normpath(source.captions.file) if source.captions.file else None
        is_beside = table is None and source.modality != "text"
        media, sidecars, unknown = [], [], []
        for entry in entries:
            path = entry.path.lower()
            if path.endswith(MEDIA_SUFFIXES[source.modality]):
                media.append(entry)
            elif is_beside and path.endswith(SIDECAR_SUFFIXES):
                sidecars.append(entry)
            elif entry.path != table:
                unknown.append(entry)
        recognised, ignored = _recognise(source, root, unknown)
        media = sorted([*media, *recognised], key=lambda entry: entry.path)
        if table is not None:
            _check_captions_file(source, table, [*entries, *excluded])
            matched = match_captions(source, table, media, excluded)
        elif source.modality == "text":
            matched = Listing([_text_item(source, entry) for entry in media], [], [], len(media))
        else:
            matched = _match_sidecars(source, root, media, sidecars)
        return Listing(
            sorted(matched.items, key=lambda item: (item.container, item.position)),
            [],
            [*matched.ignored, *ignored, *ignore_files(excluded, "not in include")],
            matched.read + len(ignored) + len(excluded),
        )


def _check_captions_file(source: Source, table: str, entries: Sequence[storage.Entry]) -> None:
    """Raise ConfigError if the captions file is listed with a fault, such as a link that leaves the source."""
    for entry in entries:
        if entry.path == table and entry.fault:
            what = f"source {source.name!r}: the captions file {table} cannot be read"
            raise ConfigError(f"{what}: {describe_fault(entry)}")


def _recognise(
    source: Source, root: str, entries: Sequence[storage.Entry]
) -> tuple[list[storage.Entry], list[IgnoredMember]]:
    """Divide files of unknown suffix into media of the source's modality, by their first bytes, and ignored files."""
    if source.modality not in ("image", "video"):
        return [], ignore_files(entries, "no known suffix")
    readable = [entry for entry in entries if not entry.fault]
    kinds = recognise_files(readable, lambda path: storage.join(root, path))
    media, ignored = [], []
    for entry in entries:
        kind = kinds.get(entry.path, frozenset())
        if source.modality in kind:
            media.append(entry)
        else:
            reason = f"{min(kind)} in a source of modality {source.modality}" if kind else "no known format"
            ignored += ignore_files([entry], reason)
    return media, ignored


def _text_item(source: Source, entry: storage.Entry) -> SourceItem:
    error = describe_fault(entry) if entry.fault else None
    item = build_item(source, entry.path, "", fields={}, size=entry.size, stamp=entry.stamp, error=error)
    item.sidecars = [entry.path]
    return item


def _match_sidecars(
    source: Source, root: str, media: Sequence[storage.Entry], sidecars: Sequence[storage.Entry]
) -> Listing:
    """Media with the caption files beside them, and caption files without a medium."""
    by_name: dict[str, list[storage.Entry]] = {}
    for sidecar in sidecars:
        by_name.setdefault(normalise_name(stem_of(sidecar.path)), []).append(sidecar)
    orphans = {sidecar.path: sidecar for sidecar in sidecars}
    items = []
    for entry in media:
        stem, path = normalise_name(stem_of(entry.path)), normalise_name(entry.path)
        beside = sorted(by_name.get(stem, by_name.get(path, [])), key=lambda sidecar: sidecar.path)
        faults = [f"unreadable caption: {describe_fault(sidecar)}" for sidecar in beside if sidecar.fault]
        # A changed caption leaves the medium unchanged, so the sample's stamp covers both.
        stamp = " ".join([entry.stamp, *(f"{sidecar.stamp}+{sidecar.size}" for sidecar in beside)])
        members = 1 + sum(orphans.pop(sidecar.path, None) is not None for sidecar in beside)
        error = faults[0] if faults else None
        item = build_file_item(source, entry, fields={}, stamp=stamp, members=members, error=error)
        item.sidecars = [sidecar.path for sidecar in beside]
        items.append(item)
    ignored = []
    for sidecar in orphans.values():
        if _lacks_caption(root, sidecar):
            ignored += ignore_files([sidecar], "JSON that is no caption")
        else:
            items.append(
                build_item(source, sidecar.path, "", fields={}, error="orphan caption: there is no medium beside it")
            )
    return Listing(items, [], ignored, len(media) + len(sidecars))


def _lacks_caption(root: str, sidecar: storage.Entry) -> bool:
    """Whether a .json beside no medium is a file of another kind, such as statistics or settings of the data set."""
    if sidecar.fault or not sidecar.path.lower().endswith(".json"):
        return False
    try:
        raw = storage.read_bytes(storage.join(root, sidecar.path), 0, MAX_TEXT_BYTES + 1)
    except OSError:
        return False
    return len(raw) > MAX_TEXT_BYTES or not has_caption(parse_object(raw) or {})
