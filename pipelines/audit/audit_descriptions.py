"""Audit the descriptions of a run: README.md, croissant.json and the cards' pages, built again from its cards."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from infra import storage
from mixtures.cards import croissant
from pipelines.audit.audit_shard import AuditedShard
from pipelines.audit.audit_units import AuditUnits
from pipelines.audit.files import AuditFiles
from pipelines.export.dataset_card import CROISSANT, build_description

#: Fields of made_by that belong to one shard; the others are the same on all cards of a run.
OF_SHARD = ("lineage", "takedown")


def check_descriptions(
    files: AuditFiles, shards: Sequence[AuditedShard], ledger: Mapping[str, Any], members: Mapping[str, Any]
) -> None:
    """Compare made_by of the cards with one another, and each description with the one that the cards give.

    Descriptions are compared only where this version of Reelmill wrote the cards: others word them differently.
    Cards that are missing or damaged are findings already; then nothing is compared.
    """
    cards = [shard.card for shard in shards if shard.card is not None]
    if len(cards) < len(shards):
        return
    for shard in shards:
        assert shard.card is not None
        first, own = (_get_run_facts(card["made_by"]) for card in (cards[0], shard.card))
        files.findings.compare_json(f"shards/{shard.name}.card.json", "made_by", first, own)
    if any(card["made_by"]["reelmill"] != importlib.metadata.version("reelmill") for card in cards):
        return
    recorded = files.read_json(CROISSANT, "croissant") if CROISSANT in files.sizes else None
    if recorded is None:
        return
    about = croissant.DatasetInfo(
        name=cards[0]["made_by"]["name"] if cards else recorded["name"],
        description=recorded["description"],
        url=recorded.get("url"),
        creator=recorded.get("creator", {}).get("name"),
        date=recorded.get("datePublished"),
    )
    for path, content in build_description(about, cards, ledger, members).items():
        if path == CROISSANT:
            files.findings.compare_json(path, "", _index(json.loads(content)), _index(recorded))
        elif path in files.sizes:
            compare_lines(files, path, content, storage.read_bytes(files.at(path)))


def _get_run_facts(made_by: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of made_by that all cards of a run share, lists as mappings by number."""
    return dict(_number_lists({name: fact for name, fact in made_by.items() if name not in OF_SHARD}))


def _index(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with lists as mappings by number, so that a finding names the entry; without the hashes and sizes
    of tars, which are compared with the tars themselves."""
    document = {**document, "distribution": [
        {name: fact for name, fact in entry.items() if name not in ("sha256", "contentSize")}
        for entry in document["distribution"]
    ]}  # fmt: skip
    return dict(_number_lists(document))


def _number_lists(content: Any) -> Any:
    if isinstance(content, list):
        content = {str(number): entry for number, entry in enumerate(content)}
    return {name: _number_lists(entry) for name, entry in content.items()} if isinstance(content, dict) else content


def compare_lines(files: AuditFiles, path: str, expected: bytes, actual: bytes) -> None:
    """Name the first line of a description that differs."""
    if expected == actual:
        return
    lines = itertools.zip_longest(expected.split(b"\n"), actual.split(b"\n"), fillvalue=b"no line")
    for number, (line, recorded) in enumerate(lines, 1):
        if line != recorded:
            files.findings.add(path, f"line {number}", line, recorded)
            return


def check_reasons(files: AuditFiles, units: AuditUnits, shards: Sequence[AuditedShard]) -> None:
    """The cards must not count a reason more often than the verdicts state it."""
    counted: Counter[str] = Counter()
    for shard in shards:
        counted.update({} if shard.card is None else shard.card["reasons"])
    for reason, count in sorted(counted.items()):
        if count > units.reasons[reason]:
            files.findings.add("ledger.json", f"sum of cards: reasons.{reason}", units.reasons[reason], count)
