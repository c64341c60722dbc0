"""Files, local or behind any fsspec URI. Every file is written whole or not at all."""

from __future__ import annotations

import errno
import functools
import hashlib
import io
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

from infra.errors import BadSample, ConfigError, ReelmillError, StageError
from infra.http_file import HttpFile
from infra.terminal import write_line

T = TypeVar("T")

#: The beginning of a URI that fsspec opens: a protocol, or a chain of them ("simplecache::s3://"). A path that contains
#: "://" or "::" further on is a path.
_PROTOCOL = re.compile(r"(?!file://)(?:[A-Za-z][A-Za-z0-9+.-]*::)*([A-Za-z][A-Za-z0-9+.-]*)://")

#: Requests at a time for the sizes of files behind HTTP (ours).
_HTTP_REQUESTS = 16


@dataclass(frozen=True)
class Entry:
    """A listed file: `path` relative to the listed folder; `stamp` changes when the file does.

    fault: why it is no file to be read, "" if it is one: "hidden", "link to a folder", "link to nothing", "link that
    leaves the folder", "not a regular file", "folder that cannot be read", "no such file". Paths of folders end in "/".
    """

    path: str
    size: int
    stamp: str
    fault: str = ""


def is_local(uri: str) -> bool:
    """True for plain paths and file:// URIs."""
    return _PROTOCOL.match(uri) is None


def _is_http(uri: str) -> bool:
    match = _PROTOCOL.match(uri)
    return match is not None and match[1] in ("http", "https")


def local_path(uri: str) -> Path:
    """The Path of a local URI."""
    return Path(uri.removeprefix("file://"))


def join(uri: str, *names: str) -> str:
    """`uri` with `names` below it; empty names are skipped.

    Names are file names, never protocols or queries, whatever characters they contain: below HTTP they are quoted, and
    elsewhere the "::" of fsspec's chains is masked. In a chain like "zip://a::b.zip" they go below "a".
    """
    names = tuple(name.strip("/") for name in names if name)
    if is_local(uri):
        return "/".join([uri.rstrip("/"), *names])
    head, chain, tail = uri.partition("::") if "://" in uri.partition("::")[0] else (uri, "", "")
    quote = _quote if _is_http(uri) else functools.partial(re.sub, ":(?=:)", ":\0")
    start = head if head.endswith("://") else f"{head.rstrip('/')}/" if names else head
    return start + "/".join(map(quote, names)) + chain + tail


def _quote(name: str) -> str:
    return urllib.parse.quote(name, errors="surrogatepass")  # no name of a file has a lone surrogate, but a row may


def _remote(uri: str) -> tuple[Any, str]:
    """(fsspec file system, path in it). What other processes have written since the last call is seen."""
    import fsspec

    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:  # of a protocol that is unknown, or whose package is not installed
        raise ConfigError(str(error), where=uri, hint="`pip install s3fs`, gcsfs or adlfs for object stores") from None
    filesystem.invalidate_cache()  # listings, which s3fs keeps for ever
    return filesystem, path.replace("\0", "")  # see `join`


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
    return _is_remote_file(uri, filesystem, path)


def _is_remote_file(uri: str, filesystem: Any, path: str) -> bool:
    # Behind HTTP everything can be opened as a file; a folder is a page that links to what is below it.
    if _is_http(uri) and (uri.endswith("/") or filesystem.isdir(path)):
        return False
    return bool(filesystem.isfile(path))


#: Seconds before each further try of a read that failed by a fault of the environment (ours).
RETRY_AFTER_S = (0.2, 1.0)

#: Errors of a name or of the kind of file, which no other try and no other machine mends.
_FAULTS_OF_THE_FILE = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.EINVAL)


def is_environment_error(error: OSError) -> bool:
    """Whether a failure to read says something about the storage, the network or permissions, and not about the file.

    Errors without a number come from libraries that dislike the content, unless their class says otherwise.
    """
    if isinstance(error, ConnectionError | TimeoutError | PermissionError):
        return True
    if isinstance(error, FileNotFoundError):  # it was listed; a name that is not Unicode opens nothing
        return "\ufffd" not in str(error.filename)
    return error.errno is not None and error.errno not in _FAULTS_OF_THE_FILE


def retry(read: Callable[[], T]) -> T:
    """Call `read`, again after a pause while it fails by a fault of the environment that may pass; raises the last
    OSError."""
    for pause_s in (*RETRY_AFTER_S, None):
        try:
            return read()
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as error:
            if pause_s is None or not is_environment_error(error):
                raise
            time.sleep(pause_s)
    raise AssertionError  # the last try returns or raises


@contextmanager
def translate_remote_errors(uri: str) -> Iterator[None]:
    """Raise the errors of a remote file system's libraries, which may be of any class, as OSError with a number.

    Python's own errors are mistakes in code and pass, but for OSError; so do our own.
    """
    try:
        yield
    except (ConnectionError, TimeoutError, PermissionError, FileNotFoundError, ReelmillError, BadSample):
        raise
    except Exception as error:
        is_numbered = isinstance(error, OSError) and error.errno is not None
        is_mistake = not isinstance(error, OSError) and type(error).__module__ == "builtins"
        if is_local(uri) or is_numbered or is_mistake:
            raise
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


@contextmanager
def report_unreachable(uri: str) -> Iterator[None]:
    """Raise the errors of a remote file system as StageError that says what to check; those of local ones pass."""
    try:
        with translate_remote_errors(uri):
            yield
    except OSError as error:
        if is_local(uri):
            raise
        raise StageError(
            f"the storage cannot be reached: {error.strerror or error}",
            where=uri,
            hint="check its address, the network, and the credentials in the environment, then run it again",
        ) from None


def file_size(uri: str) -> int:
    """Bytes of a file. Raises OSError where there is none."""
    if is_local(uri):
        return local_path(uri).stat().st_size
    filesystem, path = _remote(uri)
    return int(filesystem.size(path) or 0)


def open_read(uri: str) -> IO[bytes]:
    """A seekable binary file, to be closed by the caller. Raises OSError if it is a pipe, socket or device."""
    if is_local(uri):
        return open(local_path(uri), "rb", opener=_open_regular)
    filesystem, path = _remote(uri)
    file = filesystem.open(path, "rb")
    if isinstance(file, io.BytesIO):  # memory:// gives every reader the same file, with one position
        return io.BytesIO(file.getvalue())
    return io.BufferedReader(HttpFile(file, filesystem, path), 2**16) if _is_http(uri) else file


def _open_regular(path: str, flags: int) -> int:
    """An opener of regular files only: opening a pipe would wait for ever, and a device may have no end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, os.strerror(code) if stat.S_ISDIR(mode) else "not a regular file", path)
    return descriptor


def read_bytes(uri: str, offset: int = 0, length: int = -1) -> bytes:
    """`length` bytes from `offset`; to the end when `length` < 0."""
    with translate_remote_errors(uri), open_read(uri) as file:
        file.seek(offset)
        return file.read(length) if length >= 0 else file.read()


def read_blocks(uri: str, offset: int = 0, length: int = -1, size: int = 2**20) -> Iterator[bytes]:
    """The bytes of `read_bytes` in blocks of at most `size`."""
    with translate_remote_errors(uri), open_read(uri) as file:
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
    return [entry for entry in list_entries(uri) if not entry.fault]


def list_entries(uri: str, *, outside_links: bool = True) -> list[Entry]:
    """The same with everything else that is there: what is no file to be read has a `fault`.

    outside_links: whether links to files outside `uri` are followed. Hidden folders and links to folders are one entry.
    """
    entries = _scan_local(local_path(uri), outside_links) if is_local(uri) else _scan_remote(uri)
    return sorted(entries, key=lambda entry: entry.path)


def stat_file(uri: str, name: str, *, outside_links: bool = True) -> Entry:
    """The entry of the file `name` below the folder `uri`, as `list_entries` would list it."""
    if is_local(uri):
        root = local_path(uri)
        path = root / name
        fault = _find_fault(path, None if outside_links else os.path.realpath(root))
        if fault:
            return Entry(name, 0, "", "no such file" if fault == _DANGLING and not path.is_symlink() else fault)
        return _entry_of(name, path.stat())
    filesystem, path_below = _remote(join(uri, name))
    try:
        info = filesystem.info(path_below)
    except FileNotFoundError:
        return Entry(name, 0, "", "no such file")
    entry = _remote_entry(name, info)
    return entry if info.get("type") != "directory" else replace(entry, fault="not a regular file")


_DANGLING = "link to nothing"


def _scan_remote(uri: str) -> Iterator[Entry]:
    filesystem, path = _remote(uri)
    if _is_remote_file(uri, filesystem, path):
        infos = {path: filesystem.info(path)}
        base = path.rsplit("/", 1)[0]
    else:
        infos = filesystem.find(path, detail=True)
        base = path.rstrip("/")
    if _is_http(uri):
        infos = _fetch_infos(filesystem, [name for name in infos if not {"?", "#"} & set(name[len(base) :])])
    for name, info in infos.items():
        if _is_folder_object(info):
            continue
        relative = name[len(base) :].lstrip("/")
        entry = _remote_entry(urllib.parse.unquote(relative) if _is_http(uri) else relative, info)
        is_hidden = any(folder.startswith(".") for folder in relative.split("/"))
        yield replace(entry, fault="hidden") if is_hidden else entry


def _is_folder_object(info: Mapping[str, Any]) -> bool:
    """Whether an empty object stands for a folder, as consoles of object stores make them."""
    return str(info["name"]).endswith("/") and not info.get("size")


def _fetch_infos(filesystem: Any, urls: Sequence[str]) -> dict[str, Any]:
    """Size and stamp of files behind HTTP, where a listing has names only."""
    with ThreadPoolExecutor(_HTTP_REQUESTS) as pool:
        return dict(zip(urls, pool.map(filesystem.info, urls), strict=True))


def _remote_entry(name: str, info: Mapping[str, Any]) -> Entry:
    stamps = (info.get(key) for key in ("ETag", "etag", "Last-Modified", "mtime", "created"))
    return Entry(name, int(info.get("size") or 0), str(next(filter(None, stamps), "")))


def _entry_of(name: str, status: os.stat_result) -> Entry:
    return Entry(name, status.st_size, str(status.st_mtime_ns))


def _scan_local(root: Path, outside_links: bool) -> Iterator[Entry]:
    if not root.is_dir():
        fault = "" if root.is_file() else "not a regular file"
        yield replace(_entry_of(root.name, root.stat()), fault=fault)
        return
    boundary = None if outside_links else os.path.realpath(root)
    stack = [(root, "")]
    while stack:
        folder, prefix = stack.pop()
        try:
            children = list(os.scandir(folder))
        except PermissionError:
            yield Entry(prefix, 0, "", "folder that cannot be read")
            continue
        for child in children:
            name = prefix + child.name
            is_folder = child.is_dir(follow_symlinks=False)
            if child.name.startswith("."):
                yield Entry(f"{name}/" if is_folder else name, 0, "", "hidden")
            elif is_folder:
                stack.append((folder / child.name, f"{name}/"))
            elif child.is_file(follow_symlinks=False):
                yield _entry_of(name, child.stat())
            elif fault := _find_fault(folder / child.name, boundary):
                yield Entry(name, 0, "", fault)
            else:
                yield _entry_of(name, child.stat())


def _find_fault(path: Path, boundary: str | None) -> str:
    """The fault of a local path; boundary: real path of the folder that links must not leave."""
    try:
        real = os.path.realpath(path, strict=True)
        mode = os.stat(real).st_mode  # noqa: PTH116  (a Path would normalise odd names)
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return _DANGLING
    if stat.S_ISDIR(mode):
        return "link to a folder" if path.is_symlink() else "not a regular file"
    if not stat.S_ISREG(mode):
        return "not a regular file"
    is_inside = boundary is None or os.path.commonpath([boundary, real]) == boundary
    return "" if is_inside else "link that leaves the folder"


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
    infos = [info for info in filesystem.ls(path, detail=True) if folders or not _is_folder_object(info)]
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
    errno.EISDIR: "remove the folder that has the name of this file",
    errno.EEXIST: "remove the file that has the name of this folder",
    errno.ENOTDIR: "remove the file that has the name of a folder above",
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
            where=str(path if error.errno == errno.EISDIR else path.parent),
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


#: Suffix of files set aside. They are damaged: nothing reads them, and a person may delete them.
DAMAGED_SUFFIX = ".damaged"


def set_aside(uri: str, consequence: str, target: str = "") -> None:
    """Rename a damaged file, and say so on stderr: it stays for a person to look at. consequence: what follows.

    target: its new location, by default beside it. Where the folder is read-only the file stays as it is.
    """
    target = target or uri + DAMAGED_SUFFIX
    outcome = f"set aside as {target}"
    try:
        if is_local(uri):
            local_path(target).parent.mkdir(parents=True, exist_ok=True)
            local_path(uri).replace(local_path(target))
        else:
            filesystem, path = _remote(uri)
            filesystem.mv(path, _remote(target)[1])
    except OSError as error:
        outcome = f"it cannot be renamed ({error.strerror or error})"
    write_line(f"reelmill: {uri} is damaged: {outcome}; {consequence}")


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
