"""Commit of a stage: a manifest, written last, lists its files; a lock keeps two commands out of one run."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from infra import storage, tables
from infra.errors import StageError
from infra.hashing import canonical_json, fingerprint

MANIFEST = "_manifest.json"

#: Seconds between two heartbeats of a lock's holder, and without any after which it counts as dead.
HEARTBEAT_S = 5.0
DEAD_AFTER_S = 30.0

#: Seconds that the lock of another host is watched where its time says nothing: clocks may be hours apart.
WATCH_S = 3 * HEARTBEAT_S
#: Seconds by which this host's clock may have been set back; a heartbeat later than that is damage (ours).
MAX_CLOCK_SKEW_S = 24 * 3600.0


@dataclass(frozen=True)
class Unit:
    """One committed file of a stage. retry: whether the next run must recompute it; not in the manifest."""

    name: str
    rows: int
    sha256: str
    retry: bool = False


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
        units.append(Unit(name, footer[1], storage.sha256(uri), footer[2]))
    return units


def stage_fingerprint(inputs: Any, units: Sequence[Unit]) -> str:
    """The fingerprint of a stage's inputs, which covers also the contents of units that the next run must recompute:
    later stages must notice when that run succeeds."""
    retries = [[unit.name, unit.sha256] for unit in units if unit.retry]
    return fingerprint([inputs, retries] if retries else inputs)


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


def find_json(uri: str) -> Any:
    """The content of a JSON file; None if it is missing or damaged."""
    try:
        return json.loads(storage.read_bytes(uri)) if storage.is_file(uri) else None
    except (ValueError, RecursionError):
        return None


def read_json(uri: str) -> Any:
    """The content of a JSON file. Raises StageError when it is damaged."""
    try:
        return json.loads(storage.read_bytes(uri))
    except (ValueError, RecursionError) as error:
        hint = "the file is damaged: the `reelmill` command that wrote it writes it again"
        raise StageError(f"not valid JSON: {error}", where=uri, hint=hint) from None


def write_scratch(uri: str, inputs: str, content: Any) -> None:
    """Write a JSON file below RUN/work that later runs reuse. inputs: fingerprint of what `content` follows from."""
    storage.write_bytes(uri, canonical_json({"inputs": inputs, "content": content, "check": fingerprint(content)}))


def read_scratch(uri: str, inputs: str) -> Any:
    """The content that `write_scratch` wrote for these inputs; None where the file is missing or damaged or has other
    inputs, so that it must be made again."""
    try:
        record = json.loads(storage.read_bytes(uri)) if storage.is_file(uri) else {}
        if record["inputs"] == inputs and record["check"] == fingerprint(record["content"]):
            return record["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    return None


class _LockHolder(BaseModel):
    """The content of a lock. time: of the last heartbeat, seconds since 1970."""

    model_config = ConfigDict(strict=True, frozen=True)

    host: str
    pid: int = Field(gt=0, lt=2**31)
    time: float = Field(ge=0, allow_inf_nan=False)

    def is_alive(self, own: _LockHolder) -> bool:
        """Whether the holder is at work, by what it says: it is not `own` process, has a fresh heartbeat, and exists if
        it is on this host."""
        age = own.time - self.time
        if self.host != own.host:
            return abs(age) < DEAD_AFTER_S
        if self.pid == own.pid or not -MAX_CLOCK_SKEW_S < age < DEAD_AFTER_S:
            return False
        return is_running(self.pid)


def is_running(pid: int) -> bool:
    """Whether this machine has a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists, as another user's
        return True
    return True


@contextmanager
def lock(run: str) -> Iterator[None]:
    """Hold RUN/.lock with a heartbeat while the block runs.

    A lock without a heartbeat for 30 seconds, or of a dead process of this machine, is taken over, and so is a file
    that is no lock: one is never visible half-written. Where the time of another host's heartbeat says nothing, it is
    watched for a while. Raises StageError when another process works in this run.
    """
    uri = storage.join(run, ".lock")
    own = _current_process()
    if not _create_lock(uri, own):
        refuse_locked(run)
    stop = threading.Event()

    def beat() -> None:
        storage.write_bytes(uri, _lock_bytes(_current_process()))

    def keep_beating() -> None:
        while not stop.wait(HEARTBEAT_S):
            with suppress(OSError, StageError):  # a disk that is full now may have space at the next heartbeat
                beat()

    with storage.report_unreachable(uri):  # the first write to the run
        beat()
    thread = threading.Thread(target=keep_beating, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        storage.remove(uri)


def read_holder(run: str) -> dict[str, Any] | None:
    """The host, process and last heartbeat (seconds since 1970) of the command that holds a run; None where none does.
    It may have died."""
    holder = _read_holder(storage.join(run, ".lock"))
    return None if holder is None else holder.model_dump()


def refuse_locked(run: str) -> None:
    """Raise StageError when another process holds the lock of this run."""
    uri = storage.join(run, ".lock")
    holder, own = _read_holder(uri), _current_process()
    if holder is not None and (holder.is_alive(own) or (holder.host != own.host and _is_beating(uri, holder))):
        raise StageError(
            f"process {holder.pid} on {holder.host} is at work in this run",
            where=run,
            hint=f"wait for it, or remove {uri} if you are sure that it has ended",
        )


def _is_beating(uri: str, holder: _LockHolder) -> bool:
    """Whether a holder renews its lock while we watch."""
    end = time.monotonic() + WATCH_S
    while time.monotonic() < end:
        time.sleep(HEARTBEAT_S / 10)
        seen = _read_holder(uri)
        if seen is None or seen != holder:
            return seen is not None
    return False


def _current_process() -> _LockHolder:
    return _LockHolder(host=socket.gethostname(), pid=os.getpid(), time=float(int(time.time())))


def _lock_bytes(holder: _LockHolder) -> bytes:
    return canonical_json(holder.model_dump())


def _create_lock(uri: str, own: _LockHolder) -> bool:
    """Create the lock with its content; False where the file exists. Of two commands started at the same instant only
    one creates it, except on object storage, where neither is told."""
    if not storage.is_local(uri):
        return not storage.is_file(uri)
    path, temporary = storage.local_path(uri), storage.temporary_for(uri)
    if path.is_dir():
        raise StageError("there is a folder in place of the lock", where=str(path), hint="remove it")
    try:
        temporary.write_bytes(_lock_bytes(own))
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        return not path.exists()  # a file system without hard links
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _read_holder(uri: str) -> _LockHolder | None:
    """The holder of an existing lock; None where the file is gone or contains anything else."""
    try:
        return _LockHolder.model_validate_json(storage.read_bytes(uri))
    except (ValueError, FileNotFoundError):
        return None
