"""mix --materialize: a planned mixture -> real tars, one a virtual shard, by copying byte ranges of samples."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from infra import beam, progress, storage
from infra.beam import Runner
from infra.commit import read_json
from infra.errors import StageError
from infra.hashing import canonical_json, fingerprint
from mixtures.shards import copying
from mixtures.shards.copying import EXPORT_AGAIN, SampleSpan, SourceTars
from mixtures.shards.manifest import Mixture, open_mixture, rewrite_manifest
from mixtures.shards.unpack import verify_copies
from pipelines.core.run import LOCAL

#: Raised whenever the same members give other tars.
VERSION = 1

#: A tar of a run of which at least this share is taken is hashed whole; of others each medium is (ours).
WHOLE = 0.5

#: Finished tars that may wait for what they were copied from to be checked.
AHEAD = 64

#: Virtual shards a task at most; several a worker, so that a slow one is not waited for.
TASK = 1_024


def materialize(mixture: Mixture, *, runner: Runner = LOCAL, quiet: bool = False) -> Mixture:
    """Write MIX/shards/mix-*.tar, then mixture.json that lists them; what is finished is not made again.

    A tar of a run is hashed whole where most of it is taken, else each sample's media are held against its record, in a
    second thread beside the copying; a tar of the mixture appears only when all that it was copied from was sound.
    Raises StageError naming the first shard that is missing, short, another or damaged, or a full disk.
    """
    count = int(mixture.manifest["vshards"])
    stamp = _stamp(mixture)
    folder = storage.join(mixture.uri, "shards")
    _remove_temporaries(folder)
    storage.write_bytes(_work(mixture.uri, "plan.json"), canonical_json({"stamp": stamp, "whole": _whole(mixture)}))
    size = min(TASK, max(1, -(-count // (4 * runner.workers)))) if runner.workers > 1 else TASK
    tasks = [f"{first}-{min(first + size, count)}" for first in range(0, count, size)]

    def done() -> int:
        return sum(name.endswith(".tar") for name in storage.list_names(folder))

    with progress.watch("materialize", count, done, what="shards", quiet=quiet):
        task = functools.partial(copy_shards, mixture.uri)
        beam.run_tasks("materialize", task, tasks, _work(mixture.uri, "counters.json"), runner)
    made = []
    for vshard in range(count):
        found = _finished(mixture.uri, vshard, stamp)
        if found is None:
            raise StageError(
                f"{name_shard(vshard)} is missing after materialize", where=folder, hint="run the same command again"
            )
        made.append({key: found[key] for key in ("name", "samples", "bytes", "sha256")})
    return rewrite_manifest(mixture.uri, {**mixture.manifest, "materialized": made})


def adopt_tars(mixture: Mixture, tars: Sequence[Mapping[str, Any]]) -> None:
    """Take tars that lie there (entries of `materialized`) for those of these members, to be left alone by
    `materialize`; whoever calls knows that they hold the same samples in the same order."""
    stamp = _stamp(mixture)
    for one in tars:
        storage.write_bytes(_work(mixture.uri, f"{one['name']}.json"), canonical_json({**one, "stamp": stamp}))


def _stamp(mixture: Mixture) -> str:
    """Stands for all that the tars are made of."""
    return fingerprint([VERSION, mixture.manifest["members"]["sha256"], mixture.manifest["shards"]])


def name_shard(vshard: int) -> str:
    """mix-000000, mix-000001, …"""
    return f"mix-{vshard:06d}"


def _work(uri: str, *parts: str) -> str:
    return storage.join(uri, "work", "materialize", *parts)


def _remove_temporaries(folder: str) -> None:
    """What a killed command left; its lock is ours now."""
    if storage.is_local(folder) and storage.local_path(folder).is_dir():
        for path in storage.local_path(folder).glob(".mix-*.tmp"):
            path.unlink()


def _whole(mixture: Mixture) -> list[int]:
    """The mixture's shards of which so much is taken that they are hashed whole."""
    members = mixture.members(["shard", "repeat", "size"])
    shard, first = members["shard"].to_numpy(), members["repeat"].to_numpy() == 0
    shards = mixture.manifest["shards"]
    taken = np.bincount(shard[first], weights=members["size"].to_numpy()[first], minlength=len(shards))
    return [i for i, one in enumerate(shards) if taken[i] >= WHOLE * one["bytes"]]


def _finished(uri: str, vshard: int, stamp: str) -> dict[str, Any] | None:
    """What was noted of a finished tar; None while it has to be made."""
    note = _work(uri, f"{name_shard(vshard)}.json")
    tar = storage.join(uri, "shards", f"{name_shard(vshard)}.tar")
    if not storage.is_file(note) or not storage.is_file(tar):
        return None
    found = read_json(note)
    if found["stamp"] != stamp:
        return None
    if storage.is_local(tar) and storage.local_path(tar).stat().st_size != found["bytes"]:
        return None
    return dict(found)


# -- the task ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Copy:
    """A tar that is written and waits to be published."""

    vshard: int
    temporary: Path
    note: Mapping[str, Any]
    unsure: Sequence[tuple[SampleSpan, int]]


def copy_shards(uri: str, task: str) -> Mapping[str, int]:
    """Task: make the tars of virtual shards FIRST-END that are not finished."""
    first, end = (int(part) for part in task.split("-"))
    mixture = open_mixture(uri)
    plan = read_json(_work(uri, "plan.json"))
    todo = [vshard for vshard in range(first, end) if _finished(uri, vshard, plan["stamp"]) is None]
    if not todo:
        return {"kept": end - first}
    whole = frozenset(plan["whole"])
    sources = SourceTars()
    made: list[_Copy] = []
    checked: set[int] = set()
    waiting: deque[Future[None]] = deque()
    size = 0
    with ThreadPoolExecutor(1) as second:  # one thread: what was handed over first is finished first
        try:
            for vshard, spans, shards in _spans(mixture, todo, first, end):
                for shard in sorted((set(shards) & whole) - checked):
                    waiting.append(second.submit(_check_whole, mixture, shard))
                    checked.add(shard)
                copy = _copy(mixture, vshard, spans, shards, whole, sources, plan["stamp"])
                made.append(copy)
                size += copy.note["bytes"]
                waiting.append(second.submit(_publish, mixture, copy))
                while waiting and (waiting[0].done() or len(waiting) > AHEAD):
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            second.shutdown()
            sources.close()
            for copy in made:
                copy.temporary.unlink(missing_ok=True)
    return {"made": len(todo), "kept": end - first - len(todo), "bytes": size}


def _spans(
    mixture: Mixture, todo: Sequence[int], first: int, end: int
) -> Iterator[tuple[int, list[SampleSpan], list[int]]]:
    """(virtual shard, its samples in order, the shard of each) of those to be made."""
    members = mixture.members(["key", "vshard", "shard", "repeat", "offset", "size"])
    vshard = members["vshard"].to_numpy()
    low, high = (int(at) for at in np.searchsorted(vshard, [first, end]))
    members = members.slice(low, high - low)
    starts = np.searchsorted(vshard[low:high], [*range(first, end), end])
    tars = [mixture.tar(i) for i in range(len(mixture.manifest["shards"]))]
    for one in todo:
        start, stop = (int(at) for at in starts[one - first : one - first + 2])
        columns = [
            members[name].slice(start, stop - start).to_pylist()
            for name in ("key", "repeat", "shard", "offset", "size")
        ]
        spans = [
            SampleSpan(key, repeat, tars[shard], offset, size)
            for key, repeat, shard, offset, size in zip(*columns, strict=True)
        ]
        yield one, spans, columns[2]


def _copy(
    mixture: Mixture,
    vshard: int,
    spans: list[SampleSpan],
    shards: list[int],
    whole: frozenset[int],
    sources: SourceTars,
    stamp: str,
) -> _Copy:
    tar = storage.join(mixture.uri, "shards", f"{name_shard(vshard)}.tar")
    temporary = storage.temporary_for(tar)
    with copying.report_disk_errors(temporary), ExitStack() as undo:
        undo.callback(temporary.unlink, missing_ok=True)
        digest, size = copying.copy_samples(temporary, spans, sources)
        undo.pop_all()
    note = {"stamp": stamp, "name": name_shard(vshard), "samples": len(spans), "bytes": size, "sha256": digest}
    offsets = np.cumsum([0, *(span.size for span in spans)])
    unsure = [(span, int(at)) for span, shard, at in zip(spans, shards, offsets, strict=False) if shard not in whole]
    return _Copy(vshard, temporary, note, unsure)


def _check_whole(mixture: Mixture, shard: int) -> None:
    """Hold a run's tar against the sha256 that the mixture was planned on, unless this very file was held before."""
    held = mixture.manifest["shards"][shard]
    tar = mixture.tar(shard)
    note = _work(mixture.uri, f"checked-{held['sha256']}.json")
    stamp = _file_stamp(tar)
    if stamp and storage.is_file(note) and read_json(note) == stamp:
        return
    if storage.sha256(tar) != held["sha256"]:
        raise StageError(
            "a shard is not the one that the mixture was planned on, or it is damaged: its sha256 differs",
            where=tar,
            hint=EXPORT_AGAIN,
        )
    if stamp:
        storage.write_bytes(note, canonical_json(stamp))


def _file_stamp(uri: str) -> dict[str, int]:
    if not storage.is_local(uri):
        return {}
    status = storage.local_path(uri).stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _publish(mixture: Mixture, copy: _Copy) -> None:
    verify_copies(str(copy.temporary), copy.unsure)
    name = name_shard(copy.vshard)
    tar = storage.join(mixture.uri, "shards", f"{name}.tar")
    with copying.report_disk_errors(copy.temporary):
        storage.publish(copy.temporary, tar, None)
        storage.write_bytes(_work(mixture.uri, f"{name}.json"), canonical_json(dict(copy.note)))
