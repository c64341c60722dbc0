"""Choose the reader of a source, list the source and scan its containers."""

from __future__ import annotations

import fnmatch
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from infra import storage
from infra.config import ConfigDocument, Source
from infra.errors import ConfigError
from infra.plugins import Registry
from pipelines.ingest.sources.accounting import MemberAccount, check_listing, check_records
from pipelines.ingest.sources.captions import describe_read_error
from pipelines.ingest.sources.interface import (
    MEDIA_SUFFIXES,
    IgnoredMember,
    Listing,
    SourceItem,
    SourceReader,
    ignore_files,
    normalise_name,
)
from pipelines.ingest.sources.storable import to_storable_name

#: Faults of what is no input whatever its name is.
_NEVER_READ = ("hidden", "link to a folder", "folder that cannot be read")

#: Kinds of ignored files that an error names (ours).
_KINDS_SHOWN = 8

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

    Raises ConfigError if there is nothing at the source's path, if nothing there is recognised, or if its captions file
    does not exist.
    """
    with storage.report_unreachable(source.path):
        exists = storage.exists(source.path)
        listed = storage.list_entries(source.path, outside_links=source.follow_links == "all") if exists else []
    if not exists:
        hint = "check the path and its ${VARIABLES}"
        hint += "" if storage.is_local(source.path) else ", and whether the server answers"
        raise ConfigError(f"source {source.name!r}: there is nothing at {source.path}", hint=hint)
    entries: list[storage.Entry] = []
    excluded: list[storage.Entry] = []
    unread: list[storage.Entry] = []
    for entry in listed:
        # A name that is not Unicode cannot be stored; its storable form opens nothing, so the file is a failed row.
        entry = replace(entry, path=to_storable_name(entry.path))
        included = source.include is None or any(_matches(entry.path, glob) for glob in source.include)
        (unread if entry.fault in _NEVER_READ else entries if included else excluded).append(entry)
    name = source.reader or source.format or _guess_format(source, entries)
    listing = READERS[name]().list_items(source, entries, excluded)
    ignored = [*listing.ignored, *ignore_files(unread, "")]
    listing = replace(listing, ignored=ignored, read=listing.read + len(unread))
    check_listing(listing, source.path)
    if not listing.items and not listing.containers:
        kinds = Counter(f"{entry.reason}, {_suffix_of(entry.position)}" for entry in ignored)
        raise _unrecognised_error(source, name, kinds, [entry.position for entry in ignored])
    return name, listing


def _matches(path: str, glob: str) -> bool:
    return fnmatch.fnmatch(path, glob) or fnmatch.fnmatch(normalise_name(path), normalise_name(glob))


def check_inputs(source: Source, reader: str, account: MemberAccount) -> None:
    """Raise ConfigError if everything that was read of a source, with its containers, is ignored."""
    if account.inputs == 0 and account.ignored:
        kinds = {f"{reason}, such as {count.examples[0]}": count.members for reason, count in account.ignored.items()}
        names = [name for count in account.ignored.values() for name in count.examples]
        raise _unrecognised_error(source, reader, kinds, names)


def probe_source(source: Source) -> str:
    """Describe what a run would read of a source, from its listing and its first container with an input.

    Raises ConfigError as a run does.
    """
    reader, listing = list_source(source)
    account = MemberAccount()
    list(account.count([*listing.items, *listing.ignored]))
    with tempfile.TemporaryDirectory(prefix="reelmill-") as scratch:
        for container in listing.containers:
            if next(account.count(scan(source, reader, container, scratch)), None) is not None:
                break
    check_inputs(source, reader, account)
    counts = {"inputs": len(listing.items), "containers": len(listing.containers), "ignored": len(listing.ignored)}
    return f"{reader}: {', '.join(f'{count} {name}' for name, count in counts.items() if count)}"


def _unrecognised_error(source: Source, reader: str, kinds: Mapping[str, int], names: Sequence[str]) -> ConfigError:
    """The error of a source without a single input: what is there, and what would be read.

    kinds: number of ignored members by kind. names: theirs, or some of them.
    """
    most = Counter(kinds).most_common(_KINDS_SHOWN)
    seen = "; ".join(f"{count} × {kind}" for kind, count in most) or "there are no files"
    hints = [f"the reader {reader!r} reads {_describe_suffixes(source, reader)}"]
    others = {f"format: {name}": READERS[name].suffixes for name in READERS.built_in if name != reader}
    others |= {f"modality: {name}": suffixes for name, suffixes in MEDIA_SUFFIXES.items() if name != source.modality}
    for setting, suffixes in others.items():
        if suffixes and any(name.lower().endswith(suffixes) for name in names):
            hints.append(f"`{setting}` reads {' '.join(suffixes)}")
    if not storage.is_local(source.path):
        hints.append("a folder behind HTTP is read if the server lists it and its address ends with a slash")
    return ConfigError(f"source {source.name!r}: nothing at {source.path} is recognised: {seen}", hint="; ".join(hints))


def _describe_suffixes(source: Source, reader: str) -> str:
    if READERS[reader].suffixes:
        return " ".join(READERS[reader].suffixes)
    media = " ".join(MEDIA_SUFFIXES[source.modality]) or "nothing"
    return media if source.modality == "text" else f"{media} and what has the first bytes of such a format"


def _suffix_of(path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2]
    suffix = f".{name.lstrip('.').rpartition('.')[2]}" if "." in name.lstrip(".") else "no suffix"
    return suffix.lower() if len(suffix) < 16 else "no suffix"


def scan(source: Source, reader: str, container: storage.Entry, scratch: str) -> Iterator[SourceItem | IgnoredMember]:
    """The items of a container in their order, and its ignored members; if it cannot be read to its end, the last item
    has an error. scratch: folder for expanded archives.

    Raises StageError if the reader does not account for every member that it has read.
    """
    instance = READERS[reader]()
    instance.scratch = scratch
    try:
        with storage.translate_remote_errors(source.path):
            for record in check_records(instance.scan(source, container), container.path):
                if isinstance(record, SourceItem):
                    record.stamp = f"{container.stamp} {record.stamp}".strip()
                yield record
    except OSError as error:
        message = describe_read_error("unreadable archive:", error)
        yield SourceItem(container.path, "", source.modality, stamp=container.stamp, error=message, members=0)


def _guess_format(source: Source, entries: Sequence[storage.Entry]) -> str:
    """The format by the suffixes of the files."""
    names = [entry.path.lower() for entry in entries]
    if any(name.endswith(READERS["webdataset"].suffixes) for name in names):
        return "webdataset"
    if source.modality == "text":
        tables = [name for name in names if name.endswith(READERS["table"].suffixes)]
        # A .json beside a text describes the text.
        has_texts = any(name.endswith(MEDIA_SUFFIXES["text"]) for name in names)
        return "table" if any(not (has_texts and name.endswith(".json")) for name in tables) else "folder"
    is_parquet = any(name.endswith(".parquet") for name in names)
    is_single_table = len(names) == 1 and names[0].endswith(READERS["llava"].suffixes)
    if is_single_table or (source.modality == "multi_image" and not is_parquet):
        return "llava"
    has_media = any(name.endswith(MEDIA_SUFFIXES[source.modality] or MEDIA_SUFFIXES["image"]) for name in names)
    if not has_media and source.captions.file is None and is_parquet:
        return "table"
    return "folder"
