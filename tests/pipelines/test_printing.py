"""Whatever names and captions contain, no verb prints a character that a terminal obeys."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.core.run import Run
from pipelines.tools import show
from tests import corpus

EVIL = "a\x1b[2J\x07\u202egpj\x9b\nreelmill: done"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command, checks all that it prints, and returns that."""

    def call_(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["reelmill", *words])
        with pytest.raises(SystemExit):
            cli.main()
        printed = capsys.readouterr()
        text = printed.out + printed.err
        assert UNSAFE.search(text) is None, text
        assert not re.search("^reelmill: done", text, re.M), text
        return text

    return call_


def test_no_verb_prints_what_a_terminal_obeys(
    make_run: Callable[..., Run], tmp_path: Path, call: Callable[..., str]
) -> None:
    folder = tmp_path / f"in-{EVIL}"
    folder.mkdir()
    for number in range(3):
        (folder / f"{EVIL}{number}.txt").write_text(corpus.document(number) + EVIL)
    sources = [{"name": "t", "path": str(folder), "modality": "text", "licence": EVIL, "origin": EVIL}]
    run = make_run(sources, f"out-{EVIL}".replace("\n", "-"), filters={"quality": {}}, duplicates={"text": {}})
    config = str(run.document.path)
    for words in (("run", config), ("run", config, "--explain"), ("ingest", config), ("plan", config),
                  ("doctor", config), ("run", config, "--json"),
                  ("what-if", run.out, "--set", "filters.quality.document.min_words=2"),
                  ("audit", run.out), ("audit", run.out, "--json"), ("diff", run.out, run.out),
                  ("mix", "--from", run.out, "--out", str(tmp_path / f"mix-{EVIL}")),
                  ("takedown", run.out, "--licence", EVIL, "--dry-run"), ("takedown", run.out, "--source", EVIL),
                  ("show", "dialogues", run.out), ("audit", str(tmp_path / f"nothing-{EVIL}")),
                  ("run", str(tmp_path / f"{EVIL}.yaml"))):  # fmt: skip
        assert call(*words)
    samples = next(Path(run.at("samples")).glob("*.parquet"))
    samples.write_bytes(b"damaged")
    assert "samples" in call("audit", run.out)
    assert json.loads(call("audit", run.out, "--json"))


def test_dialogues_are_printed_without_controls(capsys: pytest.CaptureFixture[str]) -> None:
    turn = {
        "question": EVIL,
        "answer": EVIL,
        "evidence": [EVIL],
        "blind_rate": None,
        "outcome": "rejected",
        "reason": EVIL,
    }
    item = {"id": EVIL, "start_s": 0.0, "end_s": 1.0, "text": EVIL}
    row = {
        "key": "k",
        "kind": EVIL,
        "outcome": "rejected",
        "model": EVIL,
        "reason": EVIL,
        "turns": [turn],
        "evidence": [item],
    }
    show.show([row], EVIL)
    show.show([], EVIL)
    assert UNSAFE.search(capsys.readouterr().out) is None
