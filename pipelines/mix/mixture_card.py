"""Write the cards of a mixture: card.json and its page, and cards and pages of its tars."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import storage
from infra.commit import read_json
from infra.hashing import canonical_json
from mixtures.cards import card_page, cards, croissant
from mixtures.cards.rollup import Rollup, build_rollup, round_amount
from mixtures.plan.recipe import UNITS
from mixtures.shards.manifest import MANIFEST, Mixture

CARD = "card.json"
PAGE = "card.html"
CROISSANT = "croissant.json"


def write_cards(mixture: Mixture) -> None:
    """Write MIX/card.json and card.html, and where it has tars a card beside each, its page and croissant.json."""
    for path, content in build_cards(mixture).items():
        storage.write_bytes(storage.join(mixture.uri, path), content)


def build_cards(mixture: Mixture) -> dict[str, bytes]:
    """Build the files that `write_cards` writes, by path, from the mixture and its parents' cards and members.

    Raises StageError where a parent is missing.
    """
    rows = mixture.members(["shard", "vshard", "repeat", "offset", "tokens", "seconds", "bytes"])
    rollup = build_rollup(mixture, rows)
    amounts: dict[str, NDArray[Any]] = {unit: rows[unit].to_numpy() for unit in UNITS[1:]}
    card = _build_card(mixture, rows, rollup, amounts)
    files = {CARD: canonical_json(card), PAGE: card_page.render_mixture_page(card).encode()}
    if mixture.manifest["materialized"] is not None:
        tar_cards = _build_tar_cards(mixture, rows, rollup, amounts)
        for tar_card in tar_cards:
            files[f"shards/{tar_card['shard']}.card.json"] = canonical_json(tar_card)
            files[f"cards/{tar_card['shard']}.html"] = card_page.render_tar_page(tar_card).encode()
        files[CROISSANT] = canonical_json(_build_croissant(mixture, card, tar_cards))
    return files


def _build_card(
    mixture: Mixture, rows: pa.Table, rollup: Rollup, amounts: Mapping[str, NDArray[Any]]
) -> dict[str, Any]:
    manifest = storage.read_bytes(storage.join(mixture.uri, MANIFEST))
    repeats = np.bincount(rows["repeat"].to_numpy())
    return cards.build_mixture_card(
        mixture.manifest,
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
        repeats={str(copy): int(count) for copy, count in enumerate(repeats)},
        counts=rollup.count(amounts),
        parents=[_describe_parent(mixture, i) for i in range(len(mixture.manifest["parents"]))],
    )


def _describe_parent(mixture: Mixture, parent: int) -> dict[str, Any]:
    entry, made_by = mixture.manifest["parents"][parent], _read_made_by(mixture, parent)
    return {
        "name": entry["name"],
        "members": entry["members"],
        "seed": made_by.get("seed"),
        "reelmill": made_by.get("reelmill"),
        "dialogues": made_by.get("dialogues"),
    }


def _read_made_by(mixture: Mixture, parent: int) -> Mapping[str, Any]:
    """Read made_by from the card of one of the parent's shards in the mixture: it is the same in all of them."""
    names = [shard["name"] for shard in mixture.manifest["shards"] if shard["parent"] == parent]
    if not names:
        return {}
    return dict(read_json(storage.join(mixture.run(parent), "shards", f"{names[0]}.card.json")).get("made_by", {}))


def _build_tar_cards(
    mixture: Mixture, rows: pa.Table, rollup: Rollup, amounts: Mapping[str, NDArray[Any]]
) -> list[dict[str, Any]]:
    vshard, shard = rows["vshard"].to_numpy(), rows["shard"].to_numpy()
    tars = mixture.manifest["materialized"]
    ends = np.searchsorted(vshard, np.arange(len(tars) + 1))
    name = mixture.manifest["recipe"]["name"]
    tar_cards = []
    for i, tar in enumerate(tars):
        span = slice(int(ends[i]), int(ends[i + 1]))
        totals: dict[str, int | float] = {"samples": span.stop - span.start}
        totals |= {unit: round_amount(unit, float(amounts[unit][span].astype(np.float64).sum())) for unit in UNITS[1:]}
        sources = [mixture.manifest["shards"][number]["sha256"] for number in np.unique(shard[span]).tolist()]
        counts = rollup.count(amounts, span)
        tar_cards.append(cards.build_tar_card(tar, mixture=name, totals=totals, counts=counts, shards=sources))
    return tar_cards


def _build_croissant(mixture: Mixture, card: Mapping[str, Any], tar_cards: list[dict[str, Any]]) -> dict[str, Any]:
    """Build the mixture's Croissant. URL, creator and date of publication are not stated: its runs' are not its own."""
    about = croissant.DatasetInfo(
        name=mixture.manifest["recipe"]["name"],
        description=f"A mixture of {', '.join(run['name'] for run in mixture.manifest['parents'])}.",
    )
    histories = [_read_history(mixture, i) for i in range(len(mixture.manifest["parents"]))]
    return croissant.build_mixture_croissant(about, card, tar_cards, [history for history in histories if history])


def _read_history(mixture: Mixture, parent: int) -> croissant.History | None:
    """Read the cards of the parent's shards in the mixture, until one of them has dialogues that were accepted; None
    where the cards state no history."""
    made_by, has_dialogues = _read_made_by(mixture, parent), False
    for shard in mixture.manifest["shards"] if made_by else ():
        if shard["parent"] == parent and not has_dialogues:
            card = read_json(storage.join(mixture.run(parent), "shards", f"{shard['name']}.card.json"))
            has_dialogues = croissant.History.of_cards([card]).has_dialogues
    return croissant.History(made_by, has_dialogues) if made_by else None
