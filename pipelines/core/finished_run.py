"""A finished run, opened from what its own folder says: no config file, no weights, no media."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from infra import storage
from infra.commit import read_json
from infra.config import Config, Document, validate
from infra.errors import StageError
from pipelines.core.run import Run


def held_run(folder: str) -> dict[str, Any]:
    """RUN/run.json.

    Raises StageError where there is none.
    """
    uri = storage.join(folder, "run.json")
    if not storage.is_file(uri):
        raise StageError("there is no finished run here", where=folder, hint="`reelmill run CONFIG` makes one")
    return dict(read_json(uri))


def held_config(held: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> Document:
    """run.json's config, or `config` in its place, as it was meant: filters in the order of the cascade, with the
    thresholds that its weights brought along."""
    data = copy.deepcopy(dict(held["config"] if config is None else config))
    # run.json is canonical, so sorted; the order of the cascade stands in `explain`.
    filters = {entry["filter"]: data["filters"].get(entry["filter"]) for entry in held["explain"]}
    filters.update({name: own for name, own in data["filters"].items() if name not in filters})
    for entry in held["explain"]:
        name, own = entry["filter"], filters[entry["filter"]] or {}
        known = entry["settings"].get("min_score")
        if known is not None and isinstance(own, dict) and own.get("min_score") is None and not own.get("keep_top"):
            filters[name] = {**own, "min_score": known}
    return Document("run.json", {**data, "filters": filters}, {})


def open_finished(folder: str) -> Run:
    """The run in `folder`, where it lies now. Raises what `held_run` does."""
    held = held_run(folder)
    document = held_config(held)
    config = validate(document, Config, {**document.data, "out": folder})
    return Run(config, document, quiet=True, made=held["makers"])
