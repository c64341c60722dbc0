"""The command line: what goes where, and what each way to fail exits with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.errors import ConfigError
from pipelines import cli
from pipelines.tools import doctor
from pipelines.tools.presets import PRESETS, preset_text

CONFIG = """name: test
store: {folder}/store
out: {folder}/out
sources:
  - {{name: texts, path: "{folder}/texts", modality: text}}
filters:
  quality:
    {key}: {{min_words: 1}}
"""


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def write_config(folder: Path, key: str = "document") -> Path:
    (folder / "texts").mkdir(exist_ok=True)
    (folder / "texts" / "a.txt").write_text("some words\n")
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(folder=folder, key=key))
    return config


def reelmill(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments], capture_output=True, text=True, timeout=300
    )


def test_a_misspelt_key_stops_run_with_file_line_and_suggestion(tmp_path: Path) -> None:
    config = write_config(tmp_path, "docment")
    done = reelmill("run", str(config))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        f"reelmill: {config}:8: filters.quality.docment: there is no such key\n  did you mean 'document'?\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "texts"]


@pytest.mark.parametrize("verb", ["run", "ingest", "measure", "decide", "export"])
def test_every_verb_that_works_checks_the_config_first(verb: str, runner: CliRunner, tmp_path: Path) -> None:
    done = runner.invoke(cli.app, [verb, str(write_config(tmp_path, "docment"))])
    assert isinstance(done.exception, ConfigError)
    assert done.exception.where.endswith("config.yaml:8")
    assert not (tmp_path / "out").exists() and not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["runn"], "No such command"),
        (["run"], "Missing argument"),
        (["run", "x.yaml", "--wrokers", "2"], "No such option"),
        (["run", "x.yaml", "--workers", "0"], "Invalid value"),
        (["vocab", "x.txt"], "Missing option"),
        (["vocab", "x.txt", "--out", "v.json", "--min-count", "few"], "Invalid value"),
    ],
)
def test_wrong_usage_exits_2(runner: CliRunner, arguments: list[str], word: str) -> None:
    done = runner.invoke(cli.app, arguments)
    assert done.exit_code == 2
    assert done.stdout == "" and word in done.stderr


def test_errors_exit_with_their_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for arguments, code, word in (
        (["run", str(tmp_path / "none.yaml")], 2, "no such config file"),
        (["init", "apolo"], 2, "did you mean 'apollo'?"),
        (["schema", "sample"], 2, "samples"),
        (["vocab", str(tmp_path / "none.txt"), "--out", str(tmp_path / "v.json")], 2, "none.txt does not exist"),
        (["vocab", str(tmp_path), "--out", str(tmp_path / "v.json"), "--case", "upper"], 2, "lower or keep"),
    ):
        monkeypatch.setattr(sys, "argv", ["reelmill", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        output = capsys.readouterr()
        assert stopped.value.code == code
        assert output.out == "" and output.err.startswith("reelmill: ") and word in output.err


def test_without_arguments_it_lists_its_verbs(runner: CliRunner) -> None:
    shown = runner.invoke(cli.app, ["--help"])
    assert shown.exit_code == 0
    for verb in ("demo", "init", "doctor", "plan", "run", "ingest", "measure", "decide", "export", "what-if", "vocab",
                 "schema"):  # fmt: skip
        assert verb in shown.stdout


def test_help_groups_the_verbs_in_the_order_of_work(runner: CliRunner) -> None:
    shown = runner.invoke(cli.app, ["--help"]).stdout
    words = ("─ Stages", "│ run", "│ ingest", "│ measure", "│ decide", "│ annotate", "│ export", "─ Mixtures", "│ mix",
             "─ Inspect", "│ plan", "│ audit", "─ Tools", "│ init", "│ takedown")  # fmt: skip
    positions = [shown.index(word) for word in words]
    assert positions == sorted(positions)


@pytest.mark.parametrize("preset", PRESETS)
def test_init_prints_the_preset(runner: CliRunner, preset: str) -> None:
    done = runner.invoke(cli.app, ["init", preset])
    assert (done.exit_code, done.stdout) == (0, preset_text(preset))


def test_init_without_a_name_prints_apollo(runner: CliRunner) -> None:
    assert runner.invoke(cli.app, ["init"]).stdout == preset_text("apollo")


def test_json_is_one_value_on_stdout(runner: CliRunner, tmp_path: Path) -> None:
    assert list(json.loads(runner.invoke(cli.app, ["schema", "members", "--json"]).stdout)) == ["members"]
    config = str(write_config(tmp_path))
    explained = json.loads(runner.invoke(cli.app, ["run", config, "--explain", "--json"]).stdout)
    (entry,) = explained["filters"]
    assert entry["settings"]["document"]["min_words"] == 1 and entry["settings"]["min_words"] == 3
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("ok", "needed", "code"), [(True, True, 0), (True, False, 0), (False, False, 0), (False, True, 1)]
)
def test_doctor_exits_1_when_something_needed_is_missing(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, ok: bool, needed: bool, code: int
) -> None:
    finding = {"name": "x", "ok": ok, "needed": needed, "detail": "seen", "fix": "do this"}
    monkeypatch.setattr(doctor, "run", lambda config: {"findings": [finding]})
    done = runner.invoke(cli.app, ["doctor", "--json"])
    assert done.exit_code == code
    assert json.loads(done.stdout) == {"findings": [finding]}
    shown = runner.invoke(cli.app, ["doctor"])
    assert shown.exit_code == code and ("do this" in shown.stdout) == (not ok)


def test_vocab_writes_what_it_says(tmp_path: Path) -> None:
    text = tmp_path / "good.txt"
    text.write_text("new york is large\n\n" * 6)
    out = tmp_path / "v.json"
    done = reelmill("vocab", str(text), "--out", str(out), "--small", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["settings"]["min_count"] == 5 and summary["texts"] == 6
    assert "york" in json.loads(out.read_text()) and summary["entries"] == len(json.loads(out.read_text()))
