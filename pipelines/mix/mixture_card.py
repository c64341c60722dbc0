"""What a mixture says of itself beside its manifest: card.json, a page for it, and cards and pages of its tars."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import storage
from infra.commit import read_json
from infra.hashing import canonical_json
from mixtures.cards import card_page, cards, croissant
from mixtures.cards.rollup import UNITS, Rollup, build_rollup, round_amount
from mixtures.shards.manifest import MANIFEST, Mixture

CARD = "card.json"
PAGE = "card.html"
CROISSANT = "croissant.json"


def write_cards(mixture: Mixture) -> None:
    """Write MIX/card.json and card.html, and where it has tars a card beside each, its page and croissant.json."""
    for path, data in build_cards(mixture).items():
        storage.write_bytes(storage.join(mixture.uri, path), data)


def build_cards(mixture: Mixture) -> dict[str, bytes]:
    """What `write_cards` writes, by path: a function of the mixture and of its parents' cards and members.

    Raises StageError where a parent is not there any more.
    """
    rows = mixture.members(["shard", "vshard", "repeat", "offset", "tokens", "seconds", "bytes"])
    found = build_rollup(mixture, rows)
    amounts = {unit: rows[unit].to_numpy() for unit in UNITS[1:]}
    card = _card(mixture, rows, found, amounts)
    made = {CARD: canonical_json(card), PAGE: card_page.render_mixture_page(card).encode()}
    if mixture.manifest["materialized"] is not None:
        tars = _tar_cards(mixture, rows, found, amounts)
        for one in tars:
            made[f"shards/{one['shard']}.card.json"] = canonical_json(one)
            made[f"cards/{one['shard']}.html"] = card_page.render_tar_page(one).encode()
        made[CROISSANT] = canonical_json(_croissant(mixture, card, tars))
    return made


def _card(mixture: Mixture, rows: pa.Table, found: Rollup, amounts: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    manifest = storage.read_bytes(storage.join(mixture.uri, MANIFEST))
    repeats = np.bincount(rows["repeat"].to_numpy())
    return cards.build_mixture_card(
        mixture.manifest,
        manifest=hashlib.sha256(manifest).hexdigest(),
        repeats={str(copy): int(count) for copy, count in enumerate(repeats)},
        counts=found.counts(amounts),
        parents=[_parent(mixture, place) for place in range(len(mixture.manifest["parents"]))],
    )


def _parent(mixture: Mixture, place: int) -> dict[str, Any]:
    held, made = mixture.manifest["parents"][place], _made_by(mixture, place)
    return {
        "name": held["name"],
        "members": held["members"],
        "seed": made.get("seed"),
        "reelmill": made.get("reelmill"),
        "dialogues": made.get("dialogues"),
        "evaluation_sets": list_evaluation_sets(made),
    }


def _made_by(mixture: Mixture, place: int) -> Mapping[str, Any]:
    """What a run's cards say of how it was made; they agree, so one of those that were taken from is asked."""
    names = [shard["name"] for shard in mixture.manifest["shards"] if shard["parent"] == place]
    if not names:
        return {}
    return dict(read_json(storage.join(mixture.run(place), "shards", f"{names[0]}.card.json")).get("made_by", {}))


def list_evaluation_sets(made: Mapping[str, Any]) -> list[str]:
    """Names of the evaluation sets that a run was held against, from a card's made_by: duplicates.protect."""
    protected = made.get("duplicates", {}).get("protect") or ()
    return sorted(str(one.get("name", one)) if isinstance(one, Mapping) else str(one) for one in protected)


def _tar_cards(
    mixture: Mixture, rows: pa.Table, found: Rollup, amounts: Mapping[str, NDArray[Any]]
) -> list[dict[str, Any]]:
    vshard, shard = rows["vshard"].to_numpy(), rows["shard"].to_numpy()
    tars = mixture.manifest["materialized"]
    ends = np.searchsorted(vshard, np.arange(len(tars) + 1))
    made = []
    for place, tar in enumerate(tars):
        mine = slice(int(ends[place]), int(ends[place + 1]))
        counts = found.counts(amounts, mine)
        totals: dict[str, int | float] = {"samples": int(ends[place + 1] - ends[place])}
        totals |= {unit: round_amount(unit, float(amounts[unit][mine].astype(np.float64).sum())) for unit in UNITS[1:]}
        used = np.unique(shard[mine]).tolist()
        name = mixture.manifest["recipe"]["name"]
        sources = [mixture.manifest["shards"][one]["sha256"] for one in used]
        made.append(cards.build_tar_card(tar, mixture=name, totals=totals, counts=counts, shards=sources))
    return made


def _croissant(mixture: Mixture, card: Mapping[str, Any], tars: list[dict[str, Any]]) -> dict[str, Any]:
    """Address, creator and date are those of the first run."""
    uri = storage.join(mixture.run(0), CROISSANT) if mixture.manifest["parents"] else ""
    told = read_json(uri) if uri and storage.is_file(uri) else {}
    about = croissant.DatasetInfo(
        name=mixture.manifest["recipe"]["name"],
        description=f"A mixture of {', '.join(parent['name'] for parent in mixture.manifest['parents'])}.",
        url=told.get("url", "https://example.org/"),
        creator=told.get("creator", {}).get("name", "unknown"),
        date=told.get("datePublished", "1970-01-01"),
        version=importlib.metadata.version("reelmill"),
    )
    made = [_made_by(mixture, place) for place in range(len(mixture.manifest["parents"]))]
    return croissant.build_mixture_croissant(about, card, tars, [one for one in made if one])
