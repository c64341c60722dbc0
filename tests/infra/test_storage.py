from __future__ import annotations

import errno
import functools
import hashlib
import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from infra import storage
from infra.errors import BadSample, ConfigError, StageError
from tests import remote


@pytest.fixture(params=["local", "file", "memory", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param in ("memory", "s3"):
        (tmp_path / "nothing").mkdir()
        with remote.publish(request.param, tmp_path / "nothing", request) as uri:
            yield uri
    else:
        yield str(tmp_path / "in") if request.param == "local" else f"file://{tmp_path / 'in'}"


def test_local_paths_and_uris_behave_the_same(root: str) -> None:
    for name, content in (("b", b"bb"), ("a/x", b"0123456789"), ("a/.hidden", b"h"), (".secret/y", b"s")):
        storage.write_bytes(storage.join(root, name), content)
    uri = storage.join(root, "a", "x")
    assert storage.exists(uri) and storage.is_file(uri) and not storage.is_file(storage.join(root, "a"))
    assert storage.read_bytes(uri) == b"0123456789"
    assert storage.read_bytes(uri, 2, 3) == b"234" and storage.read_bytes(uri, 8, 9) == b"89"
    assert list(storage.read_blocks(uri, 1, 7, size=3)) == [b"123", b"456", b"7"]
    assert (
        list(storage.read_blocks(uri, 1, size=8)) == [b"12345678", b"9"] and list(storage.read_blocks(uri, 3, 0)) == []
    )
    assert storage.sha256(uri, 2, 3) == hashlib.sha256(b"234").hexdigest()
    listing = storage.list_files(root)
    assert [(entry.path, entry.size) for entry in listing] == [("a/x", 10), ("b", 2)]
    assert [entry.path for entry in storage.list_files(uri)] == ["x"]
    assert storage.list_names(root) == ["b"] and storage.list_names(storage.join(root, "no")) == []
    assert storage.list_folders(root) == [".secret", "a"] and storage.list_folders(storage.join(root, "no")) == []
    storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"new"
    storage.remove(storage.join(root, "a"))
    storage.remove(storage.join(root, "a"))
    assert not storage.exists(uri)
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(uri)


def test_publish_moves_what_was_written_and_refuses_what_was_not(root: str, tmp_path: Path) -> None:
    for content, digest in ((b"good", hashlib.sha256(b"good").hexdigest()), (b"bad", "0" * 64)):
        target = storage.join(root, content.decode())
        temporary = storage.temporary_for(target)
        temporary.write_bytes(content)
        if content == b"good":
            storage.publish(temporary, target, digest)
            assert storage.read_bytes(target) == b"good" and not temporary.exists()
        else:
            with pytest.raises(StageError, match="not what was written"):
                storage.publish(temporary, target, digest)
            assert not storage.exists(target)


def test_a_pending_file_appears_only_when_its_block_ends_well_and_its_sum_is_right(root: str) -> None:
    uri = storage.join(root, "x")
    with storage.publish_when_written(uri) as file:
        file.path.write_bytes(b"good")
        file.sha256 = hashlib.sha256(b"good").hexdigest()
        assert not storage.exists(uri)
    assert storage.read_bytes(uri) == b"good"
    with pytest.raises(StageError, match="not what was written"), storage.publish_when_written(uri) as file:
        file.path.write_bytes(b"bad")  # and no sum
    with pytest.raises(ValueError, match="broken"), storage.publish_when_written(uri) as file:
        file.path.write_bytes(b"half")
        raise ValueError("broken")
    assert storage.read_bytes(uri) == b"good" and not file.path.exists()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "file"
    storage.write_bytes(str(target), b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        storage.write_bytes(str(target), b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_temporaries_are_hidden_and_differ(tmp_path: Path) -> None:
    names = {storage.temporary_for(str(tmp_path / "new" / "x.parquet")) for _ in range(50)}
    assert len(names) == 50 and all(name.name.startswith(".") for name in names)


def test_joining_paths_and_uris() -> None:
    assert storage.join("a/", "/b/", "", "c") == "a/b/c"
    assert storage.join("s3://bucket", "x") == "s3://bucket/x"
    assert storage.join("http://h/a%20b/", "c d/#1%.jpg") == "http://h/a%20b/c%20d/%231%25.jpg"
    assert storage.join("zip://in::/a.zip", "x::y") == "zip://in/x:\0:y::/a.zip"
    assert storage.join("zip://::/a.zip", "x") == "zip://x::/a.zip"


@pytest.mark.parametrize(
    "name", ["a::b", "a:::b::", "x1://y", "file://z", "s3://b/k", "::memory://q", "a b#?%*[c]", "é"]
)
def test_names_are_never_taken_for_protocols(root: str, name: str) -> None:
    assert storage.is_local(name) == (name == "file://z" or "://" not in name or name.startswith("::"))
    uri = storage.join(root, name)
    assert storage.is_local(uri) == storage.is_local(root)
    storage.write_bytes(uri, b"x")
    assert storage.read_bytes(uri) == b"x" and storage.is_file(uri)
    if "//" not in name:  # empty folder names are lost in a listing
        assert [entry.path for entry in storage.list_files(root)] == [name]
    storage.write_bytes(storage.join(root, "z"), b"")
    assert storage.stat_file(root, name).size == 1
    assert storage.stat_file(root, f"{name}.no").fault == "no such file"


def test_what_another_process_writes_is_seen_at_once(root: str, tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b/c", b"1")):
        storage.write_bytes(storage.join(root, name), content)
    assert storage.list_names(root) == ["a"] and len(storage.list_files(root)) == 2
    filesystem, path = fsspec.core.url_to_fs(root, skip_instance_cache=True)  # of another process
    for name, content in (("a", b"longer"), ("b/d", b"1"), ("new", b"22")):
        filesystem.pipe_file(f"{path}/{name}", content)
    assert storage.list_names(root) == ["a", "new"] and storage.list_names(storage.join(root, "b")) == ["c", "d"]
    assert storage.exists(storage.join(root, "b", "d")) and storage.is_file(storage.join(root, "new"))
    assert storage.file_size(storage.join(root, "a")) == storage.stat_file(root, "a").size == 6
    assert storage.read_bytes(storage.join(root, "a")) == b"longer"
    filesystem.rm_file(f"{path}/new")
    assert not storage.exists(storage.join(root, "new"))


def test_a_storage_that_cannot_be_reached_is_named_and_our_own_errors_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    for name, setting in {
        "ENDPOINT_URL": address,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", setting)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with (
        pytest.raises(StageError, match="the storage cannot be reached") as caught,
        storage.report_unreachable("s3://b"),
    ):
        storage.exists("s3://b/x")
    assert address in str(caught.value) and "credentials" in str(caught.value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    for error in (StageError("bug"), ConfigError("wrong"), BadSample("kind", "detail")):
        with pytest.raises(type(error)), storage.translate_remote_errors("s3://b"):
            raise error
    with pytest.raises(ConfigError, match="Protocol not known"):
        storage.exists("nosuch://b")


def test_folders_that_are_objects_are_no_files(s3: None) -> None:
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdir("markers")
    filesystem.call_s3("put_object", Bucket="markers", Key="a folder/", Body=b"")
    filesystem.pipe_file("markers/a folder/x", b"1")
    filesystem.call_s3("put_object", Bucket="markers", Key="empty/", Body=b"")
    assert [(entry.path, entry.fault) for entry in storage.list_entries("s3://markers")] == [("a folder/x", "")]
    assert storage.list_names("s3://markers/a folder") == ["x"] and not storage.is_file("s3://markers/empty")
    assert storage.list_names("s3://markers/empty") == [] and storage.list_entries("s3://markers/empty") == []


def test_a_pipe_a_socket_or_a_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (str(tmp_path / "pipe"), "/dev/zero"):
        with pytest.raises(OSError, match="not a regular file"):
            storage.read_bytes(path)
    with pytest.raises(IsADirectoryError):
        storage.read_bytes(str(tmp_path))


def test_a_listing_follows_links_to_files_only_and_changes_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_bytes(b"a")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "a")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    listing = storage.list_files(str(tmp_path))
    assert [entry.path for entry in listing] == ["link", "real/a"]
    os.utime(tmp_path / "real" / "a", ns=(1, 1))
    assert storage.list_files(str(tmp_path))[1].stamp != listing[1].stamp


@pytest.mark.parametrize(
    ("name", "reason"), [("x" * 300, "File name too long"), (f"{'x' * 300}/a.json", "File name too long")]
)
def test_a_place_that_cannot_be_written_to_is_named_with_its_reason(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(StageError, match=f"cannot write here: {reason}") as caught:
        storage.write_bytes(str(tmp_path / name), b"{}")
    assert caught.value.where.startswith(str(tmp_path)) and "shorter path" in caught.value.hint


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_each_error_of_the_disk_says_what_to_do(tmp_path: Path, code: int) -> None:
    with pytest.raises(StageError) as caught, storage.report_disk_errors(tmp_path / "a.tar"):
        raise OSError(code, os.strerror(code))
    assert os.strerror(code) in caught.value.what and caught.value.where == str(tmp_path)
    assert "run the same command again" in caught.value.hint
    with pytest.raises(OSError, match="decoder"), storage.report_disk_errors(tmp_path / "a.tar"):
        raise OSError("decoder")


@pytest.fixture
def website(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and its address: a server that lists folders and does not know range requests."""
    root = tmp_path / "www"
    root.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_folders_behind_http_are_listed_and_their_files_read_at_any_byte(website: tuple[Path, str]) -> None:
    root, address = website
    names = ["a.jpg", "b c/#1 %41?.jpg", "b c/x::y.txt", "ü/ü.txt", "b c/d/deep"]
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode() + bytes(number))
    entries = storage.list_files(f"{address}/")
    assert {entry.path: entry.size for entry in entries} == {n: len(n.encode()) + i for i, n in enumerate(names)}
    assert all(entry.stamp for entry in entries) and storage.list_files(address) == entries
    assert [entry.path for entry in storage.list_files(f"{address}/b%20c/d/")] == ["deep"]
    assert [entry.path for entry in storage.list_files(f"{address}/b%20c/d/deep")] == ["deep"]
    for name in names:
        uri = storage.join(f"{address}/", name)
        assert storage.is_file(uri) and storage.read_bytes(uri) == (root / name).read_bytes()
        assert storage.read_bytes(uri, 2, 3) == name.encode()[2:5]
        assert storage.stat_file(address, name).size == (root / name).stat().st_size
    assert not storage.is_file(f"{address}/b%20c") and not storage.exists(f"{address}/no")
    assert storage.stat_file(address, "no").fault == "no such file"
    (root / "large").write_bytes(os.urandom(12 * 2**20))
    uri = storage.join(address, "large")
    assert storage.sha256(uri) == storage.sha256(str(root / "large"))
    assert storage.sha256(uri, 7 * 2**20, 1000) == storage.sha256(str(root / "large"), 7 * 2**20, 1000)
    with storage.open_read(uri) as file:
        assert file.seek(-5, os.SEEK_END) == 12 * 2**20 - 5 and len(file.read()) == 5
