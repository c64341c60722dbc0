"""How work becomes final: manifests, written last, say which files of a stage exist; a lock keeps two jobs apart."""

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

#: Seconds between two signs of life of a lock's holder, and after how many without one it counts as dead.
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
    """What a finished stage left: `fingerprint` stands for everything that it was made from."""

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
    value = {
        "stage": stage,
        "input": fingerprint,
        "units": [{"name": u.name, "rows": u.rows, "sha256": u.sha256} for u in units],
    }
    storage.write_bytes(storage.join(folder, MANIFEST), canonical_json(value))
    return Manifest(stage, fingerprint, tuple(units))


def read_manifest(folder: str) -> Manifest | None:
    """The manifest of a stage's folder, or None while the stage is not finished."""
    uri = storage.join(folder, MANIFEST)
    if not storage.is_file(uri):
        return None
    value = read_json(uri)
    units = tuple(Unit(u["name"], u["rows"], u["sha256"]) for u in value["units"])
    return Manifest(value["stage"], value["input"], units)


def collect_units(folder: str, names: Sequence[str], job: str) -> list[Unit]:
    """The tables that `job` was to leave in a stage's folder.

    Raises StageError when one is not there.
    """
    units = []
    for name in names:
        uri = storage.join(folder, f"{name}.parquet")
        found = tables.read_footer(uri)
        if found is None:
            raise StageError(f"{name} is missing after {job}", where=uri, hint="run the same command again")
        units.append(Unit(name, found[1], storage.sha256(uri)))
    return units


def need_manifest(run: str, stage: str) -> Manifest:
    """The manifest of a stage that must have run.

    Raises StageError naming the verb to run first.
    """
    manifest = read_manifest(storage.join(run, stage))
    if manifest is None:
        verbs = {
            "samples": "ingest",
            "signals": "measure",
            "verdicts": "decide",
            "dialogues": "annotate",
            "members": "export",
        }
        raise StageError(
            f"there are no finished {stage} here", where=run, hint=f"run `reelmill {verbs.get(stage, 'run')}` first"
        )
    return manifest


def read_json(uri: str) -> Any:
    """A JSON file.

    Raises StageError when it is damaged.
    """
    try:
        return json.loads(storage.read_bytes(uri))
    except ValueError as error:
        raise StageError(
            f"not valid JSON: {error}", where=uri, hint="the file is damaged; run the stage again"
        ) from None


@contextmanager
def lock(run: str) -> Iterator[None]:
    """Hold RUN/.lock with a heartbeat for as long as the block runs.

    A lock whose holder shows no sign of life for 30 seconds, or is a dead process of this machine, is taken over.
    Raises StageError when somebody else is at work here.
    """
    uri = storage.join(run, ".lock")
    mine = {"host": socket.gethostname(), "pid": os.getpid()}
    if storage.is_file(uri):
        try:
            held = json.loads(storage.read_bytes(uri))
        except ValueError:
            held = {}
        fresh = time.time() - float(held.get("time", 0)) < DEAD_AFTER_S
        if fresh and _alive(held, mine):
            raise StageError(
                f"process {held.get('pid')} on {held.get('host')} is at work in this run",
                where=run,
                hint=f"wait for it, or remove {uri} if you are sure that it is gone",
            )
    elif storage.is_local(uri):
        # Of two commands started at the same instant one makes the file, and the other learns of it here.
        path = storage.local_path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            raise StageError("another process has just begun to work in this run", where=run) from None
    stop = threading.Event()

    def beat() -> None:
        storage.write_bytes(uri, canonical_json({**mine, "time": int(time.time())}))

    def beats() -> None:
        while not stop.wait(HEARTBEAT_S):
            beat()

    beat()
    thread = threading.Thread(target=beats, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        storage.remove(uri)


def _alive(held: dict[str, Any], mine: dict[str, Any]) -> bool:
    if held.get("host") != mine["host"]:
        return True
    if held.get("pid") == mine["pid"]:
        return False
    try:
        os.kill(int(held.get("pid", 0)), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
