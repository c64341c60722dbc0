"""RUN/README.md: the data-set card that people and the Hugging Face hub read first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infra import storage
from infra.commit import read_json
from pipelines.run import Run


def write_readme(run: Run, names: Sequence[str]) -> None:
    """Write the data-set card from the shards' cards and the ledger."""
    cards = [read_json(run.at("shards", f"{name}.card.json")) for name in names]
    ledger = read_json(run.at("ledger.json"))
    storage.write_bytes(run.at("README.md"), _text(run, cards, ledger).encode())


def _text(run: Run, cards: Sequence[dict[str, Any]], ledger: dict[str, Any]) -> str:
    licences = sorted({name for card in cards for name in card["licences"]})
    lines = ["---", f"pretty_name: {run.config.name}", "license: other", "configs:"]
    by_series: dict[str, list[str]] = {}
    for card in (card for card in cards if card["samples"]):
        by_series.setdefault(f"{card['modality']}_{'_'.join(card['suffixes']).replace('.', '_')}", []).append(
            card["shard"]
        )
    for series, shards in sorted(by_series.items()):
        lines += [f"- config_name: {series}", "  data_files:"]
        lines += [f"  - shards/{name}.tar" for name in shards]
    lines += ["---", "", f"# {run.config.name}", ""]
    if run.config.export.description:
        lines += [run.config.export.description, ""]
    lines += ["Made by Reelmill. Every shard has a card beside it; `ledger.json` accounts for every input.", ""]
    lines += ["## What became of the inputs", "", "| modality | inputs | kept | dropped | duplicates | failed |",
              "|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for name, entry in ledger.items():
        dropped, failed = sum(entry["dropped"].values()), sum(entry["failed"].values())
        lines.append(
            f"| {name} | {entry['inputs']:,} | {entry['kept']:,} | {dropped:,} | {entry['duplicates']:,} | {failed:,} |"
        )
    lines += ["", "## Dropped, by filter", "", "| filter | samples |", "|---|---:|"]
    for name, count in sorted(ledger["all"]["dropped"].items()):
        lines.append(f"| {name} | {count:,} |")
    lines += [
        "",
        "## Shards",
        "",
        "| shard | samples | tokens | seconds | bytes | sha256 |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for card in cards:
        tar = card["tar"]
        lines.append(
            f"| {card['shard']} | {card['samples']:,} | {card['tokens']:,} | {card['seconds']:,.1f} | "
            f"{tar['bytes']:,} | `{tar['sha256'][:16]}…` |"
        )
    lines += ["", "## Licences", "", *[f"- {_escape(name)}" for name in licences], ""]
    return "\n".join(lines)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ")
