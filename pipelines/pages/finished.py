"""A finished run, opened from what its folder says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra import storage
from infra.commit import need_manifest, read_json
from infra.config import Config, validate
from infra.errors import StageError
from pipelines.decide import find_cutoffs, with_cutoffs
from pipelines.resolve import Resolved, resolve
from pipelines.run import Run
from pipelines.what_if import held_config


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
    uri = storage.join(folder, "run.json")
    if not storage.is_file(uri):
        raise StageError("there is no finished run here", where=folder, hint="`reelmill run CONFIG` makes one")
    held = read_json(uri)
    document = held_config(held, ())
    config = validate(document, Config, {**document.data, "out": folder})
    run = Run(config, document, quiet=True, made=held["makers"])
    units = tuple(unit.name for unit in need_manifest(folder, "verdicts").units)
    resolved = resolve(run)
    cutoffs = find_cutoffs(run, resolved, units)
    return Finished(run, with_cutoffs(resolved, cutoffs), held, units, cutoffs)
