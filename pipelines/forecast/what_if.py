"""what-if: answer what other thresholds would keep, from what a finished run measured. Run and store are only read.

Every row is judged again from RUN/signals; the store fills in cells of rows that the run's own cascade never reached.
Counts that depend on cells which are still missing are ranges. Duplicates are searched again by the run's own code, in
a scratch folder that is removed, where the store has the fingerprints of all rows that now take part.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import yaml

from infra import storage
from infra.commit import need_manifest
from infra.config import Config, ConfigDocument, validate
from infra.errors import ConfigError
from pipelines.core.console import print_table, print_text
from pipelines.core.finished_run import read_run_json, restore_config
from pipelines.core.resolve import Resolved, resolve
from pipelines.forecast.duplicate_bounds import find_survivors
from pipelines.forecast.outcome_bounds import count_outcomes
from pipelines.forecast.rejudge import HypotheticalRun, WhatIf

#: Top-level keys of the config that decide and do not measure.
ROOTS = ("filters", "duplicates", "resample")


def run(folder: str, settings: Sequence[str]) -> dict[str, Any]:
    """Compute what a run (`folder`) keeps with `settings` ("filters.motion.min_score=0.002", …; values are YAML).

    Raises ConfigError for an unknown key, StageError where there is no finished run, or where a search for duplicates
    needs fingerprints that the store does not have.
    """
    run_json = read_run_json(folder)
    names = [unit.name for unit in need_manifest(folder, "verdicts").units]
    with tempfile.TemporaryDirectory(prefix="reelmill-what-if-") as scratch:
        before = _hypothesise(folder, scratch, run_json, restore_config(run_json))
        document = replace(restore_config(run_json, _apply_settings(run_json["config"], settings)), path="--set")
        after = _hypothesise(folder, scratch, run_json, document)
        changes = [_describe_change(setting, resolve(before), resolve(after)) for setting in settings]
        return {"run": folder, "set": changes, **_answer(before, after, names)}


def _hypothesise(folder: str, scratch: str, run_json: Mapping[str, Any], document: ConfigDocument) -> HypotheticalRun:
    config = validate(document, Config, {**document.content, "out": storage.join(scratch, "run")})
    return HypotheticalRun(config, document, quiet=True, makers=run_json["makers"], base=folder)


def _answer(before: HypotheticalRun, after: HypotheticalRun, names: Sequence[str]) -> dict[str, Any]:
    what_if = WhatIf(after, names)
    unchanged = what_if.judge()
    same_settings = what_if.resolved.duplicates == resolve(before).duplicates
    survivors = find_survivors(what_if, unchanged=unchanged, same_settings=same_settings)
    counts = count_outcomes(what_if, survivors)
    exact = all(entry.is_exact for entry in counts.values())
    if not exact:
        what_if.notes.append(
            "Ranges are [lower, upper] bounds: some samples that these settings would keep were never measured. "
            "`reelmill run` with these settings and --out NEW measures only those"
        )
    order = [*(filter_.name for filter_ in what_if.resolved.filters), "resample"]
    modalities = {name: entry.to_json(order) for name, entry in counts.items()}
    return {"exact": exact, "notes": what_if.notes, "modalities": modalities}


# -- settings ---------------------------------------------------------------------------------------------------


def parse(setting: str) -> tuple[tuple[str, ...], Any]:
    """(path of keys in the config, value) of "a.b.c=VALUE". Raises ConfigError."""
    name, sign, text = setting.partition("=")
    path = tuple(name.strip().split("."))
    if not sign or not all(path) or len(path) < 2:
        raise ConfigError("not a setting", where=f"--set {setting}", hint="filters.motion.min_score=0.002")
    if path[0] not in ROOTS:
        raise ConfigError(
            f"{path[0]}.* cannot be changed here: it decides what is measured or written, not what is kept",
            where=f"--set {setting}",
            hint=f"what-if changes {', '.join(f'{root}.*' for root in ROOTS)}; for other keys give `reelmill run` "
            "the changed config and --out NEW",
        )
    try:
        return path, yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"not a YAML value: {text}", where=f"--set {setting}") from None


def _apply_settings(config: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of a config with settings changed."""
    changed = copy.deepcopy(dict(config))
    for setting in settings:
        path, value = parse(setting)
        level = changed
        for key in path[:-1]:
            if level.get(key) is None:
                level[key] = {}
            level = level[key]
            if not isinstance(level, dict):
                raise ConfigError(f"{key} is a value, not a group of settings", where=f"--set {setting}")
        level[path[-1]] = value
    return changed


def _describe_change(setting: str, before: Resolved, after: Resolved) -> dict[str, Any]:
    path, _ = parse(setting)
    return {"key": ".".join(path), "from": _setting_at(before, path), "to": _setting_at(after, path)}


def _setting_at(resolved: Resolved, path: tuple[str, ...]) -> Any:
    setting: Any = {
        "filters": {f.name: f.settings.model_dump(mode="json") for f in resolved.filters},
        "duplicates": resolved.duplicates.model_dump(mode="json"),
        "resample": None if resolved.resample is None else resolved.resample.model_dump(mode="json"),
    }
    for key in path:
        setting = setting.get(key) if isinstance(setting, dict) else None
    return setting


# -- for people -------------------------------------------------------------------------------------------------


def show(answer: Mapping[str, Any]) -> None:
    """Print the answer: what is kept by modality, and which filter stops the rest."""
    print_text(*(f"{change['key']}: {change['from']} -> {change['to']}" for change in answer["set"]))
    print_table(
        "Kept in the run, and with these settings",
        ["modality", "inputs", "in the run", "with these settings", "newly kept", "no longer kept"],
        (
            (name, entry["inputs"], entry["kept"]["now"], _format_then(entry["kept"]), entry["gained"], entry["lost"])
            for name, entry in answer["modalities"].items()
        ),
    )
    total = answer["modalities"].get("all", {"dropped": {}, "undecided": {}})
    ranges = dict(total["dropped"])
    if "duplicates" in total:
        ranges |= {"duplicates": total["duplicates"], "failed": total["failed"]}
    rows = []
    for name in dict.fromkeys([*ranges, *total["undecided"]]):
        numbers = (ranges[name]["now"], _format_then(ranges[name])) if name in ranges else (None, None)
        rows.append((name, *numbers, total["undecided"].get(name)))
    print_table("Not kept, by reason", ["by", "in the run", "with these settings", "not measured"], rows)
    if answer["exact"]:
        print_text("Exact: all that these settings need was measured.")
    print_text(*(f"- {note}" for note in answer["notes"]))


def _format_then(entry: Mapping[str, Any]) -> str:
    low, high = entry["then"]
    return f"{low:,}" if low == high else f"[{low:,}, {high:,}]"
