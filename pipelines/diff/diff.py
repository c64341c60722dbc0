"""diff: what moved between two runs or two mixtures: samples, outcomes, scores, settings, shares, files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from infra import storage
from infra.commit import read_json, read_manifest
from infra.errors import ConfigError, StageError
from mixtures.shards.manifest import is_mixture
from pipelines.core.console import open_console
from pipelines.diff import diff_mixtures, diff_rows
from pipelines.diff.diff_values import files_of, flat, settings, show_files, show_settings

#: Keys of a config that say where things lie and not what they are.
PLACES = ("out", "store")


def run(a: str, b: str) -> dict[str, Any]:
    """What differs between two runs that have verdicts, or between two mixtures; nothing is written.

    `same` is true where every covered file has the same bytes and no setting that results depend on differs.
    Raises ConfigError where one is a run and the other a mixture, StageError where there is neither.
    """
    kinds = [_kind(uri) for uri in (a, b)]
    if kinds[0] != kinds[1]:
        raise ConfigError(f"{a} is a {kinds[0]} and {b} a {kinds[1]}", hint="give two runs, or two mixtures")
    found = diff_mixtures.compare(a, b) if kinds[0] == "mixture" else _runs(a, b)
    return {"kind": kinds[0], "a": a, "b": b, **found}


def _kind(uri: str) -> str:
    if is_mixture(uri):
        return "mixture"
    if storage.is_file(storage.join(uri, "run.json")) and read_manifest(storage.join(uri, "verdicts")) is not None:
        return "run"
    raise StageError(
        "there is neither a run with verdicts nor a mixture here",
        where=uri,
        hint="`reelmill run` makes the one, `reelmill mix` the other",
    )


def _runs(a: str, b: str) -> dict[str, Any]:
    held = [read_json(storage.join(uri, "run.json")) for uri in (a, b)]
    sums = [_sums(uri) for uri in (a, b)]
    files = files_of(sums[0], sums[1])
    config = settings(_config(held[0]), _config(held[1]))
    return {
        "same": files["same"] and not config,
        "config": config,
        "thresholds": settings(_thresholds(held[0]), _thresholds(held[1])),
        "makers": settings(held[0].get("makers", {}), held[1].get("makers", {})),
        "versions": settings(held[0].get("versions", {}), held[1].get("versions", {})),
        "ledger": _ledgers(a, b),
        **diff_rows.compare(a, b),
        "files": files,
        "shards": files_of(*({n: s for n, s in one.items() if n.endswith(".tar")} for one in sums)),
    }


def _sums(run: str) -> dict[str, str]:
    """{path: sha256} of what a run's checksums cover; of its tables where it is not exported."""
    uri = storage.join(run, "checksums.json")
    if storage.is_file(uri):
        return dict(read_json(uri))
    found = {}
    for stage in ("samples", "signals", "late", "duplicates", "verdicts", "dialogues"):
        manifest = read_manifest(storage.join(run, stage))
        units = () if manifest is None else manifest.units
        found.update({f"{stage}/{unit.name}.parquet": unit.sha256 for unit in units})
    return found


def _config(held: Mapping[str, Any]) -> dict[str, Any]:
    """run.json's config without places; sources by name; filters with their rank in the cascade."""
    config = {key: value for key, value in held["config"].items() if key not in PLACES}
    config["sources"] = {
        one["name"]: {key: value for key, value in one.items() if key not in ("name", "path")}
        for one in config["sources"]
    }
    config["cascade"] = [entry["filter"] for entry in held.get("explain", ())]
    return config


def _thresholds(held: Mapping[str, Any]) -> dict[str, Any]:
    """Every filter's resolved settings, defaults too."""
    return {entry["filter"]: entry["settings"] for entry in held.get("explain", ())}


def _ledgers(a: str, b: str) -> list[dict[str, Any]]:
    """[{key, a, b}] of every number in the ledgers, such as "video.dropped.motion"; numbers that are equal too."""
    left, right = (dict(flat(read_json(storage.join(uri, "ledger.json")))) for uri in (a, b))
    numbers = [key for key in {**left, **right} if not isinstance({**left, **right}[key], Mapping)]
    return [{"key": key, "a": left.get(key, 0), "b": right.get(key, 0)} for key in sorted(numbers)]


# -- for people -------------------------------------------------------------------------------------------------


def show(value: Mapping[str, Any]) -> None:
    """Tables of what differs on stdout."""
    out = open_console()
    if value["same"]:
        out.print(f"the same {value['kind']}", highlight=False)
        return
    if value["kind"] == "mixture":
        diff_mixtures.show(out, value)
    else:
        _show_settings(out, value)
        diff_rows.show(out, value)
        _show_ledger(out, value)
    show_files(out, "shards", value["shards"])
    if value["kind"] == "run":
        show_files(out, "covered files", value["files"])


def _show_settings(out: Console, value: Mapping[str, Any]) -> None:
    seen = {entry["key"].removeprefix("filters.") for entry in value["config"]}
    beside = [entry for entry in value["thresholds"] if entry["key"] not in seen]
    rows = [*value["config"], *beside, *({**entry, "key": f"maker of {entry['key']}"} for entry in value["makers"])]
    show_settings(out, "Settings", rows)


def _show_ledger(out: Console, value: Mapping[str, Any]) -> None:
    table = Table(title="Ledger, where it differs", title_justify="left")
    for name in ("", "A", "B", "B - A"):
        table.add_column(name, justify="right" if name else "left")
    for entry in value["ledger"]:
        if entry["a"] != entry["b"]:
            table.add_row(entry["key"], f"{entry['a']:,}", f"{entry['b']:,}", f"{entry['b'] - entry['a']:+,}")
    if table.row_count:
        out.print(table)
