"""The interface of source readers: each reads one format and accounts for every file of a source.

An item becomes one row of samples: a medium with its caption, a text, an orphan caption, or a failure to read one of
these. Readers open no media; pipelines.ingest.ingest cuts the items into units and hashes their media.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from infra import storage
from infra.config import Source
from pipelines.ingest.sources.storable import dump_fields, to_storable_text

MEDIA_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "video": (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".ps", ".3gp", ".flv", ".wmv",
              ".ogv", ".gif"),
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".heic"),
    "multi_image": (),
    "text": (".txt", ".md"),
}  # fmt: skip

#: A caption or text row larger than this is a failed input (ours).
MAX_TEXT_BYTES = 16 * 2**20

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
    ]
)


@dataclass
class SourceItem:
    """One row of ITEM_SCHEMA.

    container: path of the file that the item is in, relative to the source; position: the item's name in it, unique.
    media: uri relative to the source, with the byte range (length -1: to the end). sidecars: files with the caption,
    read when the unit is ingested. size: expected bytes, from which units are cut. stamp: changes when the files do.
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

    def to_row(self) -> dict[str, Any]:
        """The row, with all text in a form that can be stored."""
        row = dict(self.__dict__)
        for name in ("container", "position", "text", "licence", "origin", "error"):
            row[name] = None if row[name] is None else to_storable_text(row[name])
        row["extra"] = dump_fields(self.extra)
        return row


@dataclass(frozen=True)
class Listing:
    """The files of a source: `items` that need no scan, `containers` to be scanned, and the number of ignored files."""

    items: Sequence[SourceItem]
    containers: Sequence[storage.Entry]
    ignored: int


class SourceReader:
    """The reader of one format, made without arguments. This base finds containers by their suffix.

    Every file of a source is an item, a container or ignored, and no two items may have the same container and
    position. Faults of the input become items with an error, never exceptions.
    """

    #: Lower-case suffixes of containers.
    suffixes: tuple[str, ...] = ()

    def list_items(
        self, source: Source, entries: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
    ) -> Listing:
        """Account for a source's files. excluded: those that `include` leaves out."""
        containers = [entry for entry in entries if entry.path.lower().endswith(self.suffixes)]
        return Listing([], containers, len(excluded) + len(entries) - len(containers))

    def scan(self, source: Source, container: storage.Entry) -> Iterator[SourceItem]:
        """Yield the items of a container. An OSError becomes the item of an unreadable archive."""
        return iter(())


def file_uri(source: Source, path: str) -> str:
    """The URI of a file of a source; a source may itself be one file."""
    return source.path if storage.is_file(source.path) else storage.join(source.path, path)


def make_unique(position: str, used: set[str], mark: str) -> str:
    """`position`, marked until it is not in `used`, to which it is added: equal positions would be equal keys."""
    while position in used:
        position += mark
    used.add(position)
    return position


def leaves_source(path: str) -> bool:
    """Whether a path from outside is absolute, a URI, climbs upwards or contains NUL."""
    parts = path.replace("\\", "/").split("/")
    return path.startswith(("/", "\\")) or ".." in parts or "\x00" in path or re.match(r"[A-Za-z]+:", path) is not None
