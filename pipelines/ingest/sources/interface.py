"""The interface of source readers: each reads one format and accounts for every member of a source.

A member is a file of a source, a member of a tar, or a row of a table. An item becomes one row of samples: a medium
with its caption, a text, an orphan caption, or a failure to read one of these. A member that is in no item is ignored,
with a reason. Readers count the members that they read where they parse a container, and accounting.py checks that
members read = members in items + ignored members, per container. Readers open no media; pipelines.ingest.ingest cuts
the items into units and hashes their media.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from infra import storage
from infra.config import Source
from pipelines.ingest.sources.storable import dump_fields, get_field, to_storable_text

MEDIA_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "video": (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".ps", ".3gp", ".flv", ".wmv",
              ".ogv", ".gif", ".mts", ".m2ts", ".vob", ".asf", ".3g2"),
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".heic", ".jfif",
              ".jpe", ".pjpeg", ".jp2", ".qoi"),
    "multi_image": (),
    "text": (".txt", ".md"),
}  # fmt: skip

#: The beginning of an address, or of a path on a Windows drive.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|[A-Za-z]:[\\/]")

#: A caption or text row larger than this is a failed input (ours).
MAX_TEXT_BYTES = 16 * 2**20

#: Longest path and name that Linux opens.
MAX_PATH_BYTES, MAX_NAME_BYTES = 4095, 255

ITEM_SCHEMA = pa.schema(
    [
        ("container", pa.string()),
        ("position", pa.string()),
        ("modality", pa.string()),
        ("media", pa.list_(pa.struct([("uri", pa.string()), ("offset", pa.int64()), ("length", pa.int64())]))),
        ("text", pa.string()),
        ("sidecars", pa.list_(pa.string())),
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("extra", pa.string()),
        ("size", pa.int64()),
        ("stamp", pa.string()),
        ("error", pa.string()),
        ("members", pa.int64()),
        ("unused_captions", pa.int64()),
    ]
)


@dataclass
class SourceItem:
    """One row of ITEM_SCHEMA.

    container: path of the file that the item is in, relative to the source; position: the item's name in it, unique.
    media: uri relative to the source (to the run if it begins with "/"), with the byte range (length -1: to the end).
    sidecars: files with the caption, read when the unit is ingested. size: expected bytes, from which units are cut.
    stamp: changes when the files do.
    members: number of members read that the item accounts for: 1 for a row of a table, 3 for a medium with its .txt and
    .json, 0 for the failure of a whole container. unused_captions: number of captions of the medium that
    `captions.many` leaves out; those of files that are read with the unit are counted by pipelines.ingest.ingest.
    Readers build items with `build_item`, which leaves out no field.
    """

    container: str
    position: str
    modality: str
    media: list[dict[str, Any]] = field(default_factory=list)
    text: str | None = None
    sidecars: list[str] = field(default_factory=list)
    licence: str | None = None
    origin: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0
    stamp: str = ""
    error: str | None = None
    members: int = 1
    unused_captions: int = 0

    def to_row(self) -> dict[str, Any]:
        """The row, with all text in a form that can be stored."""
        row = {name: getattr(self, name) for name in ITEM_SCHEMA.names}
        for name in ("container", "position", "text", "licence", "origin", "error"):
            row[name] = None if row[name] is None else to_storable_text(row[name])
        row["extra"] = dump_fields(self.extra)
        return row


@dataclass(frozen=True)
class IgnoredMember:
    """Members that are no input.

    container, position: as in SourceItem; container "" is the source itself, whose members are files. reason: a short
    stable phrase without names or numbers, under which they are counted. members: how many they are.
    """

    container: str
    position: str
    reason: str
    members: int = 1


@dataclass(frozen=True)
class MembersRead:
    """A number of members that a reader has parsed, counted independently of the items that were made from them."""

    members: int


#: A reader yields items, ignored members, and counts of the members that it has parsed, in any order.
ReaderRecord = SourceItem | IgnoredMember | MembersRead


@dataclass(frozen=True)
class Listing:
    """The files of a source: `items` that need no scan, `containers` to be scanned, and ignored files.

    read: number of files listed; rows of a captions file count as members read here, in place of the file itself.
    read = members of items + number of containers + ignored members.
    """

    items: Sequence[SourceItem]
    containers: Sequence[storage.Entry]
    ignored: Sequence[IgnoredMember]
    read: int


class SourceReader:
    """The reader of one format, made without arguments. This base finds containers by their suffix.

    Every file of a source is in an item, a container or ignored, and so is every member of a container. No two items
    may have the same container and position. Faults of the input become items with an error, never exceptions.
    """

    #: Lower-case suffixes of containers.
    suffixes: tuple[str, ...] = ()

    #: The folder of the run for expanded archives, and its path in media: "/" and the path below the run.
    scratch: str = ""
    scratch_path: str = "/work/expanded"

    def list_items(
        self, source: Source, entries: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
    ) -> Listing:
        """Account for a source's files. excluded: those that `include` leaves out. An entry with a fault (a link that
        leaves the source, a pipe) is ignored, or by its name a failed item: see `build_fault_item`."""
        containers = [entry for entry in entries if entry.path.lower().endswith(self.suffixes)]
        paths = {entry.path for entry in containers}
        items = [build_fault_item(source, entry) for entry in containers if entry.fault]
        ignored = ignore_files(excluded, "not in include")
        ignored += ignore_files([entry for entry in entries if entry.path not in paths], "no known suffix")
        readable = [entry for entry in containers if not entry.fault]
        return Listing(items, readable, ignored, len(entries) + len(excluded))

    def scan(self, source: Source, container: storage.Entry) -> Iterator[ReaderRecord]:
        """Yield the items and ignored members of a container, and MembersRead with the number of members parsed, which
        is then checked. An OSError becomes the item of an unreadable archive, which is no member."""
        return iter(())


def build_item(
    source: Source,
    container: str,
    position: str,
    *,
    fields: Mapping[str, Any],
    text: str | None = None,
    media: Sequence[Mapping[str, Any]] = (),
    modality: str | None = None,
    extra: Mapping[str, Any] | None = None,
    size: int | None = None,
    stamp: str = "",
    error: str | None = None,
    members: int = 1,
) -> SourceItem:
    """Build an item with every field that the input has, whether it failed or not.

    fields: the row or JSON object that belongs to the item, {} if there is none; licence and origin are read from the
    columns that the source names. modality: by default the source's. extra: stored beside the sample, by default
    `fields`. size: by default the length of the text. An item with an error keeps its text and has no media.
    """
    return SourceItem(
        container,
        position,
        modality or source.modality,
        media=[] if error else [dict(medium) for medium in media],
        text=text,
        licence=get_field(fields, source.licence_column),
        origin=get_field(fields, source.origin_column),
        extra=fields if extra is None else extra,
        size=len(text or "") if size is None else size,
        stamp=stamp,
        error=error,
        members=members,
    )


def build_caption_items(
    source: Source,
    container: str,
    position: str,
    captions: Sequence[str],
    *,
    unused: int = 0,
    mark: str = "caption",
    members: int = 1,
    **fields: Any,
) -> Iterator[SourceItem]:
    """Build an item for each caption of a sample, or one without text.

    unused: number of its captions that are not used. mark: of the positions after the first, which alone accounts for
    members and unused captions. fields: as in build_item.
    """
    for number, text in enumerate(captions or [None]):
        name = position if number == 0 else f"{position}@{mark}={number}"
        item = build_item(source, container, name, text=text, members=members if number == 0 else 0, **fields)
        item.unused_captions = unused if number == 0 and item.error is None else 0
        yield item


def build_file_item(source: Source, entry: storage.Entry, **fields: Any) -> SourceItem:
    """Build the item of a whole file of the source; fields: as in build_item. A file with a fault is a failed item."""
    medium = {"uri": entry.path, "offset": 0, "length": -1}
    if entry.fault:
        fields["error"] = describe_fault(entry)
    return build_item(source, entry.path, "", media=[medium], size=entry.size, **fields)


def build_fault_item(source: Source, entry: storage.Entry) -> SourceItem:
    """Build the failed item of an entry that by its name would be an input, and is no file to be read."""
    return build_item(source, entry.path, "", fields={}, error=describe_fault(entry))


def describe_fault(entry: storage.Entry) -> str:
    """The error of an item whose file has a fault."""
    if entry.fault == "link that leaves the folder":
        return "hostile path: a link that leaves the source; `follow_links: all` follows it"
    return (
        "missing medium: there is no such file" if entry.fault == "no such file" else f"unreadable file: {entry.fault}"
    )


def ignore_files(entries: Sequence[storage.Entry], reason: str) -> list[IgnoredMember]:
    """Files of a source that are no input, for their own fault or for one reason."""
    return [IgnoredMember("", entry.path, entry.fault or reason) for entry in entries]


def find_file(source: Source, root: str, path: str) -> tuple[storage.Entry | None, str | None]:
    """(entry, None) of the file that a row names below `root`, the folder of the source, or (None, error).

    A path in another Unicode form, with Windows' separators or from the root of this machine names the same file; the
    entry has the path that can be opened, in which object stores, too, find the file.
    """
    if storage.is_local(root):
        path = path.removeprefix(f"{storage.local_path(root)}/")
    if error := find_path_fault(path):
        return None, error
    path = _drop_empty_names(path)
    forms = dict.fromkeys((path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))))
    forms[_drop_empty_names(path.replace("\\", "/"))] = None
    entries = [storage.stat_file(root, form, outside_links=source.follow_links == "all") for form in forms]
    entry = next((entry for entry in entries if entry.fault != "no such file"), entries[0])
    return (None, describe_fault(entry)) if entry.fault else (entry, None)


def normalise_name(path: str) -> str:
    """A path in the form in which names from a file system and from a table are compared: file systems and tools differ
    in how they compose accents."""
    return unicodedata.normalize("NFC", path)


def file_uri(source: Source, path: str) -> str:
    """The URI of a file of a source; a source may itself be one file."""
    return source.path if storage.is_file(source.path) else storage.join(source.path, path)


def stem_of(path: str) -> str:
    """A path without the suffix of its last name."""
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.suffix else path


def make_unique(position: str, used: set[str], mark: str) -> str:
    """`position`, marked until it is not in `used`, to which it is added: equal positions would be equal keys."""
    while position in used:
        position += mark
    used.add(position)
    return position


def _drop_empty_names(path: str) -> str:
    """A relative path without "." and empty names, which only file systems ignore."""
    return "/".join(name for name in path.split("/") if name not in ("", ".")) or path


def leaves_source(path: str) -> bool:
    """Whether a path from outside is absolute, a URI, climbs upwards or contains NUL."""
    parts = path.replace("\\", "/").split("/")
    return path.startswith(("/", "\\")) or ".." in parts or "\x00" in path or _ADDRESS.match(path) is not None


def find_path_fault(path: str) -> str | None:
    """Why a path that a row names cannot be opened, whatever is there: it leaves the source, or is longer than file
    systems allow."""
    if leaves_source(path):
        return f"hostile path: {path[:200]!r} leaves the source"
    encoded = path.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_PATH_BYTES or max(map(len, encoded.split(b"/"))) > MAX_NAME_BYTES:
        return f"hostile path: {path[:40]!r}… has {len(encoded)} bytes, which no file system allows"
    return None
