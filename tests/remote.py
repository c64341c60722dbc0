"""Copies of folders on remote storage: in memory, behind HTTP, and on a real S3 server on this machine."""

from __future__ import annotations

import functools
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

#: The S3 server that `make s3` builds; REELMILL_S3_SERVER names another.
S3_SERVER = Path(__file__).parents[1] / ".s3-server" / "versitygw"


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@contextmanager
def serve_http(folder: Path) -> Iterator[str]:
    """The address of a server of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serve_s3(folder: Path) -> Iterator[None]:
    """An S3 server whose buckets are empty, with its address and keys in the environment; skips without the server."""
    program = os.environ.get("REELMILL_S3_SERVER") or (str(S3_SERVER) if S3_SERVER.exists() else None)
    if program is None:
        pytest.skip("no S3 server: `make s3` builds one, and REELMILL_S3_SERVER names another versitygw")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    buckets, attributes = folder / "buckets", folder / "attributes"
    buckets.mkdir()
    attributes.mkdir()
    key, secret = "reelmill", secrets.token_hex(16)
    environment = {**os.environ, "ROOT_ACCESS_KEY": key, "ROOT_SECRET_KEY": secret}
    command = [program, "--port", f"127.0.0.1:{port}", "--quiet", "posix", "--sidecar", attributes, buckets]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while not _accepts(port):
            assert server.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("AWS_ACCESS_KEY_ID", key)
            patch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            yield
    finally:
        server.kill()
        server.wait()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def publish(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URI of a copy of a folder on a storage of a kind: "memory", "http" or "s3"."""
    if kind == "http":
        with serve_http(folder) as uri:
            yield uri
        return
    if kind == "s3":
        request.getfixturevalue("s3")
    bucket = f"bucket-{secrets.token_hex(4)}"
    root = f"/{bucket}" if kind == "memory" else bucket
    files = fsspec.filesystem(kind)
    files.mkdir(root)
    for path in (path for path in folder.rglob("*") if path.is_file()):
        files.pipe_file(f"{root}/{path.relative_to(folder)}", path.read_bytes())
    yield f"{kind}://{bucket}"
    files.rm(root, recursive=True)
