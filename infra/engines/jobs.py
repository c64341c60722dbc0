"""Jobs of several phases: an engine takes seconds to start a job, whatever the job does, so few jobs do all work."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from infra import beam, progress, storage, tables
from infra.engines.share import ShareDone
from infra.errors import StageError
from infra.hashing import canonical_json


@dataclass(frozen=True)
class Phase:
    """Tasks that may run at once, when all those of the phase before are done. All functions travel to workers.

    name: as a person knows it. list_tasks: returns the ids of the tasks, and may do first what only one process should
    do. task: does one; returns its result. combine: merges results, in any order and grouping. finish: is given the
    result of all tasks, None where there was none.
    """

    name: str
    list_tasks: Callable[[], Sequence[str]]
    task: Callable[[str], Any]
    combine: Callable[[Iterable[Any]], Any] = beam.sum_counters
    finish: Callable[[Any], object] | None = None


def run_phases(
    job: str, phases: Sequence[Phase], runner: beam.Runner, folder: str, *, quiet: bool = True, uri: str | None = None
) -> None:
    """Run phases in their order, as one Beam job. Only task ids and results travel through Beam.

    folder: gets a file for each phase that is done, by which progress is counted. uri: as of `progress.watch`. Raises
    as `beam.run` does.
    """
    for name in storage.list_names(folder):
        storage.remove(storage.join(folder, name))

    def count_done() -> int:
        return len(storage.list_names(folder))

    def name_current() -> str:
        return phases[min(count_done(), len(phases) - 1)].name

    with progress.watch(job, len(phases), count_done, what="phases", quiet=quiet, note=name_current, uri=uri):
        beam.run(job, functools.partial(_build, phases, folder), runner)


#: Passes through every phase, so that those that follow one without tasks begin too.
_BEGIN = "begin"


def _build(phases: Sequence[Phase], folder: str, pipeline: Any) -> object:
    import apache_beam as ab

    before = pipeline | "begin" >> ab.Create([_BEGIN])
    for number, phase in enumerate(phases, start=1):
        label = f"{number:02d} {phase.name}"
        done = storage.join(folder, f"{number:02d}.json")
        before = (
            before
            | f"{label}: list" >> ab.FlatMap(functools.partial(_list_tasks, phase))
            | f"{label}: spread" >> ab.Reshuffle()
            | f"{label}: do" >> ab.Map(functools.partial(_do, phase))
            | f"{label}: combine" >> ab.CombineGlobally(functools.partial(_combine, phase)).without_defaults()
            | f"{label}: finish" >> ab.Map(functools.partial(_finish, phase, done))
        )
    return before


def _list_tasks(phase: Phase, _: str) -> Iterator[str | None]:
    yield from phase.list_tasks()
    yield None


def _do(phase: Phase, task: str | None) -> list[Any]:
    """The result of a task in a list, which is empty for None, the task that every phase has."""
    return [] if task is None else [phase.task(task)]


def _combine(phase: Phase, results: Iterable[list[Any]]) -> list[Any]:
    known = [result for each in results for result in each]
    return [phase.combine(known)] if known else []


def _finish(phase: Phase, done: str, results: Sequence[Any]) -> str:
    if phase.finish is not None:
        phase.finish(results[0] if results else None)
    storage.write_bytes(done, canonical_json({"phase": phase.name}))
    return _BEGIN


#: The URI of a task's table, and the fingerprint of its inputs.
TableOf = Callable[[str], tuple[str, str]]


def select_own(job: str, names: Sequence[str], runner: beam.Runner, table_of: TableOf) -> Sequence[str]:
    """Select those of a stage's tasks that a runner is for: all, those of its share, or none where others have done
    them. Raises StageError where these others have left some out."""
    if not runner.finish:
        return names if runner.share is None else runner.share.select(names)
    missing = [name for name in names if not tables.is_written(*table_of(name))]
    if missing:
        raise StageError(
            f"{len(missing):,} of {len(names):,} tasks of {job} are not done, {missing[0]} among them",
            where=table_of(missing[0])[0],
            hint="run the same command with --shard i/N, for every share: what is done is not done again",
        )
    return []


def end_share(runner: beam.Runner, own: Sequence[str]) -> None:
    """End a stage here, by ShareDone, of which a runner does a share. own: the tasks of the share."""
    if runner.share is not None:
        raise ShareDone(len(own))


def take_turns(names: Sequence[str], runner: beam.Runner) -> Sequence[str]:
    """All tasks that every share needs done, for a share in an order of its own: who finds one done leaves it."""
    return names if runner.share is None else runner.share.rotate(names)
