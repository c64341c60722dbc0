from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import StageError
from pipelines import cli, stages
from pipelines.core.run import Run
from tests import corpus


@pytest.fixture
def texts(tmp_path: Path) -> list[dict[str, str]]:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.txt").write_text(corpus.document(number))
    return [{"name": "t", "path": str(tmp_path / "in"), "modality": "text"}]


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reelmill", *words])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_running_stage_by_stage_equals_a_whole_run(
    texts: list[dict[str, str]], make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = make_run(texts, "whole")
    stages.run_all(whole)
    make_run(texts, "parts")
    for stage in ("ingest", "measure", "decide", "export"):
        assert call(monkeypatch, stage, str(tmp_path / "parts.yaml"), "--json") == 0
        summary = json.loads(capsys.readouterr().out)
        assert summary["stage"] == stage and summary["rows"] == 3
    a, b = (json.loads((tmp_path / name / "checksums.json").read_bytes()) for name in ("whole", "parts"))
    assert a == b
    states = json.loads((tmp_path / "parts" / "run.json").read_bytes())["states"]
    assert sorted(states) == ["decide", "export", "ingest", "measure"]
    assert call(monkeypatch, "run", str(tmp_path / "parts.yaml"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["ledger"]["all"]["kept"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", ":1: not valid YAML"),
        ("name: a\nname: b\n", ":2: the key 'name' appears twice"),
        ("- a\n", ":1: the config must be a mapping"),
        ("name: !!python/object/apply:os.system ['true']\n", ":1: name"),
        ("name: x\nstore: ${REELMILL_NO_SUCH_VARIABLE}\n", ":2: the variable"),
        ("name: x\nstore: s\nout: o\nsources:\n  - {name: a, path: ., modality: picture}\n", "sources.0.modality"),
        ("\x00", "not valid YAML"),
    ],
)
def test_a_wrong_config_is_exit_2_and_never_starts_work(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text)
    for words in (["run"], ["ingest"], ["run", "--explain"]):
        assert call(monkeypatch, words[0], "c.yaml", *words[1:]) == 2
        out = capsys.readouterr()
        assert out.out == "" and out.err.startswith("reelmill: c.yaml") and message in out.err
    assert list(tmp_path.iterdir()) == [tmp_path / "c.yaml"]
    assert call(monkeypatch, "run", "nowhere.yaml") == 2
    assert "reelmill init" in capsys.readouterr().err


def test_a_stage_out_of_order_is_exit_1_and_says_what_to_run(
    texts: list[dict[str, str]], make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make_run(texts)
    assert call(monkeypatch, "export", str(tmp_path / "run.yaml")) == 1
    assert "reelmill decide" in capsys.readouterr().err


def test_two_jobs_do_not_work_in_one_run(texts: list[dict[str, str]], make_run: Callable[..., Run]) -> None:
    run = make_run(texts)
    Path(run.out).mkdir()
    lock = {"host": socket.gethostname(), "pid": os.getppid(), "time": time.time()}
    Path(run.at(".lock")).write_text(json.dumps(lock))
    with pytest.raises(StageError, match="is at work"):
        stages.run_all(run)
    assert [path.name for path in Path(run.out).iterdir()] == [".lock"]


def test_explain_shows_every_threshold_and_does_nothing(
    texts: list[dict[str, str]], make_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make_run(texts, filters={"quality": {"max_words": 77}, "language": None}, duplicates={"text": {}})
    assert call(monkeypatch, "run", str(tmp_path / "run.yaml"), "--explain", "--json") == 0
    explanation = json.loads(capsys.readouterr().out)
    assert [entry["filter"] for entry in explanation["filters"]] == ["quality", "language"]
    assert explanation["filters"][0]["settings"]["max_words"] == 77
    assert explanation["duplicates"]["text"]["threshold"] == 0.8
    assert call(monkeypatch, "run", str(tmp_path / "run.yaml"), "--explain") == 0
    assert "max_words = 77" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
