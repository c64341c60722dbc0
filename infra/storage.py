"""Files, local or behind any fsspec URI. Everything written appears whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from infra.errors import StageError


@dataclass(frozen=True)
class Entry:
    """A file found: `path` relative to where it was looked for, `stamp` changes when the file does."""

    path: str
    size: int
    stamp: str


def is_local(uri: str) -> bool:
    """True for plain paths and file:// URIs."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The Path of a local URI."""
    return Path(uri.removeprefix("file://"))


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` below it."""
    return "/".join([uri.rstrip("/"), *[part.strip("/") for part in parts if part]])


def _remote(uri: str) -> tuple[Any, str]:
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem, path


def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    if is_local(uri):
        return local_path(uri).exists()
    filesystem, path = _remote(uri)
    return bool(filesystem.exists(path))


def is_file(uri: str) -> bool:
    """Whether a file is there."""
    if is_local(uri):
        return local_path(uri).is_file()
    filesystem, path = _remote(uri)
    return bool(filesystem.isfile(path))


def open_read(uri: str) -> IO[bytes]:
    """A seekable binary file, to be closed by the caller."""
    if is_local(uri):
        return open(local_path(uri), "rb")
    filesystem, path = _remote(uri)
    return filesystem.open(path, "rb")  # type: ignore[no-any-return]


def read_bytes(uri: str, offset: int = 0, length: int = -1) -> bytes:
    """`length` bytes from `offset`; to the end when `length` < 0."""
    with open_read(uri) as file:
        file.seek(offset)
        return file.read(length) if length >= 0 else file.read()


def read_blocks(uri: str, offset: int = 0, length: int = -1, size: int = 2**20) -> Iterator[bytes]:
    """The same bytes in pieces of at most `size`."""
    with open_read(uri) as file:
        file.seek(offset)
        left = length
        while left != 0:
            block = file.read(size if left < 0 else min(size, left))
            if not block:
                return
            left = left - len(block) if left > 0 else left
            yield block


def sha256(uri: str, offset: int = 0, length: int = -1) -> str:
    """sha256 of a byte range, as hex."""
    state = hashlib.sha256()
    for block in read_blocks(uri, offset, length):
        state.update(block)
    return state.hexdigest()


def list_files(uri: str) -> list[Entry]:
    """Every file at or below `uri`, sorted by relative path; hidden files and folders are left out.

    Links to files are followed, links to folders are not, so a loop cannot be entered.
    """
    if is_local(uri):
        return _list_local(local_path(uri))
    filesystem, path = _remote(uri)
    if filesystem.isfile(path):
        found = {path: filesystem.info(path)}
        base = path.rsplit("/", 1)[0]
    else:
        found = filesystem.find(path, detail=True)
        base = path.rstrip("/")
    entries = []
    for name, info in found.items():
        relative = name[len(base) :].lstrip("/")
        if any(part.startswith(".") for part in relative.split("/")):
            continue
        stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created") or ""
        entries.append(Entry(relative, int(info.get("size") or 0), str(stamp)))
    return sorted(entries, key=lambda entry: entry.path)


def _list_local(root: Path) -> list[Entry]:
    if root.is_file():
        status = root.stat()
        return [Entry(root.name, status.st_size, str(status.st_mtime_ns))]
    entries: list[Entry] = []
    stack = [(root, "")]
    while stack:
        folder, prefix = stack.pop()
        with os.scandir(folder) as listing:
            for item in listing:
                if item.name.startswith("."):
                    continue
                name = prefix + item.name
                if item.is_dir(follow_symlinks=False):
                    stack.append((folder / item.name, name + "/"))
                elif item.is_file():
                    status = item.stat()
                    entries.append(Entry(name, status.st_size, str(status.st_mtime_ns)))
    return sorted(entries, key=lambda entry: entry.path)


def list_names(uri: str) -> list[str]:
    """Names of the files directly in a folder, sorted; [] when there is no such folder; temporaries left out."""
    if is_local(uri):
        folder = local_path(uri)
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and entry.name[0] != ".")
    filesystem, path = _remote(uri)
    if not filesystem.isdir(path):
        return []
    found = [
        item["name"].rstrip("/").rsplit("/", 1)[-1]
        for item in filesystem.ls(path, detail=True)
        if item["type"] == "file"
    ]
    return sorted(name for name in found if name[0] != ".")


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; [] when there is no such folder."""
    if is_local(uri):
        folder = local_path(uri)
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()) if folder.is_dir() else []
    filesystem, path = _remote(uri)
    if not filesystem.isdir(path):
        return []
    return sorted(
        item["name"].rstrip("/").rsplit("/", 1)[-1]
        for item in filesystem.ls(path, detail=True)
        if item["type"] == "directory"
    )


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file whole: a temporary beside it, read back, fsynced and renamed; one upload on an object store."""
    if is_local(uri):
        target = local_path(uri)
        temporary = temporary_beside(target)
        with open(temporary, "wb") as file:
            file.write(data)
        _commit(temporary, target, hashlib.sha256(data).hexdigest())
        return
    filesystem, path = _remote(uri)
    filesystem.pipe_file(path, data)


def temporary_beside(target: Path) -> Path:
    """A hidden name in the target's folder (made if absent) that no other writer uses."""
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def publish(temporary: Path, uri: str, digest: str | None) -> None:
    """Move a finished local file to `uri` after reading it back against its sha256; None: its writer has done that.

    Raises StageError when the file on disk is not what was written.
    """
    if is_local(uri):
        _commit(temporary, local_path(uri), digest)
        return
    _verify(temporary, digest)
    filesystem, path = _remote(uri)
    filesystem.put_file(str(temporary), path)
    temporary.unlink()


def _verify(path: Path, digest: str | None) -> None:
    if digest is not None and sha256(str(path)) != digest:
        raise StageError("what was read back is not what was written", where=str(path), hint="check the disk")


def _commit(temporary: Path, target: Path, digest: str | None) -> None:
    try:
        _verify(temporary, digest)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove(uri: str) -> None:
    """Remove a file or a whole folder, if it is there. Called by explicit commands only, and for scratch."""
    if is_local(uri):
        path = local_path(uri)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    filesystem, path_text = _remote(uri)
    if filesystem.exists(path_text):
        filesystem.rm(path_text, recursive=True)


class RangeFile(io.RawIOBase):
    """A read-only seekable view of `length` bytes at `offset` of an open file: all that a demuxer gets to see."""

    def __init__(self, file: IO[bytes], offset: int, length: int) -> None:
        self._file = file
        self._offset = offset
        self._position = 0
        if length < 0:
            length = max(0, file.seek(0, io.SEEK_END) - offset)
        self._length = length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek before the start: {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._length - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        self._file.seek(self._offset + self._position)
        data = self._file.read(wanted)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
