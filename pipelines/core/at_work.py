"""Notes of the units that tasks are at work on, in RUN/work/at-work: `reelmill status` shows which take long."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from infra import storage
from infra.commit import find_json, is_running
from infra.errors import StageError
from infra.hashing import canonical_json
from pipelines.core.run import Run

_FOLDER = "at-work"


@contextmanager
def note_unit(run: Run, stage: str, unit: str) -> Iterator[None]:
    """Note that this process is at work on a unit while the block runs; a killed one leaves its note."""
    uri = run.work(_FOLDER, f"{stage}.{unit}.json")
    note = {"stage": stage, "unit": unit, "host": socket.gethostname(), "pid": os.getpid(), "since": int(time.time())}
    with suppress(OSError, StageError):  # the work goes on without a note
        storage.write_bytes(uri, canonical_json(note))
    try:
        yield
    finally:
        with suppress(OSError, StageError):
            storage.remove(uri)


def read(folder: str) -> list[dict[str, Any]]:
    """The notes of a run's folder, but for those that dead processes of this machine have left."""
    notes = storage.join(folder, "work", _FOLDER)
    found = (find_json(storage.join(notes, name)) for name in storage.list_names(notes))
    known = [note for note in found if isinstance(note, dict)]
    return [note for note in known if note["host"] != socket.gethostname() or is_running(note["pid"])]
