"""WebDataset tars: one item per medium, as a byte range of its tar, with the captions of its sample."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

from infra import storage
from infra.config import Source
from pipelines.ingest.archives.expand import expand
from pipelines.ingest.archives.tar_index import ArchiveIndex, TarMember, index_tar
from pipelines.ingest.sources.captions import (
    CAPTION_KEYS,
    CaptionFiles,
    caption_columns,
    combine_captions,
    has_caption,
)
from pipelines.ingest.sources.interface import (
    MAX_TEXT_BYTES,
    MEDIA_SUFFIXES,
    IgnoredMember,
    MembersRead,
    ReaderRecord,
    SourceItem,
    SourceReader,
    build_caption_items,
    build_item,
    file_uri,
    make_unique,
)
from pipelines.ingest.sources.signatures import HEAD_BYTES, recognise
from pipelines.ingest.tables.streams import COMPRESSION_SUFFIXES, is_compressed

#: Suffixes of captions, the first takes precedence; JSON has further fields.
_TEXT_SUFFIXES = ("txt", "caption", "text")
_CAPTION_SUFFIXES = (*_TEXT_SUFFIXES, "json")

#: A numbered image of a sample with several: KEY.0.jpg.
_NUMBERED = re.compile(r"(?s)(.+)\.(\d+)\.[A-Za-z0-9]+")


class WebDatasetReader(SourceReader):
    """The reader of `format: webdataset`. Compressed tars are expanded into the run's scratch."""

    suffixes = (".tar", ".tgz", ".tbz2", ".txz", ".tzst", *(f".tar{suffix}" for suffix in COMPRESSION_SUFFIXES))

    def scan(self, source: Source, container: storage.Entry) -> Iterator[ReaderRecord]:
        tar_uri, uri, fault = file_uri(source, container.path), container.path, ""
        if is_compressed(tar_uri):
            name = f"{source.name}/{container.path}"
            target, fault = expand(tar_uri, container.size, container.stamp, self.scratch, name)
            tar_uri, uri = storage.join(self.scratch, target), f"{self.scratch_path}/{target}"
        with storage.open_read(tar_uri) as file:
            index = index_tar(file, lambda name, file, size: _recognise(source.modality, name, file, size))
            yield from _Archive(source, container.path, uri, file, index).records()
        broken = fault or index.broken
        if broken:
            error = f"unreadable archive: {broken}"
            yield build_item(source, container.path, "", fields={}, error=error, members=0)


def _recognise(modality: str, name: str, file: IO[bytes], size: int) -> frozenset[str]:
    """Kinds of a member's medium: by its suffix, otherwise by its first bytes."""
    kinds = frozenset(kind for kind in ("image", "video") if name.lower().endswith(MEDIA_SUFFIXES[kind]))
    is_caption = name.lower().endswith(tuple(f".{suffix}" for suffix in _CAPTION_SUFFIXES))
    if kinds or is_caption or modality == "text":
        return kinds
    return recognise(file.read(min(size, HEAD_BYTES)), name)


class _Archive:
    """The records of one tar. captions: caption members by stem and suffix; unused: those that no medium has; stems: of
    the samples."""

    def __init__(self, source: Source, path: str, uri: str, file: IO[bytes], index: ArchiveIndex) -> None:
        self.source = source
        self.columns = caption_columns(source)
        self.path = path
        self.uri = uri
        self.file = file
        self.index = index
        self.faults = list(index.faults)
        self.ignored = list(index.ignored)
        self.captions: dict[str, dict[str, TarMember]] = {}
        media = [member for member in index.members if not self._file_caption(member)]
        self.groups = self._group(media)
        self.stems = {name if name != group[0].name else group[0].stem for name, group in self.groups.items()}
        self.unused = dict(self.captions)

    def _file_caption(self, member: TarMember) -> bool:
        """Put a caption with those of its stem; False for a member that is none."""
        if member.suffix not in _CAPTION_SUFFIXES:
            return False
        first = self.captions.setdefault(member.stem, {}).setdefault(member.suffix, member)
        if first is not member:
            error = f"duplicate member: its name differs from {first.name!r} only in the case of the suffix"
            self.faults.append((member.name, error))
        return True

    def _group(self, members: Sequence[TarMember]) -> dict[str, list[TarMember]]:
        """Media of the source's modality by the name of their sample: numbered images together in the order of their
        numbers, otherwise each by itself. Other members are ignored."""
        modality = self.source.modality
        groups: dict[str, list[tuple[int, TarMember]]] = {}
        for member in members:
            numbered = _NUMBERED.fullmatch(member.name) if modality == "multi_image" else None
            if (modality in member.kinds) or (numbered and "image" in member.kinds):
                name, number = (numbered[1], int(numbered[2])) if numbered else (member.name, 0)
                groups.setdefault(name, []).append((number, member))
            else:
                kind = min(member.kinds, default="")
                reason = f"{kind} in a source of modality {modality}" if kind else "no known format"
                self.ignored.append((member.name, reason))
        return {
            name: [member for _, member in sorted(group, key=lambda pair: (pair[0], pair[1].name))]
            for name, group in groups.items()
        }

    def records(self) -> Iterator[ReaderRecord]:
        """Items in the order of their positions, and what is ignored. Captions are read as they are yielded."""
        yield MembersRead(self.index.read)
        for name, reason in self.ignored:
            yield IgnoredMember(self.path, name, reason)
        jobs: list[tuple[str, Callable[[], Iterable[ReaderRecord]]]] = [
            (name, functools.partial(self._fault_items, name, error)) for name, error in self.faults
        ]
        if self.source.modality == "text":
            used = {name for name, _ in jobs}
            for stem in self.captions:
                position = make_unique(stem, used, "@text")
                jobs.append((position, functools.partial(self._text_items, position, stem)))
        else:
            for name, group in self.groups.items():
                build = functools.partial(self._media_items, group, *self._take_captions(name, group[0]))
                jobs.append((group[0].name, build))
            for stem, captions in self.unused.items():
                jobs.append((min(m.name for m in captions.values()), functools.partial(self._orphans, stem)))
        for _, build_records in sorted(jobs, key=lambda job: job[0]):
            yield from build_records()

    def _take_captions(self, name: str, member: TarMember) -> tuple[str | None, int]:
        """(stem of the captions of a sample or None, number of caption members that no sample before it has).

        A caption has the medium's name up to its last dot, or up to an earlier one: WebDataset's key ends at the first.
        What another medium is named after is that one's: 1.txt belongs to 1.jpg and not to 1.mask.png.
        """
        stem = name if name != member.name else member.stem
        folder, slash, base = stem.rpartition("/")
        parts = base.split(".")
        for count in range(len(parts), 0, -1):
            candidate = folder + slash + ".".join(parts[:count])
            if candidate in self.captions and (count == len(parts) or candidate not in self.stems):
                return candidate, len(self.unused.pop(candidate, {}))
        return None, 0

    def _fault_items(self, position: str, error: str) -> Iterator[SourceItem]:
        yield build_item(self.source, self.path, position, fields={}, error=error)

    def _text_items(self, position: str, stem: str) -> Iterator[SourceItem]:
        columns = (self.source.text_column, "text", "content", *CAPTION_KEYS)
        read, error = self._read_captions(stem, columns, 0), None
        if not read.texts:
            error = f"broken row: there is no text under {self.source.text_column!r} or another usual key"
        return build_caption_items(
            self.source,
            self.path,
            position,
            read.texts,
            unused=read.unused,
            mark="text",
            fields=read.fields,
            error=read.error or error,
            members=len(self.captions[stem]),
        )

    def _media_items(self, group: Sequence[TarMember], stem: str | None, captions: int) -> Iterator[SourceItem]:
        read = CaptionFiles() if stem is None else self._read_captions(stem, self.columns, len(group))
        return build_caption_items(
            self.source,
            self.path,
            group[0].name,
            read.texts,
            unused=read.unused,
            fields=read.fields,
            media=[{"uri": self.uri, "offset": m.offset, "length": m.size} for m in group],
            size=sum(member.size for member in group),
            error=read.error,
            members=len(group) + captions,
        )

    def _orphans(self, stem: str) -> Iterator[ReaderRecord]:
        """A caption without a medium; JSON that is no caption is ignored."""
        captions = self.captions[stem]
        position = min(member.name for member in captions.values())
        read = self._read_captions(stem, self.columns)
        if set(captions) == {"json"} and not has_caption(read.fields):
            yield IgnoredMember(self.path, position, "JSON that is no caption")
            return
        error, members = read.error or "orphan caption: its sample has no medium", len(captions)
        yield from build_caption_items(
            self.source, self.path, position, read.texts, fields=read.fields, error=error, members=members
        )

    def _read_captions(self, stem: str, columns: Sequence[str], media: int = 1) -> CaptionFiles:
        """The captions of a stem. columns: keys of the caption in JSON."""
        contents = []
        for member in self.captions[stem].values():
            self.file.seek(member.offset)
            contents.append((member.name, self.file.read(min(member.size, MAX_TEXT_BYTES + 1))))
        return combine_captions(self.source, f"{self.path}:{stem}", contents, columns, media)
