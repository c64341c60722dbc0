"""Files, local or behind any fsspec URI. Every file is written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from infra.errors import StageError


@dataclass(frozen=True)
class Entry:
    """A listed file: `path` relative to the listed folder; `stamp` changes when the file does."""

    path: str
    size: int
    stamp: str


def is_local(uri: str) -> bool:
    """True for plain paths and file:// URIs."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The Path of a local URI."""
    return Path(uri.removeprefix("file://"))


def join(uri: str, *names: str) -> str:
    """`uri` with `names` below it; empty names are skipped."""
    return "/".join([uri.rstrip("/"), *[name.strip("/") for name in names if name]])


def _remote(uri: str) -> tuple[Any, str]:
    """(fsspec file system, path in it)."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(uri)
    return filesystem, path


def exists(uri: str) -> bool:
    """Whether a file or folder exists."""
    if is_local(uri):
        return local_path(uri).exists()
    filesystem, path = _remote(uri)
    return bool(filesystem.exists(path))


def is_file(uri: str) -> bool:
    """Whether a file exists."""
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
    """The bytes of `read_bytes` in blocks of at most `size`."""
    with open_read(uri) as file:
        file.seek(offset)
        remaining = length
        while remaining != 0:
            block = file.read(size if remaining < 0 else min(size, remaining))
            if not block:
                return
            remaining = remaining - len(block) if remaining > 0 else remaining
            yield block


def sha256(uri: str, offset: int = 0, length: int = -1) -> str:
    """sha256 of a byte range, as hex."""
    state = hashlib.sha256()
    for block in read_blocks(uri, offset, length):
        state.update(block)
    return state.hexdigest()


def list_files(uri: str) -> list[Entry]:
    """Every file at or below `uri`, sorted by relative path, without hidden files and folders.

    Links to files are followed, links to folders are not, so that a loop cannot be entered.
    """
    entries = list(_scan_local(local_path(uri)) if is_local(uri) else _scan_remote(uri))
    return sorted(entries, key=lambda entry: entry.path)


def _scan_remote(uri: str) -> Iterator[Entry]:
    filesystem, path = _remote(uri)
    if filesystem.isfile(path):
        infos = {path: filesystem.info(path)}
        base = path.rsplit("/", 1)[0]
    else:
        infos = filesystem.find(path, detail=True)
        base = path.rstrip("/")
    for name, info in infos.items():
        relative = name[len(base) :].lstrip("/")
        if any(folder.startswith(".") for folder in relative.split("/")):
            continue
        stamp = info.get("ETag") or info.get("etag") or info.get("mtime") or info.get("created") or ""
        yield Entry(relative, int(info.get("size") or 0), str(stamp))


def _scan_local(root: Path) -> Iterator[Entry]:
    if root.is_file():
        status = root.stat()
        yield Entry(root.name, status.st_size, str(status.st_mtime_ns))
        return
    stack = [(root, "")]
    while stack:
        folder, prefix = stack.pop()
        with os.scandir(folder) as children:
            for child in children:
                if child.name.startswith("."):
                    continue
                name = prefix + child.name
                if child.is_dir(follow_symlinks=False):
                    stack.append((folder / child.name, name + "/"))
                elif child.is_file():
                    status = child.stat()
                    yield Entry(name, status.st_size, str(status.st_mtime_ns))


def list_names(uri: str) -> list[str]:
    """Names of the files directly in a folder, sorted, without hidden ones; [] when there is no such folder."""
    return [name for name in _list_children(uri, folders=False) if not name.startswith(".")]


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; [] when there is no such folder."""
    return _list_children(uri, folders=True)


def _list_children(uri: str, *, folders: bool) -> list[str]:
    if is_local(uri):
        folder = local_path(uri)
        if not folder.is_dir():
            return []
        with os.scandir(folder) as children:
            return sorted(child.name for child in children if (child.is_dir() if folders else child.is_file()))
    filesystem, path = _remote(uri)
    if not filesystem.isdir(path):
        return []
    kind = "directory" if folders else "file"
    infos = filesystem.ls(path, detail=True)
    return sorted(info["name"].rstrip("/").rsplit("/", 1)[-1] for info in infos if info["type"] == kind)


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file whole: locally as `publish_when_written` does, on an object store as one upload."""
    if is_local(uri):
        with publish_when_written(uri) as file:
            with report_disk_errors(file.path):
                file.path.write_bytes(content)
            file.sha256 = hashlib.sha256(content).hexdigest()
        return
    filesystem, path = _remote(uri)
    filesystem.pipe_file(path, content)


#: Errors of the place that is written to, not of what is written: full, over a quota, read-only, forbidden, broken, or
#: a path that is too long for it.
_DISK_ERRORS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space, or raise the quota",
    errno.EFBIG: "use a file system that holds files of this size, or smaller shards",
    errno.EROFS: "this file system is read-only: give a folder that can be written",
    errno.EACCES: "give a folder that this user may write to",
    errno.EPERM: "give a folder that this user may write to",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EIO: "check the disk",
}


@contextmanager
def report_disk_errors(path: Path) -> Iterator[None]:
    """Raise errors of the place that is written to as StageError that names its folder; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        raise StageError(
            f"cannot write here: {os.strerror(error.errno)}",
            where=str(path.parent),
            hint=f"{_DISK_ERRORS[error.errno]}, then run the same command again: what is finished is kept",
        ) from None


@dataclass
class PendingFile:
    """A file under its temporary name. sha256: of the bytes, set by whoever writes them."""

    path: Path
    sha256: str = ""


@contextmanager
def publish_when_written(uri: str) -> Iterator[PendingFile]:
    """Give a temporary file to write to, and `publish` it at `uri` when the block ends without an error.

    The block writes `file.path` and sets `file.sha256`. The temporary file is removed whatever happens.
    """
    file = PendingFile(temporary_for(uri))
    try:
        yield file
        publish(file.path, uri, file.sha256)
    finally:
        with suppress(OSError):  # where it could not be written, the first error counts
            file.path.unlink(missing_ok=True)


def temporary_for(uri: str) -> Path:
    """A local path that no other writer uses: hidden, beside a local `uri` (its folder is created), otherwise in the
    system's temporary folder."""
    target = local_path(uri) if is_local(uri) else Path(tempfile.gettempdir()) / uri.rsplit("/", 1)[-1]
    with report_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    return target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"


def publish(temporary: Path, uri: str, expected_sha256: str | None) -> None:
    """Move a finished local file to `uri`: read it back, fsync and rename it, or upload it to an object store.

    expected_sha256: of its bytes; None skips the check, for a writer that has read them back itself.
    Raises StageError when the file on disk is not what was written. A failure removes the temporary file.
    """
    try:
        if expected_sha256 is not None and (actual := sha256(str(temporary))) != expected_sha256:
            raise StageError(
                f"the file on disk is not what was written: its sha256 is {actual}, not {expected_sha256}",
                where=str(temporary),
                hint=f"check the disk, then run the same command again; nothing was written to {uri}",
            )
        if not is_local(uri):
            filesystem, path = _remote(uri)
            filesystem.put_file(str(temporary), path)
            return
        target = local_path(uri)
        with report_disk_errors(target):
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)  # a rename is durable once its folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def remove(uri: str) -> None:
    """Remove a file or a whole folder, if it exists. Called by explicit commands only, and for scratch."""
    if is_local(uri):
        path = local_path(uri)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    filesystem, remote_path = _remote(uri)
    if filesystem.exists(remote_path):
        filesystem.rm(remote_path, recursive=True)
