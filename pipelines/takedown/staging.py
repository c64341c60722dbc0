"""Stage new files beside old ones, with a journal: an interrupted change is either undone or finished.

DIR/.takedown/files/…        the new files, under their final paths
DIR/.takedown/journal.json   written last: from then on the change is finished, however often it is interrupted
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from infra import storage
from infra.commit import read_json
from infra.errors import StageError
from infra.hashing import canonical_json

FOLDER = ".takedown"
JOURNAL = "journal.json"


class Staging:
    """New files for one run or mixture; existing files are not touched until `apply`. sums: path -> sha256."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.sums: dict[str, str] = {}
        storage.remove(storage.join(uri, FOLDER))  # staged by a job that was killed before it committed

    def put(self, path: str, content: bytes) -> str:
        """Stage a file; returns its sha256."""
        storage.write_bytes(_staged(self.uri, path), content)
        self.sums[path] = hashlib.sha256(content).hexdigest()
        return self.sums[path]

    def write(self, path: str, write: Callable[[Path], str]) -> str:
        """Stage the file that `write` writes to a local path; both return its sha256."""
        with storage.publish_when_written(_staged(self.uri, path)) as file:
            file.sha256 = self.sums[path] = write(file.path)
        return self.sums[path]

    def commit(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Write the journal: `entries` and the list of files. From here on the change goes forward only."""
        journal = {**entries, "files": self.sums}
        storage.write_bytes(storage.join(self.uri, FOLDER, JOURNAL), canonical_json(journal))
        return journal


def read_journal(uri: str) -> dict[str, Any] | None:
    """The journal of a change that was committed but not finished."""
    journal = storage.join(uri, FOLDER, JOURNAL)
    return dict(read_json(journal)) if storage.is_file(journal) else None


def apply(uri: str, journal: Mapping[str, Any]) -> None:
    """Move the staged files to their final paths; safe to repeat.

    Raises StageError if a file is neither staged nor in place.
    """
    if journal.get("applied"):
        return
    for path, sha256 in sorted(journal["files"].items()):
        staged, target = _staged(uri, path), storage.join(uri, path)
        if storage.is_file(staged):
            _move(staged, target)
        elif not storage.is_file(target) or storage.sha256(target) != sha256:
            raise StageError(
                "a take-down was interrupted here, and one of its files is missing",
                where=target,
                hint=f"restore {storage.join(uri, FOLDER)} or this folder from a copy",
            )
    storage.write_bytes(storage.join(uri, FOLDER, JOURNAL), canonical_json({**journal, "applied": True}))


def finish(uri: str) -> None:
    """Remove the journal of a change that is complete."""
    storage.remove(storage.join(uri, FOLDER))


def _staged(uri: str, path: str) -> str:
    return storage.join(uri, FOLDER, "files", path)


def _move(staged: str, target: str) -> None:
    if storage.is_local(target):
        storage.local_path(target).parent.mkdir(parents=True, exist_ok=True)
        storage.local_path(staged).replace(storage.local_path(target))
        return
    storage.write_bytes(target, storage.read_bytes(staged))
    storage.remove(staged)
