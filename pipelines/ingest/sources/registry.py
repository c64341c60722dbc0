"""Choose the reader of a source, list the source and scan its containers."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import replace

from infra import storage
from infra.config import ConfigDocument, Source
from infra.errors import ConfigError
from infra.plugins import Registry
from pipelines.ingest.sources.accounting import check_listing, check_records
from pipelines.ingest.sources.interface import IgnoredMember, Listing, SourceItem, SourceReader
from pipelines.ingest.sources.storable import to_storable_name

#: Built-in readers by the name of their format, and those of installed packages.
READERS: Registry[SourceReader] = Registry(
    "reelmill.sources",
    SourceReader,
    {
        "folder": "pipelines.ingest.sources.folder:FolderReader",
        "webdataset": "pipelines.ingest.sources.webdataset:WebDatasetReader",
        "table": "pipelines.ingest.sources.table:TableReader",
        "llava": "pipelines.ingest.sources.llava:LlavaReader",
    },
)


def check_readers(sources: Sequence[Source], document: ConfigDocument) -> None:
    """Raise ConfigError, with file and line, if no installed package has the reader that a source names."""
    for index, source in enumerate(sources):
        if source.reader is None:
            continue
        where = document.where(("sources", index, "reader"))
        if source.reader not in READERS.plugins:
            installed = ", ".join(READERS.plugins) or "none"
            raise ConfigError(
                f"sources[{index}].reader: no installed package has a reader {source.reader!r}",
                where=where,
                hint=f"use one of the installed readers ({installed}), or `format` for a built-in one; packages add "
                f"readers with entry points in the group {READERS.group!r}",
            )
        try:
            READERS[source.reader]
        except ConfigError as error:
            error.where = where
            raise


def list_source(source: Source) -> tuple[str, Listing]:
    """The name of a source's reader, and the listing of its files.

    Raises ConfigError if there is nothing at the source's path, or if its captions file does not exist.
    """
    if not storage.exists(source.path):
        raise ConfigError(
            f"source {source.name!r}: there is nothing at {source.path}", hint="check the path and its ${VARIABLES}"
        )
    entries: list[storage.Entry] = []
    excluded: list[storage.Entry] = []
    for entry in storage.list_files(source.path):
        # A name that is not Unicode cannot be stored; its storable form opens nothing, so the file is a failed row.
        entry = replace(entry, path=to_storable_name(entry.path))
        included = source.include is None or any(fnmatch.fnmatch(entry.path, glob) for glob in source.include)
        (entries if included else excluded).append(entry)
    name = source.reader or source.format or _guess_format(source, entries)
    listing = READERS[name]().list_items(source, entries, excluded)
    check_listing(listing, source.path)
    return name, listing


def scan(source: Source, reader: str, container: storage.Entry) -> Iterator[SourceItem | IgnoredMember]:
    """The items of a container in their order, and its ignored members; if it cannot be read to its end, the last item
    has an error. Raises StageError if the reader does not account for every member that it has read."""
    try:
        for record in check_records(READERS[reader]().scan(source, container), container.path):
            if isinstance(record, SourceItem):
                record.stamp = f"{container.stamp} {record.stamp}".strip()
            yield record
    except OSError as error:
        message = f"unreadable archive: {error.strerror or error}"
        yield SourceItem(container.path, "", source.modality, stamp=container.stamp, error=message, members=0)


def _guess_format(source: Source, entries: Sequence[storage.Entry]) -> str:
    """The format by the suffixes of the files."""
    names = [entry.path.lower() for entry in entries]
    if any(name.endswith(READERS["webdataset"].suffixes) for name in names):
        return "webdataset"
    if source.modality == "text":
        return "table" if any(name.endswith(READERS["table"].suffixes) for name in names) else "folder"
    if source.modality == "multi_image" or (len(names) == 1 and names[0].endswith(READERS["llava"].suffixes)):
        return "llava"
    return "folder"
