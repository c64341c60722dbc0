"""Describe a run for people and other tools: README.md, croissant.json and an HTML page for each shard card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra import storage
from infra.commit import read_json
from infra.hashing import canonical_json
from mixtures.cards import card_page, croissant
from pipelines.core.run import Run

#: Folder of the cards' HTML pages; file name of the machine-readable description.
PAGES = "cards"
CROISSANT = "croissant.json"


def write_dataset_card(run: Run, names: Sequence[str]) -> None:
    """Write README.md, croissant.json and the pages from the shards' cards and the ledger; remove stale pages."""
    cards = [read_json(run.at("shards", f"{name}.card.json")) for name in names]
    ledger = read_json(run.at("ledger.json"))
    for name in storage.list_names(run.at(PAGES)):
        if name.removesuffix(".html") not in names:
            storage.remove(run.at(PAGES, name))
    for path, content in build_description(describe_dataset(run), cards, ledger, run.read_members()).items():
        storage.write_bytes(run.at(path), content)


def build_description(
    about: croissant.DatasetInfo,
    cards: Sequence[Mapping[str, Any]],
    ledger: Mapping[str, Any],
    members: Mapping[str, Any],
) -> dict[str, bytes]:
    """Build the files that describe a run, by path: every statement follows from these arguments.

    members: the account of every member that was read, by source.
    """
    files = {f"{PAGES}/{card['shard']}.html": card_page.render_shard_page(card).encode() for card in cards}
    files[CROISSANT] = canonical_json(croissant.build_croissant(about, cards, ledger["all"]))
    files["README.md"] = build_readme(about, cards, ledger, members).encode()
    return files


def list_files(names: Sequence[str]) -> list[str]:
    """Paths, relative to the run, of the files that `write_dataset_card` writes."""
    return ["README.md", CROISSANT, *(f"{PAGES}/{name}.html" for name in names)]


def describe_dataset(run: Run) -> croissant.DatasetInfo:
    """Description of the data set as the config states it."""
    export = run.config.export
    description = export.description or f"{run.config.name}: training data for video-language models."
    return croissant.DatasetInfo(run.config.name, description, export.url, export.creator, export.date_published)


def build_readme(
    about: croissant.DatasetInfo,
    cards: Sequence[Mapping[str, Any]],
    ledger: Mapping[str, Any],
    members: Mapping[str, Any],
) -> str:
    """Build the data-set card: metadata for the Hugging Face Hub, then Markdown for people.

    members: the account of every member that was read, by source.
    """
    lines = ["---", f"pretty_name: {about.name}", "license: other", "configs:"]
    full = [card for card in cards if card["samples"]]  # loaders fail on shards that a take-down emptied
    for series, shards in sorted(croissant.group_by_series(full).items()):
        lines += [f"- config_name: {series}", "  data_files:"]
        lines += [f"  - shards/{card['shard']}.tar" for card in shards]
    if not full:
        lines[-1] = "configs: []"
    lines += ["---", "", f"# {about.name}", "", about.description, ""]
    lines += [
        "Built with Reelmill. Each shard has a card (`shards/*.card.json`) and an HTML page (`cards/*.html`).",
        "`ledger.json` accounts for every input, `croissant.json` is the machine-readable description, and",
        "`checksums.json` lists the sha256 of the files it covers. To verify this folder, run `reelmill audit` on it.",
    ]
    head = ("modality", "inputs", "kept", "dropped", "duplicates", "failed")
    outcomes = []
    for name, counts in ledger.items():
        dropped, failed = sum(counts["dropped"].values()), sum(counts["failed"].values())
        outcomes.append((name, counts["inputs"], counts["kept"], dropped, counts["duplicates"], failed))
    lines += _table("Inputs by outcome", head, outcomes)
    lines += _table(
        "Dropped samples by filter, resampling or take-down",
        ("filter", "samples"),
        sorted(ledger["all"]["dropped"].items()),
    )
    ignored = [
        (source, reason, count["members"])
        for source, account in sorted(members.items())
        for reason, count in sorted(account["ignored"].items())
    ]
    if ignored:
        lines += _table("Files, tar members and rows that are no input", ("source", "reason", "members"), ignored)
    unused = [(source, count) for source, a in sorted(members.items()) if (count := a.get("unused_captions"))]
    if unused:
        lines += _table("Captions of media with several that are not used", ("source", "captions"), unused)
    for heading, field in (("Licences", "licences"), ("Sources", "sources"), ("Kinds of text", "kinds"),
                           ("Languages", "languages")):  # fmt: skip
        rows = [(name or "not stated", count) for name, count in croissant.sum_counts(cards, field).items()]
        lines += _table(heading, (field.removesuffix("s"), "samples"), rows)
    if cards:
        lines += ["", "## Processing steps, in order", ""]
        lines += [
            f"{n}. {escape_markdown(step)}"
            for n, step in enumerate(croissant.describe_processing(cards[0]["made_by"]), 1)
        ]
    shard_rows = [(c["shard"], c["samples"], c["tokens"], f"{c['seconds']:,.1f}", c["tar"]["bytes"],
                   f"`{c['tar']['sha256'][:16]}…`") for c in cards]  # fmt: skip
    lines += _table("Shards", ("shard", "samples", "tokens", "seconds", "bytes", "sha256"), shard_rows)
    return "\n".join([*lines, ""])


def _table(heading: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a Markdown table under a heading; all columns but the first are aligned right."""
    lines = ["", f"## {heading}", "", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for row in rows:
        cells = [f"{cell:,}" if isinstance(cell, int) else escape_markdown(str(cell)) for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def escape_markdown(text: str) -> str:
    """Escape text for a Markdown table cell: no markup, no cell separators, no line breaks."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
    return " ".join(text.replace("[", "\\[").split())
