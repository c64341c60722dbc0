"""diff: compare two runs or two mixtures: samples, outcomes, scores, settings, shares, files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra import storage
from infra.commit import read_json, read_manifest
from infra.errors import ConfigError, StageError
from mixtures.shards.manifest import is_mixture
from pipelines.core.console import print_text
from pipelines.core.finished_run import read_run_json
from pipelines.diff import diff_mixtures, diff_rows
from pipelines.diff.compare import compare_files, compare_settings, flatten, show_files, show_rows, show_settings

#: Keys of a config that are paths and do not affect results.
LOCATIONS = ("out", "store")


def run(a: str, b: str) -> dict[str, Any]:
    """Compare two runs that have verdicts, or two mixtures; read-only.

    `same` is true if every covered file has the same bytes and no setting that affects results differs.
    Raises ConfigError if one is a run and the other a mixture, StageError if one is neither.
    """
    kinds = [_detect_kind(uri) for uri in (a, b)]
    if kinds[0] != kinds[1]:
        raise ConfigError(f"{a} is a {kinds[0]} and {b} a {kinds[1]}", hint="give two runs, or two mixtures")
    changes = diff_mixtures.compare(a, b) if kinds[0] == "mixture" else _compare_runs(a, b)
    return {"kind": kinds[0], "a": a, "b": b, **changes}


def _detect_kind(uri: str) -> str:
    if is_mixture(uri):
        return "mixture"
    if storage.is_file(storage.join(uri, "run.json")) and read_manifest(storage.join(uri, "verdicts")) is not None:
        return "run"
    raise StageError(
        "this is neither a run with verdicts nor a mixture",
        where=uri,
        hint="`reelmill run` writes runs, `reelmill mix` writes mixtures",
    )


def _compare_runs(a: str, b: str) -> dict[str, Any]:
    side_a, side_b = (read_run_json(uri) for uri in (a, b))
    sums = [_read_checksums(uri) for uri in (a, b)]
    tars = [{name: sha256 for name, sha256 in side.items() if name.endswith(".tar")} for side in sums]
    files = compare_files(*sums)
    config = compare_settings(_normalise_config(side_a), _normalise_config(side_b))
    return {
        "same": files["same"] and not config,
        "config": config,
        "thresholds": compare_settings(_resolved_settings(side_a), _resolved_settings(side_b)),
        "makers": compare_settings(side_a.get("makers", {}), side_b.get("makers", {})),
        "versions": compare_settings(side_a.get("versions", {}), side_b.get("versions", {})),
        "ledger": _list_ledger(a, b),
        **diff_rows.compare(a, b),
        "files": files,
        "shards": compare_files(*tars),
    }


def _read_checksums(run: str) -> dict[str, str]:
    """{path: sha256} of the covered files; of the tables only, if the run is not exported."""
    uri = storage.join(run, "checksums.json")
    if storage.is_file(uri):
        return dict(read_json(uri))
    sums = {}
    for stage in ("samples", "signals", "late", "duplicates", "verdicts", "dialogues"):
        manifest = read_manifest(storage.join(run, stage))
        units = () if manifest is None else manifest.units
        sums.update({f"{stage}/{unit.name}.parquet": unit.sha256 for unit in units})
    return sums


def _normalise_config(run_json: Mapping[str, Any]) -> dict[str, Any]:
    """The config without paths, with sources by name and with the order of the cascade."""
    config = {key: entry for key, entry in run_json["config"].items() if key not in LOCATIONS}
    config["sources"] = {
        source["name"]: {key: entry for key, entry in source.items() if key not in ("name", "path")}
        for source in config["sources"]
    }
    config["cascade"] = [entry["filter"] for entry in run_json.get("explain", ())]
    return config


def _resolved_settings(run_json: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of every filter, defaults included."""
    return {entry["filter"]: entry["settings"] for entry in run_json.get("explain", ())}


def _list_ledger(a: str, b: str) -> list[dict[str, Any]]:
    """[{key, a, b}] of every number in the ledgers, such as "video.dropped.motion", equal ones included."""
    side_a, side_b = (dict(flatten(read_json(storage.join(uri, "ledger.json")))) for uri in (a, b))
    entries = {**side_a, **side_b}
    numbers = sorted(key for key, count in entries.items() if not isinstance(count, Mapping))
    return [{"key": key, "a": side_a.get(key, 0), "b": side_b.get(key, 0)} for key in numbers]


# -- for people -------------------------------------------------------------------------------------------------


def show(changes: Mapping[str, Any]) -> None:
    """Print tables of what differs."""
    if changes["same"]:
        print_text(f"the same {changes['kind']}")
        return
    if changes["kind"] == "mixture":
        diff_mixtures.show(changes)
    else:
        _show_settings(changes)
        diff_rows.show(changes)
        ledger = [entry for entry in changes["ledger"] if entry["a"] != entry["b"]]
        rows = [(entry["key"], entry["a"], entry["b"], f"{entry['b'] - entry['a']:+,}") for entry in ledger]
        show_rows("Ledger entries that differ", ("", "A", "B", "B - A"), rows)
    show_files("shards", changes["shards"])
    if changes["kind"] == "run":
        show_files("covered files", changes["files"])


def _show_settings(changes: Mapping[str, Any]) -> None:
    listed = {entry["key"].removeprefix("filters.") for entry in changes["config"]}
    thresholds = [entry for entry in changes["thresholds"] if entry["key"] not in listed]
    makers = [{**entry, "key": f"fingerprint of {entry['key']}"} for entry in changes["makers"]]
    show_settings("Settings", [*changes["config"], *thresholds, *makers])
