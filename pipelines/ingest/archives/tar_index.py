"""The members of a tar, read from its headers with limits on memory and time."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO

from pipelines.ingest.sources.interface import leaves_source, make_unique
from pipelines.ingest.sources.storable import to_storable_name

#: Limits of an archive (ours): members, bytes of one header (of pax records, a long name or a map of holes), bytes of a
#: member's name, and bytes of zeros after the end of an archive among which the next one is looked for.
MAX_MEMBERS = 2**21
MAX_HEADER_BYTES = 2**20
MAX_NAME_BYTES = 4096
MAX_PADDING = 256 * 2**20

_BLOCK = tarfile.BLOCKSIZE
_STEP = 2**20
_HEADER_ERRORS = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class TarMember:
    """A regular file in a tar. name: storable and unique in the tar. kinds: "image", "video", by its first bytes."""

    name: str
    offset: int
    size: int
    kinds: frozenset[str] = frozenset()

    @property
    def stem(self) -> str:
        """The name without the suffix of its last part."""
        return self.name[: -len(self.suffix) - 1] if self.suffix else self.name

    @property
    def suffix(self) -> str:
        """The lower-case suffix after the last dot, "" where there is none."""
        base = self.name.rpartition("/")[2]
        return base.rpartition(".")[2].lower() if "." in base else ""


@dataclass
class ArchiveIndex:
    """The members of a tar: `read` headers are regular members, faults as (position, error) and ignored members as
    (position, reason). broken: why it could not be read to its end, "" if it was."""

    members: list[TarMember] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    read: int = 0
    broken: str = ""


class _HeaderReader(io.RawIOBase):
    """The tar, of which no more than MAX_HEADER_BYTES are read at a time: a header may claim any size."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def index_tar(file: IO[bytes], recognise: Callable[[str, IO[bytes], int], frozenset[str]]) -> ArchiveIndex:
    """Read the headers of a tar, or of several tars one after the other.

    recognise: (name, file at the member's first byte, size) -> kinds of a medium. Damage ends the index: see `broken`.
    """
    indexer = _Indexer(file, recognise)
    try:
        indexer.read_archives()
    except _HEADER_ERRORS as error:
        indexer.index.broken = f"the archive cannot be read: {error}"
    return indexer.index


class _Indexer:
    """Fills a ArchiveIndex. names: of the regular members so far. positions: of everything so far."""

    def __init__(self, file: IO[bytes], recognise: Callable[[str, IO[bytes], int], frozenset[str]]) -> None:
        self.file = file
        self.size = file.seek(0, io.SEEK_END)
        self.recognise = recognise
        self.index = ArchiveIndex()
        self.names: set[str] = set()
        self.positions: set[str] = {""}  # "" is the archive itself

    def read_archives(self) -> None:
        """Read archive after archive: `cat a.tar b.tar` and `tar -A` make such files."""
        start = 0
        while not self.index.broken:
            end = self._read_archive(start)
            if self.index.broken:
                return
            # tarfile takes damage between two members for the end of the archive, which is a block of zeros.
            self.file.seek(end)
            if self.file.read(_BLOCK) != bytes(_BLOCK):
                self.index.broken = f"the archive has no end, or is damaged at byte {end}"
                return
            start = self._find_next(end + _BLOCK)
            if start < 0:
                return

    def _read_archive(self, start: int) -> int:
        """Read the members of the archive at `start`; returns the byte at which it ends."""
        self.file.seek(start)
        with tarfile.open(fileobj=_HeaderReader(self.file), mode="r:", ignore_zeros=False) as archive:
            before = -1
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # the library would keep them all
                ends_at = member.offset_data + (member.size if member.isreg() and not member.issparse() else 0)
                if member.size < 0 or archive.offset <= before:
                    self.index.broken = f"a member of {member.size} bytes at byte {member.offset}"
                elif ends_at > self.size or archive.offset > self.size + _BLOCK:
                    self.index.broken = f"the archive breaks off at byte {self.size}"
                elif self.index.read >= MAX_MEMBERS:
                    self.index.broken = f"it has more than {MAX_MEMBERS} members"
                else:
                    self._add(member)
                    before = archive.offset
                    continue
                break
            return archive.offset

    def _find_next(self, end: int) -> int:
        """The first block that is not zeros after the `end` of an archive; -1 if there is none."""
        self.file.seek(end)
        for start in range(end, min(self.size, end + MAX_PADDING), _STEP):
            block = self.file.read(_STEP)
            zeros = len(block) - len(block.lstrip(b"\0"))
            if zeros < len(block):
                return start + zeros - zeros % _BLOCK
        if self.size > end + MAX_PADDING:
            self.index.broken = f"more than {MAX_PADDING} bytes of zeros follow the end of the archive at byte {end}"
        return -1

    def _add(self, member: tarfile.TarInfo) -> None:
        self.index.read += 1
        name = to_storable_name(member.name)
        base = name.rstrip("/").rpartition("/")[2]
        problem = self._find_problem(member, name)
        if problem:
            position = name if len(name) <= MAX_NAME_BYTES else f"{name[:64]}…"
            self.index.faults.append((make_unique(position, self.positions, f"@{member.offset}"), problem))
        elif member.isdir():
            self.index.ignored.append((name, "folder"))
        elif any(part.startswith(".") and part != "." for part in name.split("/")):
            self.index.ignored.append((name, "hidden"))
        elif "/" not in name and len(base) > 4 and base.startswith("__") and base.endswith("__"):
            self.index.ignored.append((name, "name that WebDataset reserves"))
        else:
            self.names.add(name)
            self.positions.add(name)
            self.file.seek(member.offset_data)
            kinds = self.recognise(name, self.file, member.size)
            self.index.members.append(TarMember(name, member.offset_data, member.size, kinds))

    def _find_problem(self, member: tarfile.TarInfo, name: str) -> str:
        if len(name.encode()) > MAX_NAME_BYTES:
            return f"hostile member: its name has more than {MAX_NAME_BYTES} bytes"
        if member.isdir():
            return ""
        if not member.isreg() or member.issparse():
            return "hostile member: a link, a device, or a file with holes"
        if leaves_source(name):
            return "hostile member: its path leaves the archive"
        return "duplicate member: the name stands in this archive twice" if name in self.names else ""
