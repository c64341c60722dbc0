"""what-if against the oracle: a real run with the changed config, from scratch."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from infra.beam import Runner
from infra.errors import ConfigError, ReelmillError, StageError
from pipelines import stages
from pipelines.forecast import what_if

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "dog",
    "cat",
    "river",
    "stone",
    "light",
    "window",
    "garden",
    "paper",
    "music",
    "road",
]
RARE = [f"oddity{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]


def texts(rows: int) -> list[str]:
    """Documents of 4 to 40 words, some shouted, every fifth followed by copies of itself."""
    rng = np.random.default_rng(7)
    documents: list[str] = []
    while len(documents) < rows:
        size = int(rng.integers(4, 40))
        words = [str(w) for w in rng.choice(WORDS, size)]
        if rng.random() < 0.4:
            words[0] = str(rng.choice(RARE))
        text = " ".join(words)
        if rng.random() < 0.15:
            text = text.upper()
        documents.append(text)
        if len(documents) % 5 == 0:
            documents += [text + "!", text.capitalize()]
    return documents[:rows]


def config(folder: Path, rows: int = 240, **changes: Any) -> Path:
    """A config over a table of texts under `folder`; `changes` replace top-level keys."""
    raw = folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(rows)))
    (folder / "vocabulary.json").write_text(json.dumps([*WORDS, *RARE]))
    document = {
        "name": "texts",
        "seed": 3,
        "store": str(folder / "store"),
        "out": str(folder / "run"),
        "sources": [{"name": "web", "path": str(raw), "modality": "text"}],
        "measure": {"ngrams": {"vocabulary": str(folder / "vocabulary.json")}},
        "filters": {"quality": {"document": {**LOOSE, "min_words": 12}}},
        "duplicates": {"text": {"threshold": 0.8}},
        "resample": {"modalities": ["text"], "t": 20},
        "units": {"target_rows": 64, "target_bytes": 100_000},
        **changes,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


LOOSE = {
    "min_stop_words": None,
    "max_shouted": 0.5,
    "repetition": {
        f"max_{n}": None
        for n in (
            *("dup_lines", "dup_paragraphs", "dup_line_chars", "dup_paragraph_chars"),
            *(f"top_{i}gram" for i in (2, 3, 4)),
            *(f"dup_{i}gram" for i in range(5, 11)),
        )
    },
}


def decide_run(path: Path) -> str:
    run = stages.open_for_work(str(path), out=None, replace=False, runner=Runner(), quiet=True)
    for stage in ("ingest", "measure", "decide"):
        stages.run_stage(run, stage)
    return run.out


def run_for_real(folder: Path, settings: list[str]) -> dict[str, Any]:
    """The ledger of a real run with these settings, which shares nothing with the other run but its inputs."""
    document = yaml.safe_load((folder / "config.yaml").read_text())
    for setting in settings:
        keys, setting_value = what_if.parse(setting)
        level = document
        for key in keys[:-1]:
            level = level[key]
        level[keys[-1]] = setting_value
    name = hashlib.sha256("".join(settings).encode()).hexdigest()[:8]
    document |= {"store": str(folder / f"store-{name}"), "out": str(folder / f"run-{name}")}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return dict(json.loads((Path(decide_run(path)) / "ledger.json").read_text()))


def assert_holds(answer: Mapping[str, Any], ledger: Mapping[str, Any]) -> None:
    """Every count of the real run lies in what was foretold, and is it where the answer claims to be exact."""
    for modality, entry in answer["modalities"].items():
        real = ledger[modality]
        pairs = [(entry["kept"], real["kept"]), (entry["duplicates"], real["duplicates"])]
        pairs.append((entry["failed"], sum(real["failed"].values())))
        pairs += [(entry["dropped"].get(name, {"then": [0, 0]}), n) for name, n in real["dropped"].items()]
        for foretold, count in pairs:
            low, high = foretold["then"]
            assert low <= count <= high
            assert not answer["exact"] or low == high
        assert entry["kept"]["now"] + entry["gained"] - entry["lost"] == entry["kept"]["then"][0] or not answer["exact"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("what-if")
    decide_run(config(path))
    return path


def snapshot(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for subfolder in ("run", "store")
        for file in sorted((folder / subfolder).rglob("*"))
        if file.is_file()
    }


def test_stricter_settings_are_predicted_exactly(folder: Path) -> None:
    """Groups of duplicates lose members and are searched with another threshold, frequencies and draws change."""
    settings = ["filters.quality.document.min_words=20", "duplicates.text.threshold=0.95", "resample.t=5"]
    before = snapshot(folder)
    answer = what_if.run(str(folder / "run"), settings)
    assert answer["exact"]
    assert answer["modalities"]["text"]["lost"] > 10
    assert [(change["from"], change["to"]) for change in answer["set"]] == [(12, 20), (0.8, 0.95), (20, 5)]
    assert_holds(answer, run_for_real(folder, settings))
    assert snapshot(folder) == before


def test_looser_settings_are_an_interval_with_the_truth_in_it(folder: Path) -> None:
    settings = ["filters.quality.document.min_words=6"]
    answer = what_if.run(str(folder / "run"), settings)
    text = answer["modalities"]["text"]
    newly = text["dropped"]["quality"]["now"] - text["dropped"]["quality"]["then"][0]
    assert not answer["exact"]
    # What is newly admitted passed the only filter, and was never given a fingerprint or n-grams.
    assert sum(text["undecided"].values()) == newly > 10
    assert text["dropped"]["quality"]["then"][0] == text["dropped"]["quality"]["then"][1]
    ledger = run_for_real(folder, settings)
    assert_holds(answer, ledger)
    assert ledger["text"]["dropped"]["quality"] == text["dropped"]["quality"]["then"][0]
    what_if.show(answer)


def test_no_setting_changes_nothing_and_needs_no_other_files(folder: Path, tmp_path: Path) -> None:
    """Not the vocabulary, not the sources, not the store."""
    run = move_run(folder, tmp_path)
    answer = what_if.run(str(run), ["filters.quality.document.min_words=12", "resample.t=20"])
    ledger = json.loads((run / "ledger.json").read_text())
    assert answer["exact"]
    assert_holds(answer, ledger)
    kept = answer["modalities"]["text"]
    everything = what_if.run(str(run), ["resample.t=1000000"])["modalities"]["text"]
    assert everything["dropped"]["resample"]["then"] == [0, 0]
    assert everything["kept"]["then"][0] == kept["kept"]["now"] + kept["dropped"]["resample"]["now"]


def test_without_the_store_groups_give_an_interval(folder: Path, tmp_path: Path) -> None:
    run = move_run(folder, tmp_path)
    settings = ["filters.quality.document.min_words=20", "resample.t=1000000"]
    with_store = what_if.run(str(folder / "run"), settings)
    assert with_store["exact"]
    guess = what_if.run(str(run), settings)
    low, high = guess["modalities"]["text"]["kept"]["then"]
    assert low <= with_store["modalities"]["text"]["kept"]["then"][0] <= high
    assert high < guess["modalities"]["text"]["kept"]["now"]
    with pytest.raises(StageError, match="fingerprints"):
        what_if.run(str(run), ["duplicates.text.threshold=0.5", *settings])


def move_run(folder: Path, tmp_path: Path) -> Path:
    """The finished run alone, elsewhere, its config naming places that are gone."""
    run = tmp_path / "elsewhere"
    shutil.copytree(folder / "run", run, ignore=shutil.ignore_patterns("work"))
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace(str(folder), "/gone"))
    return run


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("filters.qualty.document.min_words=3", "did you mean 'quality'"),
        ("filters.quality.document.min_word=3", "did you mean 'min_words'"),
        ("filters.quality.document.min_words=many", "valid integer"),
        ("filters.quality.document.min_words.x=1", "is a value"),
        ("resample.tail=3", "known here: modalities, rule, t, tail_share"),
        ("duplicates.texts.threshold=0.9", "did you mean 'text'"),
        ("measure.ngrams.case=keep", "cannot be changed here"),
        ("filters.quality.document.min_words", "not a setting"),
        ("filters.quality.document.min_words=[1", "not a YAML value"),
    ],
)
def test_mistakes_are_named(folder: Path, setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        what_if.run(str(folder / "run"), [setting])
    assert message in str(caught.value)
    assert "--set" in str(caught.value)


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ReelmillError, match="no finished run"):
        what_if.run(str(tmp_path), ["resample.t=3"])
