"""Commit of a stage: a manifest, written last, lists its files; a lock keeps two commands out of one run."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from infra import storage, tables
from infra.errors import StageError
from infra.hashing import canonical_json

MANIFEST = "_manifest.json"

#: Seconds between two heartbeats of a lock's holder, and without any after which it counts as dead.
HEARTBEAT_S = 5.0
DEAD_AFTER_S = 30.0


@dataclass(frozen=True)
class Unit:
    """One committed file of a stage."""

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The files of a finished stage. `fingerprint`: of all its inputs."""

    stage: str
    fingerprint: str
    units: tuple[Unit, ...]

    @property
    def rows(self) -> int:
        return sum(unit.rows for unit in self.units)


def unit_name(index: int) -> str:
    """u000000, u000001, …"""
    return f"u{index:06d}"


def unit_index(name: str) -> int:
    """The number in a unit's name."""
    return int(name[1:])


def write_manifest(folder: str, stage: str, fingerprint: str, units: Sequence[Unit]) -> Manifest:
    """Write RUN/STAGE/_manifest.json; the stage is final from here on."""
    content = {
        "stage": stage,
        "input": fingerprint,
        "units": [{"name": u.name, "rows": u.rows, "sha256": u.sha256} for u in units],
    }
    storage.write_bytes(storage.join(folder, MANIFEST), canonical_json(content))
    return Manifest(stage, fingerprint, tuple(units))


def read_manifest(folder: str) -> Manifest | None:
    """The manifest of a stage's folder, or None while the stage is not finished."""
    uri = storage.join(folder, MANIFEST)
    if not storage.is_file(uri):
        return None
    content = read_json(uri)
    units = tuple(Unit(u["name"], u["rows"], u["sha256"]) for u in content["units"])
    return Manifest(content["stage"], content["input"], units)


def collect_units(folder: str, names: Sequence[str], job: str) -> list[Unit]:
    """The tables that `job` has written to a stage's folder. Raises StageError when one is missing."""
    units = []
    for name in names:
        uri = storage.join(folder, f"{name}.parquet")
        footer = tables.read_footer(uri)
        if footer is None:
            raise StageError(f"{name} is missing after {job}", where=uri, hint="run the same command again")
        units.append(Unit(name, footer[1], storage.sha256(uri)))
    return units


def need_manifest(run: str, stage: str) -> Manifest:
    """The manifest of a finished stage. Raises StageError, with the command to run first, when there is none."""
    manifest = read_manifest(storage.join(run, stage))
    if manifest is None:
        verbs = {
            "samples": "ingest",
            "signals": "measure",
            "verdicts": "decide",
            "dialogues": "annotate",
            "members": "export",
        }
        hint = f"run `reelmill {verbs.get(stage, 'run')}` first"
        raise StageError(f"there are no finished {stage} here", where=run, hint=hint)
    return manifest


def read_json(uri: str) -> Any:
    """The content of a JSON file. Raises StageError when it is damaged."""
    try:
        return json.loads(storage.read_bytes(uri))
    except ValueError as error:
        hint = "the file is damaged; run the stage again"
        raise StageError(f"not valid JSON: {error}", where=uri, hint=hint) from None


@contextmanager
def lock(run: str) -> Iterator[None]:
    """Hold RUN/.lock with a heartbeat while the block runs.

    A lock without a heartbeat for 30 seconds, or of a dead process of this machine, is taken over.
    Raises StageError when another process works in this run.
    """
    uri = storage.join(run, ".lock")
    own = {"host": socket.gethostname(), "pid": os.getpid()}
    if storage.is_file(uri):
        try:
            holder = json.loads(storage.read_bytes(uri))
        except ValueError:
            holder = {}
        fresh = time.time() - float(holder.get("time", 0)) < DEAD_AFTER_S
        if fresh and _is_alive(holder, own):
            raise StageError(
                f"process {holder.get('pid')} on {holder.get('host')} is at work in this run",
                where=run,
                hint=f"wait for it, or remove {uri} if you are sure that it has ended",
            )
    elif storage.is_local(uri):
        # Of two commands started at the same instant only one can create the file.
        path = storage.local_path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            hint = "wait for it to finish"
            raise StageError("another process has just begun to work in this run", where=run, hint=hint) from None
    stop = threading.Event()

    def beat() -> None:
        storage.write_bytes(uri, canonical_json({**own, "time": int(time.time())}))

    def keep_beating() -> None:
        while not stop.wait(HEARTBEAT_S):
            beat()

    beat()
    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        storage.remove(uri)


def _is_alive(holder: dict[str, Any], own: dict[str, Any]) -> bool:
    if holder.get("host") != own["host"]:
        return True
    if holder.get("pid") == own["pid"]:
        return False
    try:
        os.kill(int(holder.get("pid", 0)), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists, as another user's
        return True
    return True
