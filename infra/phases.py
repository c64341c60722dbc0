"""Phases of work, one after another in one Beam job: an engine takes seconds to start a job, whatever the job does."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from infra import beam


@dataclass(frozen=True)
class Phase:
    """Tasks that may run at once, when all those of the phase before are done. All functions travel to workers.

    name: as a person knows it. list_tasks: returns the ids of the tasks, and may do first what only one process should
    do. task: does one; returns its result. combine: merges results, in any order and grouping. finish: is given the
    result of all tasks, where there was any.
    """

    name: str
    list_tasks: Callable[[], Sequence[str]]
    task: Callable[[str], Any]
    combine: Callable[[Iterable[Any]], Any] = beam.sum_counters
    finish: Callable[[Any], object] | None = None


def run_phases(job: str, phases: Sequence[Phase], runner: beam.Runner) -> None:
    """Run phases in their order. Only task ids and results travel through Beam. Raises as `beam.run` does."""
    beam.run(job, functools.partial(_build, phases), runner)


#: Passes through every phase, so that those that follow one without tasks begin too.
_BEGIN = "begin"


def _build(phases: Sequence[Phase], pipeline: Any) -> object:
    import apache_beam as ab

    before = pipeline | "begin" >> ab.Create([_BEGIN])
    for number, phase in enumerate(phases, start=1):
        label = f"{number:02d} {phase.name}"
        before = (
            before
            | f"{label}: list" >> ab.FlatMap(functools.partial(_list_tasks, phase))
            | f"{label}: spread" >> ab.Reshuffle()
            | f"{label}: do" >> ab.FlatMap(functools.partial(_do, phase))
            | f"{label}: combine" >> ab.CombineGlobally(functools.partial(_combine, phase)).without_defaults()
            | f"{label}: finish" >> ab.Map(functools.partial(_finish, phase))
        )
    return before


def _list_tasks(phase: Phase, _: str) -> Iterator[str | None]:
    yield from phase.list_tasks()
    yield None


def _do(phase: Phase, task: str | None) -> Iterator[list[Any]]:
    """Results in lists: that of the task None, of which every phase has one, is empty."""
    yield [] if task is None else [phase.task(task)]


def _combine(phase: Phase, results: Iterable[list[Any]]) -> list[Any]:
    known = [result for each in results for result in each]
    return [phase.combine(known)] if known else []


def _finish(phase: Phase, results: Sequence[Any]) -> str:
    if results and phase.finish is not None:
        phase.finish(results[0])
    return _BEGIN
