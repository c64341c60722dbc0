from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from mixtures.cards import card_page
from pipelines.core.run import Run

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def card(run: Run, name: str) -> dict[str, Any]:
    return dict(json.loads(Path(run.at("shards", f"{name}.card.json")).read_bytes()))


def test_a_page_says_what_the_card_says(cold: Run) -> None:
    for path in Path(cold.at("shards")).glob("*.card.json"):
        shard_card = json.loads(path.read_bytes())
        page = Path(cold.at("cards", f"{shard_card['shard']}.html")).read_text("utf-8")
        assert page == card_page.render_shard_page(shard_card)
        seen = Seen(page)
        tar, lists = shard_card["tar"], ("licences", "sources", "reasons")
        texts = [shard_card["shard"], tar["sha256"], f"{tar['bytes']:,}", *shard_card["made_by"]["models"]]
        for text in [*texts, *(name for field in lists for name in shard_card[field])]:
            assert text in seen.text
        assert seen.tags.count("svg") == len(shard_card["scores"])


def test_content_of_cards_is_shown_as_text_and_never_as_markup(cold: Run) -> None:
    shard_card = card(cold, "image-000000")
    plain = Seen(card_page.render_shard_page(shard_card))
    shard_card |= {"shard": EVIL, "licences": {EVIL: 1}, "sources": {EVIL: 1}, "reasons": {EVIL: 1}, "kinds": {EVIL: 1}}
    shard_card["made_by"] |= {"name": EVIL, "dialogues": EVIL}
    seen = Seen(card_page.render_shard_page(shard_card))
    assert set(seen.tags) == set(plain.tags) and "script" not in seen.tags and "img" not in seen.tags
    assert not any(name.startswith("on") for name in seen.attributes)
    assert seen.text.count(EVIL) >= 7


def test_a_card_page_fetches_nothing_and_runs_no_script(cold: Run) -> None:
    page = card_page.render_shard_page(card(cold, "image-000000"))
    seen = Seen(page)
    assert "default-src 'none'" in page
    assert not {"src", "href", "srcset"} & set(seen.attributes) and "url(" not in page
    bars = page.count("<rect")
    assert bars == sum(len(score["counts"]) for score in card(cold, "image-000000")["scores"].values())
