"""Rows of Parquet, read by a child process with a limit on its memory."""

from __future__ import annotations

import errno
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from infra import storage
from infra.errors import BadSample, StageError
from pipelines.ingest.tables import streams
from pipelines.ingest.tables.parquet_child import BLOB

#: Memory of the child (ours): a batch of rows, a page and what the library needs beside them.
ADDRESS_SPACE = 4 * 2**30

#: The child is ended when it writes nothing for so long (ours). It counts as a fault of the machine.
WATCHDOG_S = 600.0

MAX_MESSAGE_BYTES = 2**30

CHILD_MODULE = "pipelines.ingest.tables.parquet_child"


def read_parquet(uri: str, text_column: str | None, media: Sequence[str] = ()) -> Iterator[tuple[int, Any, str | None]]:
    """(number, row, error) of each row. text_column: whose bytes must be text. media: columns whose cells stay bytes.

    Raises OSError where the machine, not the table, is at fault.
    """
    with local_copy(uri) as path, _run_child(path, text_column, media) as messages:
        budget = streams.budget_for(path.stat().st_size)
        number = 0
        while True:
            try:
                message, size = next(messages)
            except BadSample as error:
                yield number, None, str(error)
                return
            budget -= size
            if "end" in message:
                if message["end"]:
                    yield number, None, message["end"]
                return
            if budget < 0:
                yield number, None, f"too_large: the table unpacks to more than {streams.MAX_RATIO} times its size"
                return
            if "columns" not in message:
                yield number, *_check_row(message)
                number += 1


def list_columns(uri: str) -> dict[str, str]:
    """Type by name of each column. Raises BadSample where the file cannot be read."""
    with local_copy(uri) as path, _run_child(path, None, ()) as messages:
        message, _ = next(messages)
    if "columns" not in message:
        raise BadSample(*message["end"].split(": ", 1))
    return dict(message["columns"])


def _check_row(message: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None]:
    row, fault = message.get("row"), message.get("fault")
    for name, cell in () if row is None else row.items():
        if fault is None and isinstance(cell, str) and (problem := streams.find_fault(cell)):
            fault = f"broken row: the column {name!r} is not UTF-8" if problem.startswith("broken") else problem
    return (None, fault) if fault else (row, None)


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A table as a local file, which is removed afterwards if it is a copy."""
    if storage.is_local(uri):
        yield storage.local_path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="reelmill-") as folder:
        path = Path(folder) / "table.parquet"
        with path.open("wb") as target:
            for block in storage.read_blocks(uri):
                target.write(block)
        yield path


@contextmanager
def _run_child(
    path: Path, text_column: str | None, media: Sequence[str]
) -> Iterator[Iterator[tuple[dict[str, Any], int]]]:
    """(message, bytes) of each message of a child that reads `path`."""
    request = {"path": str(path), "address_space": ADDRESS_SPACE, "media": list(media),
               "text": text_column, "max_row_bytes": streams.MAX_ROW_BYTES}  # fmt: skip
    # The child imports what this process can.
    modules = [os.path.abspath(folder) for folder in sys.path]  # noqa: PTH100
    child = subprocess.Popen(
        [sys.executable, "-m", CHILD_MODULE, json.dumps(request)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(modules))},
    )
    try:
        yield _receive(child)
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _receive(child: subprocess.Popen[bytes]) -> Iterator[tuple[dict[str, Any], int]]:
    assert child.stdout is not None
    pipe = io.BufferedReader(ChildPipe(child.stdout.fileno()), 2**20)
    while True:
        header = pipe.read(8)
        if len(header) < 8:
            _explain_death(child)
        (length,) = struct.unpack("<Q", header)
        content = pipe.read(min(length, MAX_MESSAGE_BYTES))
        message: dict[str, Any] = json.loads(content) if len(content) == length else _explain_death(child)
        sizes: list[int] = message["blobs"]
        blobs = [pipe.read(size) for size in sizes]
        if [len(blob) for blob in blobs] != sizes:
            _explain_death(child)
        if blobs:
            message["row"] = _insert_blobs(message["row"], blobs)
        yield message, length + sum(sizes)
        if "end" in message:
            return


def _insert_blobs(cell: Any, blobs: Sequence[bytes]) -> Any:
    if isinstance(cell, dict):
        if cell.keys() == {BLOB}:
            return blobs[cell[BLOB]]
        return {name: _insert_blobs(field, blobs) for name, field in cell.items()}
    return [_insert_blobs(element, blobs) for element in cell] if isinstance(cell, list) else cell


def _explain_death(child: subprocess.Popen[bytes]) -> NoReturn:
    """Raise BadSample where the file made the library crash, OSError where the system ended the child, StageError for a
    mistake of ours."""
    code = child.wait()
    if code == -signal.SIGKILL:
        raise OSError(errno.ENOMEM, "the system ended the process that reads Parquet; is there memory enough?")
    if code < 0:
        raise BadSample("unreadable table", f"the library that reads it crashes from here on (signal {-code})")
    raise StageError(f"the process that reads Parquet failed (exit code {code}); its traceback is in the log")


class ChildPipe(io.RawIOBase):
    """The output of a child. Raises OSError when nothing comes for WATCHDOG_S."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        poll = select.poll()  # unlike select, for descriptors of any number
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(WATCHDOG_S * 1000):
            raise OSError(errno.ETIMEDOUT, f"the process that reads Parquet gave nothing for {WATCHDOG_S:g} s")
        return os.readv(self._fd, [buffer])
