"""What a run says of itself to people and to other tools: README.md, croissant.json, and a page for every card."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from infra import storage
from infra.commit import read_json
from infra.hashing import canonical_json
from mixtures.cards import card_page, croissant
from pipelines.core.run import Run

#: Folder of the cards' pages, and the data set's description for machines.
PAGES = "cards"
CROISSANT = "croissant.json"


def write_dataset_card(run: Run, names: Sequence[str]) -> None:
    """Write all of them from the shards' cards and the ledger; a page whose shard is gone goes with it."""
    cards = [read_json(run.at("shards", f"{name}.card.json")) for name in names]
    ledger = read_json(run.at("ledger.json"))
    for name in storage.list_names(run.at(PAGES)):
        if name.removesuffix(".html") not in names:
            storage.remove(run.at(PAGES, name))
    for card in cards:
        page = card_page.render_shard_page(card).encode()
        storage.write_bytes(run.at(PAGES, f"{card['shard']}.html"), page)
    about = describe_dataset(run)
    value = croissant.build_croissant(about, cards, ledger["all"])
    storage.write_bytes(run.at(CROISSANT), canonical_json(value))
    storage.write_bytes(run.at("README.md"), build_readme(about, cards, ledger).encode())


def list_files(names: Sequence[str]) -> list[str]:
    """Paths in a run of what `write_dataset_card` writes."""
    return ["README.md", CROISSANT, *(f"{PAGES}/{name}.html" for name in names)]


def describe_dataset(run: Run) -> croissant.DatasetInfo:
    """What the config says of the data set."""
    export = run.config.export
    version = importlib.metadata.version("reelmill")
    return croissant.DatasetInfo(
        run.config.name, export.description, export.url, export.creator, export.date_published, version
    )


def build_readme(about: croissant.DatasetInfo, cards: Sequence[Mapping[str, Any]], ledger: Mapping[str, Any]) -> str:
    """The data-set card: metadata for the Hugging Face hub, then text for people."""
    lines = ["---", f"pretty_name: {about.name}", "license: other", "configs:"]
    full = [card for card in cards if card["samples"]]  # a shard that a take-down emptied would stop a loader
    for series, mine in sorted(croissant.group_by_series(full).items()):
        lines += [f"- config_name: {series}", "  data_files:"]
        lines += [f"  - shards/{card['shard']}.tar" for card in mine]
    if not full:
        lines[-1] = "configs: []"
    lines += ["---", "", f"# {about.name}", ""]
    if about.description:
        lines += [about.description, ""]
    lines += [
        "Made by Reelmill. Every shard has a card beside it, with a page to read under `cards/`; `ledger.json`",
        "accounts for every input, `croissant.json` describes the data set to machines, and `checksums.json` has the",
        "sha256 of every file. `reelmill audit` on this folder holds all of it against the bytes.",
    ]
    head = ("modality", "inputs", "kept", "dropped", "duplicates", "failed")
    outcomes = []
    for name, one in ledger.items():
        dropped, failed = sum(one["dropped"].values()), sum(one["failed"].values())
        outcomes.append((name, one["inputs"], one["kept"], dropped, one["duplicates"], failed))
    lines += _table("What became of the inputs", head, outcomes)
    lines += _table("Dropped, by filter", ("filter", "samples"), sorted(ledger["all"]["dropped"].items()))
    for heading, field in (("Licences", "licences"), ("Sources", "sources"), ("Kinds of text", "kinds"),
                           ("Languages", "languages")):  # fmt: skip
        counted = [(name or "not stated", count) for name, count in croissant.sum_counts(cards, field).items()]
        lines += _table(heading, (field, "samples"), counted)
    if cards:
        lines += ["", "## What was asked, in this order", ""]
        lines += [
            f"{n}. {escape_markdown(step)}"
            for n, step in enumerate(croissant.describe_processing(cards[0]["made_by"]), 1)
        ]
    shards = [(c["shard"], c["samples"], c["tokens"], f"{c['seconds']:,.1f}", c["tar"]["bytes"],
               f"`{c['tar']['sha256'][:16]}…`") for c in cards]  # fmt: skip
    lines += _table("Shards", ("shard", "samples", "tokens", "seconds", "bytes", "sha256"), shards)
    return "\n".join([*lines, ""])


def _table(heading: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["", f"## {heading}", "", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        cells = [f"{cell:,}" if isinstance(cell, int) else escape_markdown(str(cell)) for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def escape_markdown(text: str) -> str:
    """Text that stands in Markdown as itself: no markup, no table cell, no line of its own."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(text.replace("[", "\\[").split())
