"""Assign samples to tars and write the tars: equal rows give equal bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from infra.errors import SourceChanged, StageError
from infra.media.interface import MODALITIES
from infra.storage import report_disk_errors
from mixtures.shards.series import Series
from mixtures.shards.ustar import build_header, count_end, count_padding

#: Suffixes of one format are unified, so that any loader can infer the columns of a shard.
SUFFIX_ALIASES = {"jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "pjpeg": "jpg", "tiff": "tif", "mpg": "mpeg",
                  "m4v": "mp4", "mts": "ts", "m2ts": "ts", "vob": "mpeg", "asf": "wmv",
                  "htm": "html"}  # fmt: skip

#: Suffixes of a format, by Pillow's name of an image's and FFmpeg's name of a video's: the content decides, since file
#: names can be wrong. A name's own suffix is kept if it is one of them, otherwise it becomes the first.
FORMAT_SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "JPEG": ("jpg",), "MPO": ("jpg",), "PNG": ("png",), "GIF": ("gif",), "WEBP": ("webp",), "BMP": ("bmp",),
    "TIFF": ("tif",), "PPM": ("ppm",), "AVIF": ("avif",), "JPEG2000": ("jp2",), "QOI": ("qoi",),
    "ICO": ("ico",), "DIB": ("bmp",),
    "mov,mp4,m4a,3gp,3g2,mj2": ("mp4", "mov", "3gp", "3g2"), "matroska,webm": ("mkv", "webm"), "mpegts": ("ts",),
    "mpeg": ("mpeg", "ps"), "avi": ("avi",), "flv": ("flv",), "asf": ("wmv",), "ogg": ("ogv",), "gif": ("gif",),
}  # fmt: skip


#: Longest suffix of a member (ours): a name in a tar has at most 100 characters, 26 of them the key's.
MAX_SUFFIX = 16


def get_suffix(path: str, media_format: str | None = None) -> str:
    """Return the suffix of a medium's member: by its format, else by file name, else "bin".

    A suffix is short, ASCII, and never that of the sample's JSON or caption, whatever the source calls its files.
    """
    name = path.rsplit("/", 1)[-1]
    suffix = name.rsplit(".", 1)[-1].lower() if "." in name else "bin"
    if not (suffix.isascii() and suffix.isalnum()) or len(suffix) > MAX_SUFFIX or suffix in ("json", "txt"):
        suffix = "bin"
    suffix = SUFFIX_ALIASES.get(suffix, suffix)
    suffixes = FORMAT_SUFFIXES.get(media_format or "", (suffix,))
    return suffix if suffix in suffixes else suffixes[0]


@dataclass(frozen=True)
class ShardLayout:
    """Shards of each series, by the text of the series.

    capacity: weight of a full shard. first: number of a series' first shard. used: numbers of the stretches of
    `capacity` weight in which a kept row of the series begins; each is a shard. A row larger than a shard causes gaps.
    """

    capacity: int
    first: Mapping[str, int]
    used: Mapping[str, Sequence[int]]

    def names(self) -> list[str]:
        return [self.name(series, i) for series in self.first for i in range(len(self.used[series]))]

    def name(self, series: str, index: int) -> str:
        return f"{Series.parse(series).modality}-{self.first[series] + index:06d}"


def weigh_rows(
    bytes_: NDArray[np.int64], kept: NDArray[np.bool_], shard_bytes: int, shard_samples: int
) -> NDArray[np.int64]:
    """Compute int64 (n,): share of a shard that each row uses, so that neither limit is exceeded; 0 where not kept."""
    return np.where(kept, np.maximum(bytes_ * shard_samples, shard_bytes), 0)


def compute_capacity(shard_bytes: int, shard_samples: int) -> int:
    """Compute the weight of a full shard."""
    return shard_bytes * shard_samples


def build_layout(used: Mapping[str, Sequence[int]], full: int) -> ShardLayout:
    """Number the shards, given the stretches that each series uses (ascending), through a modality's sorted series."""
    first: dict[str, int] = {}
    for modality in MODALITIES:
        number = 0
        for series in sorted(s for s in used if Series.parse(s).modality == modality):
            first[series] = number
            number += len(used[series])
    return ShardLayout(full, first, {series: list(used[series]) for series in first})


def assign_shards(before: NDArray[np.int64], full: int, used: Sequence[int]) -> NDArray[np.int64]:
    """Compute int64 (n,): shard of each row, kept or not, by the weight before it in its series.

    A row that is not kept may begin in a stretch without a shard: it counts to the preceding shard, or to the first.
    """
    shard = np.searchsorted(np.asarray(used, dtype=np.int64), before // full, side="right") - 1
    return np.maximum(shard, 0)


@dataclass(frozen=True)
class Member:
    """One member of a sample: its suffix and its content, or blocks to read it from with their expected sha256."""

    suffix: str
    content: bytes | None = None
    blocks: Iterable[bytes] | None = None
    size: int = 0
    sha256: str = ""
    where: str = ""


@dataclass(frozen=True)
class WrittenSample:
    """A sample in a tar: from its first header to the end of its padding; members: (name, offset, size) of contents."""

    key: str
    offset: int
    size: int
    members: tuple[tuple[str, int, int], ...]


def write_tar(path: Path, samples: Iterable[tuple[str, Sequence[Member]]]) -> tuple[str, list[WrittenSample]]:
    """Write samples (key, members) in order; returns the tar's sha256 and the location of every sample.

    ustar, time 0, owner 0, mode 0644: the file depends on keys, suffixes and contents only.
    Raises StageError when a medium has changed since ingest or cannot be read, and when the disk of `path` is full.
    """
    written = []
    with report_disk_errors(path), open(path, "wb") as raw:
        file = _HashingWriter(raw)
        for key, members in samples:
            start = file.size
            locations = []
            for member in members:
                name = f"{key}.{member.suffix}"
                size = member.size if member.content is None else len(member.content)
                file.write(build_header(name, size))
                locations.append((name, file.size, size))
                for block in (member.content,) if member.content is not None else _read_checked(member):
                    file.write(block)
                file.write(bytes(count_padding(size)))
            written.append(WrittenSample(key, start, file.size - start, tuple(locations)))
        file.write(bytes(count_end(file.size)))
    return file.digest(), written


_AGAIN = "its source has changed: `reelmill run` ingests it again"


class _HashingWriter:
    """A file that is hashed while it is written. size: bytes so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._state = hashlib.sha256()
        self.size = 0

    def write(self, content: bytes) -> None:
        self._state.update(content)
        self._file.write(content)
        self.size += len(content)

    def digest(self) -> str:
        return self._state.hexdigest()


def _read_checked(member: Member) -> Iterator[bytes]:
    """Yield a medium's blocks. Raises StageError where they are not `size` bytes with the expected sha256."""
    state, count = hashlib.sha256(), 0
    try:
        for block in member.blocks or ():
            count += len(block)
            if count > member.size:
                break
            state.update(block)
            yield block
    except OSError as error:
        raise StageError(
            f"a medium cannot be read: {error.strerror or error}",
            where=member.where,
            hint="if it is still there, run the same command again, else `reelmill ingest`",
        ) from None
    if count != member.size:
        longer = "longer" if count > member.size else "shorter"
        raise SourceChanged(f"a medium is {longer} than it was at ingest", where=member.where, hint=_AGAIN)
    if state.hexdigest() != member.sha256:
        raise SourceChanged("a medium is not what it was at ingest", where=member.where, hint=_AGAIN)
