"""What a person sees at the end of a run."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.table import Table

from infra import storage, tables
from infra.commit import read_json, read_manifest
from mixtures.cards import cards
from pipelines.core.console import open_console
from pipelines.core.resolve import resolve
from pipelines.core.run import Run


def print_run(run: Run) -> None:
    """The ledger, the shards, and where they lie."""
    ledger = read_json(run.at("ledger.json"))
    print_ledger(ledger)
    print_dialogues(run)
    manifest = read_manifest(run.at("members"))
    shards = [] if manifest is None else manifest.units
    out = open_console()
    total = sum(read_json(run.at("shards", f"{unit.name}.card.json"))["tar"]["bytes"] for unit in shards)
    out.print(f"{len(shards):,} shards, {total:,} bytes, in {run.at('shards')}", highlight=False)
    out.print(f"cards beside them; {run.at('ledger.json')} accounts for every input", highlight=False)


def print_ledger(ledger: dict[str, Any]) -> None:
    """One row a modality, one column an outcome; drops by filter below."""
    table = Table(title="What became of the inputs", title_justify="left")
    table.add_column("modality")
    for name in ("inputs", "kept", "dropped", "duplicates", "failed", "ignored"):
        table.add_column(name, justify="right")
    for name, entry in sorted(ledger.items(), key=lambda item: item[0] == "all"):
        dropped, failed = sum(entry["dropped"].values()), sum(entry["failed"].values())
        numbers = (entry["inputs"], entry["kept"], dropped, entry["duplicates"], failed, entry["ignored"])
        table.add_row(name, *(f"{number:,}" for number in numbers), end_section=False)
    out = open_console()
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


def print_dialogues(run: Run) -> None:
    """What became of the dialogues, and what the last writing of them cost; nothing where none are asked for."""
    settings, manifest = resolve(run).annotate, read_manifest(run.at("dialogues"))
    if settings is None or manifest is None:
        return
    good, bad, reasons, of_turns = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    turns = 0
    for unit in manifest.units:
        rows = tables.read(run.at("dialogues", f"{unit.name}.parquet")).to_pylist()
        told = cards.summarize_dialogues(rows)
        if told is not None:
            good.update(told["kinds"])
            reasons.update(told["rejected"])
            of_turns.update(told["rejected_turns"])
            turns += told["turns"]
            bad.update(row["kind"] for row in rows if row["outcome"] != "accepted")
    table = Table(title=f"Dialogues, {turns:,} turns", title_justify="left")
    for name in ("kind", "accepted", "share", "target", "rejected"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    total = sum(settings.kinds.values())
    for kind in [*settings.kinds, *sorted({*good, *bad} - set(settings.kinds))]:
        target = f"{settings.kinds[kind] / total:.1%}" if kind in settings.kinds else ""
        share = f"{good[kind] / max(good.total(), 1):.1%}"
        table.add_row(kind, f"{good[kind]:,}", share, target, f"{bad[kind]:,}")
    out = open_console()
    out.print(table)
    for what, found in (("rejected", reasons), ("rejected turns of the others", of_turns)):
        if found:
            listed = ", ".join(f"{name} {count:,}" for name, count in found.most_common())
            out.print(f"{what}: {listed}", highlight=False)
    if storage.is_file(run.work("annotate.json")):
        out.print(format_cost(read_json(run.work("annotate.json")), settings), highlight=False)


def format_cost(told: dict[str, Any], settings: Any) -> str:
    """One line: requests, tokens, seconds, and the cost where the price of a GPU-hour is given."""
    if "sent" not in told:
        return f"written by rule in {told['seconds']:,.1f} s"
    line = (
        f"{told['sent']:,} requests sent, {told['hits']:,} from the cache, {told['tokens_in']:,} tokens in "
        f"({told['tokens_cached']:,} of them cached by the server), {told['tokens_out']:,} out, "
        f"{told['tokens_out'] / max(told['seconds'], 1e-9):,.0f} tokens/s, {told['seconds']:,.1f} s"
    )
    if settings.price_per_gpu_hour is not None:
        paid = settings.price_per_gpu_hour * settings.gpus * told["seconds"] / 3600
        line += f"; {settings.gpus} GPUs at {settings.price_per_gpu_hour:g} an hour: {paid:,.2f}"
    return line


def print_stage(value: dict[str, Any]) -> None:
    """One line for one stage."""
    open_console().print(f"{value['stage']}: {value['rows']:,} rows in {value['units']:,} units", highlight=False)


def print_explained(value: dict[str, Any]) -> None:
    """Every threshold, in the order in which the questions are asked."""
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
    open_console().print(table)


def _settings(value: Any, prefix: str = "") -> str:
    if isinstance(value, dict):
        return "\n".join(_settings(v, f"{prefix}{k}.") for k, v in value.items() if v is not None)
    return f"{prefix.rstrip('.')} = {value}" if not isinstance(value, dict) else ""
