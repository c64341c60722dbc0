"""Whole runs that differ in one fact: the card changes where it states that fact, and the audit agrees."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines import stages
from pipelines.audit import audit
from pipelines.core.run import Run
from tests import corpus

#: Fields of a card that name bytes, and so change with every fact.
BYTES = {"tar", "media_bytes", "made_by.manifests", "made_by.name"}


@pytest.fixture
def build_card(tmp_path: Path, make_run: Callable[..., Run]) -> Callable[..., dict[str, Any]]:
    """Runs over three pictures with two captions each, with one thing changed; returns the run's only card."""

    def build(name: str, change: Callable[[Path, dict[str, Any]], None] | None = None) -> dict[str, Any]:
        folder = tmp_path / name
        folder.mkdir()
        for number in range(3):
            (folder / f"{number}.jpg").write_bytes(corpus.image_bytes(corpus.picture(number)))
            captions = {"caption": [corpus.caption(number), corpus.caption(number + 9)], "licence": "CC0-1.0"}
            (folder / f"{number}.json").write_text(json.dumps(captions))
        source = {"name": "a", "path": str(folder), "modality": "image", "licence_column": "licence", "origin": "made"}
        config = {"sources": [source], "filters": {"caption": None, "facts": {"min_side": 64}}, "seed": 1}
        if change is not None:
            change(folder, config)
        run = make_run(config.pop("sources"), f"{name}-run", **config)
        stages.run_all(run)
        (report,) = audit.run(run.out, quiet=True)
        assert report.ok, report.findings
        return dict(json.loads(Path(run.at("shards", "image-000000.card.json")).read_bytes()))

    return build


def edit_json(folder: Path, **fields: Any) -> None:
    """Change fields of the first picture's JSON."""
    path = folder / "0.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **fields}))


def shrink(folder: Path, config: dict[str, Any]) -> None:
    (folder / "0.jpg").write_bytes(corpus.image_bytes(corpus.picture(0, 40, 30)))


def find_changes(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Fields that differ, those of made_by by their own names."""
    cards = [
        {**card, **{f"made_by.{name}": fact for name, fact in card["made_by"].items()}} for card in (before, after)
    ]
    return {name for name in {*cards[0], *cards[1]} - {"made_by"} if cards[0].get(name) != cards[1].get(name)}


#: Fact: the change, and the fields of the card that state it. Keys are hashes of content, so they order other rows.
FACTS: dict[str, tuple[Callable[[Path, dict[str, Any]], None], set[str]]] = {
    "a third caption": (
        lambda folder, config: edit_json(folder, caption=["a red house on a hill", "b", "c"]),
        {"unused_captions", "tokens"},
    ),
    "all captions used": (
        lambda folder, config: config["sources"][0].update(captions={"many": "all"}),
        {"unused_captions", "samples", "ledger", "sources"},
    ),
    "licence of a row": (lambda folder, config: edit_json(folder, licence="CC-BY-4.0"), {"licences"}),
    "name of the source": (lambda folder, config: config["sources"][0].update(name="b"), {"sources", "made_by.config"}),
    "no caption": (lambda folder, config: edit_json(folder, caption=[]), {"ledger", "samples"}),
    "a small picture": (shrink, {"ledger", "reasons", "samples"}),
    "threshold": (lambda folder, config: config["filters"]["facts"].update(min_side=32), {"made_by.filters"}),
    "seed": (lambda folder, config: config.update(seed=2), {"made_by.seed"}),
    "a filter less": (lambda folder, config: config["filters"].pop("facts"), {"made_by.filters"}),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_changed_fact_changes_the_field_of_the_card_that_states_it(
    fact: str, build_card: Callable[..., dict[str, Any]]
) -> None:
    change, fields = FACTS[fact]
    before = build_card("before")
    assert before["unused_captions"] == 3 and before["samples"] == 3
    changes = find_changes(before, build_card("after", change)) - BYTES
    assert fields <= changes
    if fact in ("licence of a row", "seed", "threshold"):
        assert changes <= fields


def test_a_run_again_has_the_same_card(build_card: Callable[..., dict[str, Any]]) -> None:
    assert find_changes(build_card("before"), build_card("after")) == set()
