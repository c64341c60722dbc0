"""Which sample goes into which tar, and the tars themselves: the same rows, the same bytes."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from infra.errors import StageError
from infra.media.interface import MODALITIES
from mixtures.shards.series import Series

#: Suffixes that mean one format; a shard has one of them, so that any loader can tell its columns.
SUFFIX_ALIASES = {"jpeg": "jpg", "jpe": "jpg", "tiff": "tif", "mpg": "mpeg", "m4v": "mp4", "htm": "html"}

#: What Pillow calls a format, as a suffix: names may lie, content does not.
IMAGE_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp", "TIFF": "tif",
           "PPM": "ppm", "AVIF": "avif"}  # fmt: skip


def get_suffix(path: str, image_format: str | None = None) -> str:
    """The suffix of a medium's member: by its image format where known, else by its name; "bin" where it has none."""
    if image_format in IMAGE_SUFFIXES:
        return IMAGE_SUFFIXES[image_format]
    name = path.rsplit("/", 1)[-1]
    suffix = name.rsplit(".", 1)[-1].lower() if "." in name else "bin"
    return SUFFIX_ALIASES.get(suffix, suffix) if suffix.isalnum() else "bin"


@dataclass(frozen=True)
class ShardLayout:
    """Where each series' shards are, by the text of the series.

    capacity: weight of a full shard. first: number of a series' first shard. used: stretches of `capacity` weight, by
    number, in which a kept row of the series begins; each is a shard. One row larger than a shard leaves gaps.
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
    """int64 (n,): how much of a shard each row takes, so that neither limit is passed; 0 where not kept."""
    return np.where(kept, np.maximum(bytes_ * shard_samples, shard_bytes), 0)


def compute_capacity(shard_bytes: int, shard_samples: int) -> int:
    """The weight of a full shard."""
    return shard_bytes * shard_samples


def build_layout(used: Mapping[str, Sequence[int]], full: int) -> ShardLayout:
    """Shards from the stretches that each series uses (ascending); numbered through the sorted series of a modality."""
    first: dict[str, int] = {}
    for modality in MODALITIES:
        number = 0
        for series in sorted(s for s in used if Series.parse(s).modality == modality):
            first[series] = number
            number += len(used[series])
    return ShardLayout(full, first, {series: list(used[series]) for series in first})


def assign_shards(before: NDArray[np.int64], full: int, used: Sequence[int]) -> NDArray[np.int64]:
    """int64 (n,): the shard of rows that have so much weight before them, in their series; kept or not.

    A row that is not kept may lie where no shard begins: it is booked to the shard before it, or to the first.
    """
    place = np.searchsorted(np.asarray(used, dtype=np.int64), before // full, side="right") - 1
    return np.maximum(place, 0)


@dataclass(frozen=True)
class Member:
    """One member of a sample: its suffix, and its bytes or where they are read from with the sha256 they must have."""

    suffix: str
    data: bytes | None = None
    blocks: Iterable[bytes] | None = None
    size: int = 0
    sha256: str = ""
    where: str = ""


@dataclass(frozen=True)
class WrittenSample:
    """A sample in a tar: offset of its first header, size to the end of its padding, and each member's data."""

    key: str
    offset: int
    size: int
    members: tuple[tuple[str, int, int], ...]


def write_tar(path: Path, samples: Iterable[tuple[str, Sequence[Member]]]) -> tuple[str, list[WrittenSample]]:
    """Write samples (key, parts) in the order given; returns the tar's sha256 and where everything lies.

    ustar, time 0, owner 0, mode 0644: nothing but keys, suffixes and bytes decides the file.
    Raises StageError when a medium is no longer what it was at ingest.
    """
    written = []
    with open(path, "wb") as raw:
        file = _Hashing(raw)
        with tarfile.open(fileobj=cast(IO[bytes], file), mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for key, parts in samples:
                start = tar.offset
                members = []
                for part in parts:
                    info = tarfile.TarInfo(f"{key}.{part.suffix}")
                    info.size = part.size if part.data is None else len(part.data)
                    info.mode = 0o644
                    header = tar.offset
                    source = io.BytesIO(part.data) if part.data is not None else _Checked(part)
                    try:
                        tar.addfile(info, cast(IO[bytes], source))
                    except OSError as error:
                        raise StageError(
                            f"a medium is shorter than it was at ingest ({error})", where=part.where, hint=_AGAIN
                        ) from None
                    if isinstance(source, _Checked):
                        source.check()
                    members.append((info.name, header + tarfile.BLOCKSIZE, info.size))
                written.append(WrittenSample(key, start, tar.offset - start, tuple(members)))
        return file.digest(), written


_AGAIN = "its source has changed: run `reelmill ingest` again"


class _Hashing:
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._state = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._state.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()

    def digest(self) -> str:
        return self._state.hexdigest()


class _Checked:
    """A medium that is hashed while it is read."""

    def __init__(self, part: Member) -> None:
        self._blocks: Iterator[bytes] = iter(part.blocks or ())
        self._left = b""
        self._state = hashlib.sha256()
        self._part = part

    def read(self, size: int) -> bytes:
        while len(self._left) < size:
            block = next(self._blocks, b"")
            if not block:
                break
            self._left += block
        data, self._left = self._left[:size], self._left[size:]
        self._state.update(data)
        return data

    def check(self) -> None:
        if self._left or next(self._blocks, b"") or self._state.hexdigest() != self._part.sha256:
            raise StageError("a medium is not what it was at ingest", where=self._part.where, hint=_AGAIN)
