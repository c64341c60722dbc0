"""WebDataset tars: one item per medium, as a byte range of its tar, with the captions of its sample."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import IO, Any

from infra import storage
from infra.config import Source
from pipelines.ingest.sources.captions import parse_object, pick_caption
from pipelines.ingest.sources.interface import (
    MAX_TEXT_BYTES,
    MEDIA_SUFFIXES,
    ReaderRecord,
    SourceItem,
    SourceReader,
    build_item,
    file_uri,
    leaves_source,
    make_unique,
)
from pipelines.ingest.sources.storable import to_storable_name

#: WebDataset's rule: the key ends at the first dot of the base name.
_MEMBER = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")

Members = dict[str, tarfile.TarInfo]


class WebDatasetReader(SourceReader):
    """The reader of `format: webdataset`."""

    suffixes = (".tar",)

    def scan(self, source: Source, container: storage.Entry) -> Iterator[ReaderRecord]:
        with storage.open_read(file_uri(source, container.path)) as file:
            index = _index_archive(file)
            items = [
                item
                for key, members in index.samples.items()
                for item in _sample_items(source, container, file, key, members)
            ]
        for position, error in index.faults:
            items.append(build_item(source, container.path, position, fields={}, error=error))
        yield from sorted(items, key=lambda item: item.position)


@dataclass
class _ArchiveIndex:
    """The members of a tar: key -> suffix -> member, and (position, error) of each fault."""

    samples: dict[str, Members] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    positions: set[str] = field(default_factory=lambda: {""})  # "" is the archive itself

    def add(self, member: tarfile.TarInfo) -> None:
        """File a member under its sample, or as a fault. Names that are no sample's are skipped."""
        name = to_storable_name(member.name)
        match = _MEMBER.match(name)
        key, suffix = ("", "") if match is None else (match.group(1), match.group(2).lower())
        problem = ""
        if not member.isreg() or member.issparse():
            problem = "hostile member: a link, a device, or a file with holes"
        elif leaves_source(name):
            problem = "hostile member: its path leaves the archive"
        elif name in self.names:
            problem = "duplicate member: the name stands in this archive twice"
        elif match is not None and suffix in self.samples.get(key, {}):
            problem = "duplicate member: another differs from it only in the case of its suffix"
        if problem:
            self.faults.append((make_unique(name, self.positions, f"@{member.offset}"), problem))
            return
        member.name = name
        self.names.add(name)
        self.positions.add(name)
        if match is not None and not PurePosixPath(name).name.startswith("__"):
            self.samples.setdefault(key, {})[suffix] = member


def _index_archive(file: IO[bytes]) -> _ArchiveIndex:
    """Read the headers of a tar; damage ends the index with a fault of the archive."""
    index = _ArchiveIndex()
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    broken = ""
    try:
        with tarfile.open(fileobj=file, mode="r:", ignore_zeros=False) as archive:
            for member in archive:
                if member.isreg() and not member.issparse() and member.offset_data + member.size > size:
                    broken = f"the archive breaks off at byte {size}"
                    break
                if not member.isdir():
                    index.add(member)
            else:
                # tarfile takes damage between two members for the end of the archive, which is a block of zeros.
                file.seek(archive.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    broken = f"the archive has no end, or is damaged at byte {archive.offset}"
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        broken = f"the archive cannot be read: {error}"
    if broken:
        index.faults.append(("", f"unreadable archive: {broken}"))
    return index


def _sample_items(
    source: Source, container: storage.Entry, file: IO[bytes], key: str, members: Mapping[str, tarfile.TarInfo]
) -> Iterator[SourceItem]:
    """The items of one sample: one per medium, or one of all its numbered images."""
    text, fields = _read_caption(file, members)
    if source.modality == "text" and text is not None:
        yield build_item(source, container.path, key, fields=fields, text=text)
        return
    media = _group_media(source.modality, members)
    if not media and text is not None:
        error = "orphan caption: its sample has no medium"
        name = members[min(members)].name
        yield build_item(source, container.path, name, fields=fields, text=text, error=error)
    for group in media:
        yield build_item(
            source,
            container.path,
            group[0].name,
            fields=fields,
            media=[{"uri": container.path, "offset": m.offset_data, "length": m.size} for m in group],
            text=text,
            size=sum(member.size for member in group),
        )


def _read_caption(file: IO[bytes], members: Mapping[str, tarfile.TarInfo]) -> tuple[str | None, dict[str, Any]]:
    """(caption, further fields) of a sample; a text member takes precedence over the JSON member."""
    fields = parse_object(_read_member(file, members["json"])) or {} if "json" in members else {}
    suffix = next((name for name in ("txt", "caption", "text") if name in members), None)
    if suffix is None:
        return pick_caption(fields), fields
    return _read_member(file, members[suffix]).decode("utf-8", "replace"), fields


def _group_media(modality: str, members: Mapping[str, tarfile.TarInfo]) -> list[list[tarfile.TarInfo]]:
    """The media of a sample: its numbered images together in the order of their numbers, otherwise each by itself."""
    if modality == "multi_image":
        numbered = [name for name in members if re.fullmatch(r"\d+\.[a-z0-9]+", name)]
        numbered.sort(key=lambda name: int(name.split(".")[0]))
        return [[members[name] for name in numbered]] if numbered else []
    suffixes = {suffix.lstrip(".") for suffix in MEDIA_SUFFIXES[modality]}
    return [[members[name]] for name in sorted(members) if name.rsplit(".", 1)[-1] in suffixes]


def _read_member(file: IO[bytes], member: tarfile.TarInfo) -> bytes:
    file.seek(member.offset_data)
    return file.read(min(member.size, MAX_TEXT_BYTES))
