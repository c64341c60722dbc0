"""New files beside old ones, and a journal: what was begun is either undone or finished, never half done.

DIR/.takedown/files/…        the new files, under the paths that they will have
DIR/.takedown/journal.json   written last: from here on the change goes forward, however often it is interrupted
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
    """New files for one run or mixture. Nothing that is there is touched until `apply`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.sums: dict[str, str] = {}
        storage.remove(storage.join(uri, FOLDER))  # begun and never decided on

    def put(self, path: str, data: bytes) -> str:
        """Stage a file; returns its sha256."""
        storage.write_bytes(_staged(self.uri, path), data)
        self.sums[path] = hashlib.sha256(data).hexdigest()
        return self.sums[path]

    def make(self, path: str, write: Callable[[Path], str]) -> str:
        """Stage a file that `write(local path)` writes and gives the sha256 of."""
        with storage.publish_when_written(_staged(self.uri, path)) as file:
            file.sha256 = self.sums[path] = write(file.path)
        return self.sums[path]

    def decide(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Write the journal, with `value` beside the list of files; there is no way back from here."""
        journal = {**value, "files": self.sums}
        storage.write_bytes(storage.join(self.uri, FOLDER, JOURNAL), canonical_json(journal))
        return journal


def pending(uri: str) -> dict[str, Any] | None:
    """The journal of a change that was decided on and not finished."""
    place = storage.join(uri, FOLDER, JOURNAL)
    return dict(read_json(place)) if storage.is_file(place) else None


def apply(uri: str, journal: Mapping[str, Any]) -> None:
    """Put the staged files in place, one after another; those that are there already are left.

    Raises StageError where a file is neither staged nor in place.
    """
    if journal.get("applied"):
        return
    for path, sha256 in sorted(journal["files"].items()):
        staged, target = _staged(uri, path), storage.join(uri, path)
        if storage.is_file(staged):
            _move(staged, target)
        elif not storage.is_file(target) or storage.sha256(target) != sha256:
            raise StageError(
                "a take-down was interrupted here, and one of its files is gone",
                where=target,
                hint=f"restore {storage.join(uri, FOLDER)} or this folder from a copy",
            )
    storage.write_bytes(storage.join(uri, FOLDER, JOURNAL), canonical_json({**journal, "applied": True}))


def finish(uri: str) -> None:
    """Forget a change that is whole."""
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
