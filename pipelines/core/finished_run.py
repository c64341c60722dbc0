"""Open a finished run from its own folder, without its config file, weights or media."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra import storage
from infra.commit import find_json, need_manifest
from infra.config import Config, ConfigDocument, validate
from infra.errors import StageError
from pipelines.core.cascade import apply_cutoffs, compute_cutoffs
from pipelines.core.resolve import Resolved, resolve
from pipelines.core.run import Run

RUN_JSON = "run.json"

#: Keys of run.json, the fields of a run that its readers rely on.
_KEYS = {"config": dict, "config_fingerprint": str, "explain": list, "makers": dict, "stages": dict, "states": dict}


def read_run_json(folder: str) -> dict[str, Any]:
    """RUN/run.json.

    Raises StageError if there is none, or if it is damaged.
    """
    uri = storage.join(folder, RUN_JSON)
    if not storage.is_file(uri):
        raise StageError("there is no finished run here", where=folder, hint="`reelmill run CONFIG` makes one")
    run_json = find_run_json(folder)
    if run_json is None:
        hint = "`reelmill run CONFIG --replace` with the config of this run writes it again; finished work is kept"
        raise StageError("the description of this run is damaged", where=uri, hint=hint)
    return run_json


def find_run_json(folder: str) -> dict[str, Any] | None:
    """RUN/run.json; None if there is none, or if it is damaged."""
    run_json = find_json(storage.join(folder, RUN_JSON))
    is_sound = isinstance(run_json, dict) and all(isinstance(run_json.get(key), type_) for key, type_ in _KEYS.items())
    return run_json if is_sound else None


def restore_config(run_json: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> ConfigDocument:
    """The config in run.json, or `config` instead, with the filters in cascade order and the thresholds that the run's
    weights implied."""
    keys = copy.deepcopy(dict(run_json["config"] if config is None else config))
    # run.json is canonical JSON and therefore sorted; `explain` keeps the order of the cascade.
    filters = {entry["filter"]: keys["filters"].get(entry["filter"]) for entry in run_json["explain"]}
    filters.update({name: own for name, own in keys["filters"].items() if name not in filters})
    for entry in run_json["explain"]:
        name, own = entry["filter"], filters[entry["filter"]] or {}
        min_score = entry["settings"].get("min_score")
        if min_score is not None and isinstance(own, dict) and own.get("min_score") is None and not own.get("keep_top"):
            filters[name] = {**own, "min_score": min_score}
    return ConfigDocument("run.json", {**keys, "filters": filters}, {})


def open_finished_run(folder: str) -> Run:
    """Open the run in `folder`, which may have been moved.

    Raises StageError if there is no finished run.
    """
    return _restore_run(folder, read_run_json(folder))


def _restore_run(folder: str, run_json: Mapping[str, Any]) -> Run:
    document = restore_config(run_json)
    config = validate(document, Config, {**document.content, "out": folder})
    return Run(config, document, quiet=True, makers=run_json["makers"])


@dataclass(frozen=True)
class JudgedRun:
    """A finished run with verdicts, read-only. units: names of its units."""

    run: Run
    run_json: Mapping[str, Any]
    #: The configuration, with the cut-off scores in place of the shares.
    resolved: Resolved
    units: tuple[str, ...]
    #: The cut-off score of each filter that keeps a share of the rows.
    cutoffs: Mapping[str, float]


def open_judged_run(folder: str) -> JudgedRun:
    """Open a run that has verdicts.

    Raises StageError if there is no run, or if it has no verdicts.
    """
    run_json = read_run_json(folder)
    run = _restore_run(folder, run_json)
    units = tuple(unit.name for unit in need_manifest(folder, "verdicts").units)
    resolved = resolve(run)
    cutoffs = compute_cutoffs(run, resolved, units)
    return JudgedRun(run, run_json, apply_cutoffs(resolved, cutoffs), units, cutoffs)
