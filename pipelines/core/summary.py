"""Print the summary of a run or of a stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from infra.commit import read_json, read_manifest, read_scratch
from mixtures.cards import cards
from pipelines.core.console import print_table, print_text
from pipelines.core.environment import describe_failures, find_failures
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import ENVIRONMENT


def print_run(run: Run) -> None:
    """Print the ledger, the dialogues and the shards."""
    print_ledger(read_json(run.at("ledger.json")))
    print_ignored(run.read_members())
    print_text(*describe_failures(find_failures(run)))
    print_dialogues(run)
    manifest = read_manifest(run.at("members"))
    shards = [] if manifest is None else manifest.units
    size = sum(read_json(run.at("shards", f"{unit.name}.card.json"))["tar"]["bytes"] for unit in shards)
    print_text(
        f"{len(shards):,} shards, {size:,} bytes, in {run.at('shards')}",
        f"each shard has a card beside it; {run.at('ledger.json')} accounts for every input",
    )


def print_ledger(ledger: Mapping[str, Any]) -> None:
    """Print the outcomes per modality, and the drops and failures by filter or stage."""
    outcomes = ("inputs", "kept", "dropped", "duplicates", "failed", "ignored")
    rows = []
    for modality, entry in sorted(ledger.items(), key=lambda item: item[0] == "all"):
        totals = {**entry, "dropped": sum(entry["dropped"].values()), "failed": sum(entry["failed"].values())}
        rows.append([modality, *(totals[outcome] for outcome in outcomes)])
    print_table("Inputs by outcome", ("modality", *outcomes), rows)
    causes = [*Counter(ledger["all"]["dropped"]).most_common()]
    failed = Counter(ledger["all"]["failed"])
    causes += [(f"failed {'by' if by == ENVIRONMENT else 'at'} {by}", count) for by, count in failed.most_common()]
    if causes:
        print_table("Dropped and failed inputs by cause", ("cause", "samples"), causes)


def print_ignored(accounts: Mapping[str, Any]) -> None:
    """Print the members that were read and are no input, by source and reason, and the number of captions that are not
    used; nothing if there are none."""
    rows = [
        (source, reason, count["members"], ", ".join(count["examples"][:2]))
        for source, account in sorted(accounts.items())
        for reason, count in sorted(account["ignored"].items())
    ]
    if rows:
        columns = ("source", "reason", "members", "such as")
        print_table("Ignored: read, and no input", columns, rows, left_aligned=("source", "reason", "such as"))
    for source, account in sorted(accounts.items()):
        if count := account.get("unused_captions"):
            print_text(f"source {source}: {count:,} captions of media with several are not used (captions.many)")


def print_dialogues(run: Run) -> None:
    """Print the outcomes of dialogues, and the cost of writing them; nothing if none are configured."""
    settings, manifest = resolve(run).annotate, read_manifest(run.at("dialogues"))
    if settings is None or manifest is None:
        return
    accepted, rejected, reasons, turn_reasons = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    turns = 0
    for unit in manifest.units:
        dialogues = run.read("dialogues", unit.name).to_pylist()
        summary = cards.summarize_dialogues(dialogues)
        if summary is not None:
            accepted.update(summary["kinds"])
            reasons.update(summary["rejected"])
            turn_reasons.update(summary["rejected_turns"])
            turns += summary["turns"]
            rejected.update(row["kind"] for row in dialogues if row["outcome"] != "accepted")
    weights = sum(settings.kinds.values())
    rows = []
    for kind in [*settings.kinds, *sorted({*accepted, *rejected} - set(settings.kinds))]:
        target = f"{settings.kinds[kind] / weights:.1%}" if kind in settings.kinds else None
        share = f"{accepted[kind] / max(accepted.total(), 1):.1%}"
        rows.append((kind, accepted[kind], share, target, rejected[kind]))
    print_table(f"Dialogues, {turns:,} turns", ("kind", "accepted", "share", "target", "rejected"), rows)
    for title, counts in (("rejected", reasons), ("rejected turns of accepted dialogues", turn_reasons)):
        if counts:
            print_text(f"{title}: {', '.join(f'{reason} {count:,}' for reason, count in counts.most_common())}")
    usage = read_scratch(run.work("annotate.json"), manifest.fingerprint)
    if usage is not None:
        print_text(format_cost(usage, settings))


def format_cost(usage: Mapping[str, Any], settings: Any) -> str:
    """One line of requests, tokens and seconds, with the cost if the price of a GPU-hour is configured."""
    if "sent" not in usage:
        return f"written by rule in {usage['seconds']:,.1f} s"
    line = (
        f"{usage['sent']:,} requests sent, {usage['hits']:,} from the cache, {usage['tokens_in']:,} tokens in "
        f"({usage['tokens_cached']:,} of them cached by the server), {usage['tokens_out']:,} out, "
        f"{usage['tokens_out'] / max(usage['seconds'], 1e-9):,.0f} tokens/s, {usage['seconds']:,.1f} s"
    )
    if settings.price_per_gpu_hour is not None:
        cost = settings.price_per_gpu_hour * settings.gpus * usage["seconds"] / 3600
        line += f"; {settings.gpus} GPUs at {settings.price_per_gpu_hour:g} per hour: {cost:,.2f}"
    return line


def print_stage(summary: Mapping[str, Any]) -> None:
    """Print one line on a stage."""
    print_text(f"{summary['stage']}: {summary['rows']:,} rows in {summary['units']:,} units")


def print_explained(explained: Mapping[str, Any]) -> None:
    """Print the filters in cascade order, and the search for duplicates and resampling, with their settings."""
    rows = [(entry["filter"], entry["asks"], entry["settings"]) for entry in explained["filters"]]
    rows += [("duplicates", [modality], settings) for modality, settings in explained["duplicates"].items() if settings]
    if (resample := explained["resample"]) is not None:
        rows.append(("resample", resample["modalities"], resample))
    columns = ("filter", "modalities", "settings")
    cells = [(name, ", ".join(asks), _format_settings(settings)) for name, asks, settings in rows]
    print_table("The cascade", columns, cells, left_aligned=columns)


def _format_settings(settings: Any, prefix: str = "") -> str:
    """One line per setting that is not null, nested keys with dots."""
    if isinstance(settings, dict):
        lines = (_format_settings(v, f"{prefix}{k}.") for k, v in settings.items() if v is not None)
        return "\n".join(lines)
    return f"{prefix.rstrip('.')} = {settings}"
