"""The benchmark of texts and blank pictures, over a corpus that the test writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.sets import text

CAPTIONS = [
    "A brown dog is running across the field with a ball.",
    "Two people are standing near a table in the kitchen.",
    "An old man is reading a newspaper on a park bench.",
    "THE CAT SLEEPS ON THE SOFA BESIDE A WINDOW",
    "A woman is riding her bicycle through the city.",
    "Several children play with a kite on the beach.",
]
FOREIGN = ("Der Hund läuft mit einem Ball über die große Wiese.", "Le chien court dans le champ avec une balle rouge.")


def write_rows(corpus: Path, name: str, rows: list[dict[str, str]]) -> None:
    (corpus / "text").mkdir(parents=True, exist_ok=True)
    path = corpus / "text" / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_figures_are_of_the_odd_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = tmp_path / "corpus"
    write_rows(corpus, text.COCO, [{"lang": "en", "text": text} for text in CAPTIONS])
    sentences = [{"lang": "xx", "text": text} for text in FOREIGN] + [{"lang": "en", "text": CAPTIONS[0]}]
    write_rows(corpus, "langid_sentences_a", sentences)
    write_rows(corpus, "longform_fiqa_150", [])
    monkeypatch.setattr(text, "DRAWN", 8)
    figures = text.measure_text(corpus, tmp_path / "scratch")
    assert figures["shouted_repaired_size"] == 3  # the second, fourth and sixth caption
    assert figures["shouting_repaired_size"] == 1
    assert figures["shouted_repaired_kept"] == figures["shouting_repaired_kept"] == 1.0
    assert (figures["language_foreign_size"], figures["language_foreign_kept"]) == (1, 0.0)
    assert (figures["language_english_size"], figures["language_english_dropped"]) == (3, 0.0)
    assert (figures["quality_human_size"], figures["quality_human_dropped"]) == (3, 0.0)
    assert (figures["blank_size"], figures["blank_video_size"], figures["blank_video_kept"]) == (8, 8, 0.0)
    assert [figures[f"blank_{kind}_kept"] for kind in ("black", "white", "one_colour", "uniform_noise")] == [0.0] * 4


def test_sets_that_the_corpus_lacks_are_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "DRAWN", 0)
    figures = text.measure_text(tmp_path, tmp_path / "scratch")
    assert set(figures.values()) == {0.0}
    assert {"language_foreign_size", "language_alt_text_size", "quality_documents_size", "blank_size"} <= set(figures)


def test_texts_are_judged_as_a_run_judges_them() -> None:
    outcomes = text.judge_texts(["ok", CAPTIONS[0], FOREIGN[0]], text.TEXT_FILTERS)
    assert outcomes["outcome"].to_pylist() == ["dropped", "kept", "dropped"]
    assert outcomes["filter"].to_pylist() == ["quality", None, "language"]
    assert text.keep_texts([CAPTIONS[0]], ["quality"], "text") == [False]  # too short for a document
