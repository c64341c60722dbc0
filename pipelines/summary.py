"""What a person sees at the end of a run."""

from __future__ import annotations

import shutil
from typing import Any

from rich.console import Console
from rich.table import Table

from infra.commit import read_json, read_manifest
from pipelines.main import explained
from pipelines.run import Run


def console() -> Console:
    """Where tables for people go; a pipe has no width, and names must not be cut there."""
    return Console(width=max(110, shutil.get_terminal_size().columns))


def show_run(run: Run) -> None:
    """The ledger, the shards, and where they lie."""
    ledger = read_json(run.at("ledger.json"))
    show_ledger(ledger)
    manifest = read_manifest(run.at("members"))
    shards = [] if manifest is None else manifest.units
    out = console()
    total = sum(read_json(run.at("shards", f"{unit.name}.card.json"))["tar"]["bytes"] for unit in shards)
    out.print(f"{len(shards):,} shards, {total:,} bytes, in {run.at('shards')}", highlight=False)
    out.print(f"cards beside them; {run.at('ledger.json')} accounts for every input", highlight=False)


def show_ledger(ledger: dict[str, Any]) -> None:
    """One row a modality, one column an outcome; drops by filter below."""
    table = Table(title="What became of the inputs", title_justify="left")
    table.add_column("modality")
    for name in ("inputs", "kept", "dropped", "duplicates", "failed", "ignored"):
        table.add_column(name, justify="right")
    for name, entry in sorted(ledger.items(), key=lambda item: item[0] == "all"):
        dropped, failed = sum(entry["dropped"].values()), sum(entry["failed"].values())
        numbers = (entry["inputs"], entry["kept"], dropped, entry["duplicates"], failed, entry["ignored"])
        table.add_row(name, *(f"{number:,}" for number in numbers), end_section=False)
    out = console()
    out.print(table)
    why = Table(title="Dropped and failed, by what stopped them", title_justify="left")
    why.add_column("by")
    why.add_column("samples", justify="right")
    for name, count in sorted(ledger["all"]["dropped"].items(), key=lambda item: -item[1]):
        why.add_row(name, f"{count:,}")
    for name, count in sorted(ledger["all"]["failed"].items(), key=lambda item: -item[1]):
        why.add_row(f"failed at {name}", f"{count:,}")
    if why.row_count:
        out.print(why)


def show_stage(value: dict[str, Any]) -> None:
    """One line for one stage."""
    console().print(f"{value['stage']}: {value['rows']:,} rows in {value['units']:,} units", highlight=False)


def show_explained(run: Run) -> None:
    """Every threshold, in the order in which the questions are asked."""
    value = explained(run)
    table = Table(title="The cascade", title_justify="left")
    for name in ("filter", "asks", "settings"):
        table.add_column(name)
    for entry in value["filters"]:
        table.add_row(entry["filter"], ", ".join(entry["asks"]), _settings(entry["settings"]))
    for modality, settings in value["duplicates"].items():
        if settings:
            table.add_row("duplicates", modality, _settings(settings))
    if value["resample"] is not None:
        table.add_row("resample", ", ".join(value["resample"]["modalities"]), _settings(value["resample"]))
    console().print(table)


def _settings(value: Any, prefix: str = "") -> str:
    if isinstance(value, dict):
        return "\n".join(_settings(v, f"{prefix}{k}.") for k, v in value.items() if v is not None)
    return f"{prefix.rstrip('.')} = {value}" if not isinstance(value, dict) else ""
