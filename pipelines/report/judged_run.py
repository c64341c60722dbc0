"""A finished run, opened from what its folder says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra.commit import need_manifest
from pipelines.core import finished_run
from pipelines.core.resolve import Resolved, resolve
from pipelines.core.run import Run
from pipelines.decide.decide import find_cutoffs, with_cutoffs


@dataclass(frozen=True)
class Finished:
    """run: opened where it lies now; resolved: with the scores that shares came to; held: run.json; units: names."""

    run: Run
    resolved: Resolved
    held: dict[str, Any]
    units: tuple[str, ...]
    #: Filters that keep a share of the rows: the score that this came to.
    cutoffs: dict[str, float]


def open_finished(folder: str) -> Finished:
    """Open the run in `folder`; no weights and no media are touched.

    Raises StageError where there is no run that has come to verdicts.
    """
    run = finished_run.open_finished(folder)
    units = tuple(unit.name for unit in need_manifest(folder, "verdicts").units)
    resolved = resolve(run)
    cutoffs = find_cutoffs(run, resolved, units)
    return Finished(run, with_cutoffs(resolved, cutoffs), finished_run.held_run(folder), units, cutoffs)
