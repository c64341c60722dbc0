"""mix --materialize: write the tars of a planned mixture, one per virtual shard, by copying byte ranges of samples."""

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
from infra.commit import read_json, read_scratch, write_scratch
from infra.errors import StageError
from infra.hashing import canonical_json, fingerprint
from mixtures.shards import copying
from mixtures.shards.copying import EXPORT_AGAIN, SampleSpan, SourceTars
from mixtures.shards.manifest import Mixture, open_mixture, rewrite_manifest
from mixtures.shards.unpack import verify_copies
from pipelines.core.run import LOCAL

#: Raised whenever the same members give different tars.
VERSION = 1

#: A run's tar is hashed whole if at least this share of its bytes is copied; else each copied medium is (ours).
WHOLE = 0.5

#: Finished tars hashed at a time (ours).
HASHERS = 4

#: Maximum number of finished tars that wait for the check of their sources.
AHEAD = 64

#: Maximum number of virtual shards per task; with several workers each gets several tasks, to balance the load.
TASK = 1_024


def materialize(mixture: Mixture, *, runner: Runner = LOCAL, quiet: bool = False) -> Mixture:
    """Write MIX/shards/mix-*.tar, then mixture.json that lists them; finished tars are kept.

    A second thread verifies the sources while the first copies: a run's tar by its sha256 if most of it is copied, else
    each sample's media by the sha256 in its record. A tar of the mixture appears only when all its sources are valid.
    Raises StageError naming the first shard that is missing, short, different or damaged, or a full disk.
    """
    count = int(mixture.manifest["vshards"])
    stamp = _compute_stamp(mixture)
    folder = storage.join(mixture.uri, "shards")
    _remove_temporaries(folder)
    storage.write_bytes(
        _work(mixture.uri, "plan.json"), canonical_json({"stamp": stamp, "whole": _list_whole(mixture)})
    )
    size = min(TASK, max(1, -(-count // (4 * runner.workers)))) if runner.workers > 1 else TASK
    tasks = [f"{first}-{min(first + size, count)}" for first in range(0, count, size)]

    def count_done() -> int:
        return sum(name.endswith(".tar") for name in storage.list_names(folder))

    with progress.watch("materialize", count, count_done, what="shards", quiet=quiet):
        task = functools.partial(copy_shards, mixture.uri)
        beam.run_tasks("materialize", task, tasks, _work(mixture.uri, "counters.json"), runner)
    tars = []
    for vshard in range(count):
        note = _read_finished(mixture.uri, vshard, stamp)
        if note is None:
            raise StageError(
                f"{name_shard(vshard)} is missing after materialize", where=folder, hint="run the same command again"
            )
        tars.append({key: note[key] for key in ("name", "samples", "bytes", "sha256")})
    return rewrite_manifest(mixture.uri, {**mixture.manifest, "materialized": tars})


def verify_tars(mixture: Mixture, existing: Mapping[str, Any], *, must_exist: bool) -> list[dict[str, Any]] | None:
    """Verify the tars that exist already, and set damaged ones aside; returns the entries of `materialized`, None
    unless every virtual shard has its tar.

    existing: the manifest before, {} if there is none. A tar is sound if its sha256 is that in the note about it or in
    this manifest. Raises StageError if one that the manifest lists is missing or damaged and it `must_exist`.
    """
    stamp = _compute_stamp(mixture)
    earlier = existing.get("materialized") if existing and stamp == _compute_stamp(Mixture("", existing)) else None
    listed = {tar["name"]: tar["sha256"] for tar in earlier or ()}
    counts = np.bincount(mixture.members(["vshard"])["vshard"].to_numpy(), minlength=int(mixture.manifest["vshards"]))
    verify = functools.partial(_verify_tar, mixture.uri, stamp, listed)
    with ThreadPoolExecutor(HASHERS) as pool:
        tars = list(pool.map(verify, range(len(counts)), counts.tolist()))
    entries = [tar for tar in tars if tar is not None]
    adopt_tars(mixture, entries)
    if len(entries) == len(tars) and entries:
        return entries
    if earlier and must_exist:
        missing = name_shard(next(vshard for vshard, tar in enumerate(tars) if tar is None))
        raise StageError(
            "a tar of this mixture is missing or damaged",
            where=storage.join(mixture.uri, "shards", f"{missing}.tar"),
            hint="give --materialize: what is missing or damaged is written again",
        )
    return None


def _verify_tar(uri: str, stamp: str, listed: Mapping[str, str], vshard: int, samples: int) -> dict[str, Any] | None:
    """The entry of a tar of `samples`; None if it is missing, damaged (then it is set aside) or of another mixture."""
    name = name_shard(vshard)
    tar = storage.join(uri, "shards", f"{name}.tar")
    note = read_scratch(_work(uri, f"{name}.json"), stamp) or {}
    expected = {note.get("sha256"), listed.get(name)} - {None}
    if not expected or not storage.is_file(tar):
        return None
    sha256 = storage.sha256(tar)
    if sha256 not in expected:
        storage.set_aside(tar, "it is written again", storage.join(uri, "work", "damaged", f"{name}.tar"))
        return None
    return {"name": name, "samples": samples, "bytes": storage.file_size(tar), "sha256": sha256}


def adopt_tars(mixture: Mixture, tars: Sequence[Mapping[str, Any]]) -> None:
    """Register existing tars (entries of `materialized`) as finished, so that `materialize` keeps them.

    The caller guarantees that they contain the mixture's samples in its order.
    """
    stamp = _compute_stamp(mixture)
    for tar in tars:
        write_scratch(_work(mixture.uri, f"{tar['name']}.json"), stamp, tar)


def _compute_stamp(mixture: Mixture) -> str:
    """Compute the fingerprint of everything that the tars are made from."""
    return fingerprint([VERSION, mixture.manifest["members"]["sha256"], mixture.manifest["shards"]])


def name_shard(vshard: int) -> str:
    """Name the tar of a virtual shard: mix-000000, mix-000001, …"""
    return f"mix-{vshard:06d}"


def _work(uri: str, name: str) -> str:
    return storage.join(uri, "work", "materialize", name)


def _remove_temporaries(folder: str) -> None:
    """Remove temporary files of a killed command; this one has its lock."""
    if storage.is_local(folder) and storage.local_path(folder).is_dir():
        for path in storage.local_path(folder).glob(".mix-*.tmp"):
            path.unlink()


def _list_whole(mixture: Mixture) -> list[int]:
    """List the mixture's shards of which at least WHOLE is copied."""
    members = mixture.members(["shard", "repeat", "size"])
    shard, first = members["shard"].to_numpy(), members["repeat"].to_numpy() == 0
    shards = mixture.manifest["shards"]
    copied = np.bincount(shard[first], weights=members["size"].to_numpy()[first], minlength=len(shards))
    return [i for i, shard_ in enumerate(shards) if copied[i] >= WHOLE * shard_["bytes"]]


def _read_finished(uri: str, vshard: int, stamp: str) -> dict[str, Any] | None:
    """Read the note about a finished tar; None if the tar has to be written."""
    path = _work(uri, f"{name_shard(vshard)}.json")
    tar = storage.join(uri, "shards", f"{name_shard(vshard)}.tar")
    note = read_scratch(path, stamp)
    if note is None or not storage.is_file(tar):
        return None
    if storage.is_local(tar) and storage.local_path(tar).stat().st_size != note["bytes"]:
        return None
    return dict(note)


# -- the task ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Copy:
    """A finished tar before it is published. unverified: samples whose media are to be verified, with their offset."""

    vshard: int
    temporary: Path
    note: Mapping[str, Any]
    unverified: Sequence[tuple[SampleSpan, int]]


def copy_shards(uri: str, task: str) -> Mapping[str, int]:
    """Task: write the unfinished tars of virtual shards FIRST-END."""
    first, end = (int(number) for number in task.split("-"))
    mixture = open_mixture(uri)
    plan = read_json(_work(uri, "plan.json"))
    todo = [vshard for vshard in range(first, end) if _read_finished(uri, vshard, plan["stamp"]) is None]
    if not todo:
        return {"kept": end - first}
    whole = frozenset(plan["whole"])
    sources = SourceTars()
    copies: list[_Copy] = []
    checked: set[int] = set()
    waiting: deque[Future[None]] = deque()
    size = 0
    with ThreadPoolExecutor(1) as second:  # one thread: futures finish in order of submission
        try:
            for vshard, spans, shards in _iterate_spans(mixture, todo, first, end):
                for shard in sorted((set(shards) & whole) - checked):
                    waiting.append(second.submit(_check_whole, mixture, shard))
                    checked.add(shard)
                copy = _write_copy(mixture, vshard, spans, shards, whole, sources)
                copies.append(copy)
                size += copy.note["bytes"]
                waiting.append(second.submit(_publish, mixture, copy, plan["stamp"]))
                while waiting and (waiting[0].done() or len(waiting) > AHEAD):
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            second.shutdown()
            sources.close()
            for copy in copies:
                copy.temporary.unlink(missing_ok=True)
    return {"made": len(todo), "kept": end - first - len(todo), "bytes": size}


def _iterate_spans(
    mixture: Mixture, todo: Sequence[int], first: int, end: int
) -> Iterator[tuple[int, list[SampleSpan], list[int]]]:
    """Yield (virtual shard, its samples in order, the shard of each) for those in `todo`."""
    members = mixture.members(["key", "vshard", "shard", "repeat", "offset", "size"])
    vshard = members["vshard"].to_numpy()
    low, high = (int(row) for row in np.searchsorted(vshard, [first, end]))
    members = members.slice(low, high - low)
    starts = np.searchsorted(vshard[low:high], [*range(first, end), end])
    tars = [mixture.tar(i) for i in range(len(mixture.manifest["shards"]))]
    for number in todo:
        start, stop = (int(row) for row in starts[number - first : number - first + 2])
        columns = [
            members[name].slice(start, stop - start).to_pylist()
            for name in ("key", "repeat", "shard", "offset", "size")
        ]
        spans = [
            SampleSpan(key, repeat, tars[shard], offset, size)
            for key, repeat, shard, offset, size in zip(*columns, strict=True)
        ]
        yield number, spans, columns[2]


def _write_copy(
    mixture: Mixture,
    vshard: int,
    spans: list[SampleSpan],
    shards: list[int],
    whole: frozenset[int],
    sources: SourceTars,
) -> _Copy:
    tar = storage.join(mixture.uri, "shards", f"{name_shard(vshard)}.tar")
    temporary = storage.temporary_for(tar)
    with ExitStack() as undo:
        undo.callback(temporary.unlink, missing_ok=True)
        digest, size = copying.copy_samples(temporary, spans, sources)
        undo.pop_all()
    note = {"name": name_shard(vshard), "samples": len(spans), "bytes": size, "sha256": digest}
    offsets = np.cumsum([0, *(span.size for span in spans)])
    unverified = [
        (span, int(offset)) for span, shard, offset in zip(spans, shards, offsets, strict=False) if shard not in whole
    ]
    return _Copy(vshard, temporary, note, unverified)


def _check_whole(mixture: Mixture, shard: int) -> None:
    """Verify a run's tar against the sha256 in the mixture, unless this file was verified before."""
    entry = mixture.manifest["shards"][shard]
    tar = mixture.tar(shard)
    note = _work(mixture.uri, f"checked-{entry['sha256']}.json")
    stamp = _stat_file(tar)
    if stamp and read_scratch(note, fingerprint(stamp)) is not None:
        return
    if storage.sha256(tar) != entry["sha256"]:
        raise StageError(
            "a shard is not the one that the mixture was planned on, or it is damaged: its sha256 differs",
            where=tar,
            hint=EXPORT_AGAIN,
        )
    if stamp:
        write_scratch(note, fingerprint(stamp), {})


def _stat_file(uri: str) -> dict[str, int]:
    if not storage.is_local(uri):
        return {}
    status = storage.local_path(uri).stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _publish(mixture: Mixture, copy: _Copy, stamp: str) -> None:
    verify_copies(str(copy.temporary), copy.unverified)
    name = name_shard(copy.vshard)
    tar = storage.join(mixture.uri, "shards", f"{name}.tar")
    with storage.report_disk_errors(copy.temporary):
        storage.publish(copy.temporary, tar, None)
        write_scratch(_work(mixture.uri, f"{name}.json"), stamp, dict(copy.note))
