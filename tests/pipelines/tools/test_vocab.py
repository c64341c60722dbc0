"""vocab: counts do not depend on how text is cut, and the result is that of counting everything at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import vocabulary
from infra.beam import Runner, sum_counters
from infra.errors import ConfigError
from pipelines.tools import vocab, vocabulary_builder
from pipelines.tools.vocabulary_builder import VocabularySettings

FEW = VocabularySettings(min_count=2, min_pmi=1.0, numbers=False)
PARAGRAPHS = ["new york is a city", "the city of new york\nis large", "a dog and a dog", "red car, red car. new york"]


@pytest.fixture
def plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run one after another, without Beam, which takes seconds to start; one test below keeps it."""

    def run_tasks(job: str, function: Any, tasks: list[str], output: str, runner: Runner) -> dict[str, int]:
        return sum_counters([function(task) for task in tasks])

    monkeypatch.setattr(vocab.beam, "run_tasks", run_tasks)


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "good.txt"
    path.write_text("\n\n".join(PARAGRAPHS * 3) + "\n")
    return path


def test_the_vocabulary_is_that_of_counting_all_at_once(text_file: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"body": text}) + "\n" for text in PARAGRAPHS) + '{"body": 3}\n[1\n')
    table = tmp_path / "table.parquet"
    pq.write_table(pa.table({"body": [*PARAGRAPHS, None]}), table)
    out = tmp_path / "vocabulary.json"
    paths = [str(text_file), str(rows), str(table)]
    summary = vocab.run(paths, str(out), settings=FEW, text_column="body", quiet=True)
    expected = vocabulary_builder.build(vocabulary_builder.count(PARAGRAPHS * 5, "lower"), FEW)
    assert "new york" in expected
    assert list(vocabulary.load(out).entries) == expected
    assert summary["texts"] == 5 * len(PARAGRAPHS)
    assert summary["broken_rows"] == 3
    beside = json.loads((tmp_path / "vocabulary.json.notes.json").read_text())
    assert beside["sha256"] == vocabulary.load(out).sha256
    assert {**beside, "vocabulary": str(out)} == summary
    assert not (tmp_path / "vocabulary.json.work").exists()


def test_the_number_of_spans_and_partitions_does_not_change_a_byte(
    plain_loop: None, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab.run([str(text_file)], str(tmp_path / "one.json"), settings=FEW, quiet=True)
    # Lines, not paragraphs, decide where a span begins: this text has one line a paragraph.
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in PARAGRAPHS * 3))
    monkeypatch.setattr(vocab, "SPAN_BYTES", 37)
    monkeypatch.setattr(vocab, "PARTITION_BYTES", 50)
    summary = vocab.run([str(lines)], str(tmp_path / "many.json"), settings=FEW, quiet=True)
    assert summary["texts"] == 3 * len(PARAGRAPHS)
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "many.json").read_bytes()


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.text(st.sampled_from("ab \né"), max_size=12), max_size=8), size=st.integers(1, 40))
def test_every_line_is_in_one_span(rows: list[str], size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("lines") / "x.jsonl"
    content = "".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(content)
    spans = [vocab.FileSpan(str(path), at, min(at + size, len(content)), "") for at in range(0, len(content), size)]
    assert [text for span in spans for text in vocab.read_texts(span, "text")] == rows


def test_blank_lines_separate_texts(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes(b"\n\na b\nc\n \n\nd\xff\n")
    span = vocab.FileSpan(str(path), 0, path.stat().st_size, "")
    assert list(vocab.read_texts(span, "text")) == ["a b\nc\n", "d\ufffd\n"]


def test_an_interrupted_build_resumes_from_its_counts(
    plain_loop: None, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "v.json"
    with pytest.raises(ConfigError, match="no word is left"):
        vocab.run([str(text_file)], str(out), settings=VocabularySettings(min_count=10**6, numbers=False), quiet=True)
    assert not out.exists() and (tmp_path / "v.json.work").is_dir()
    counted: list[object] = []
    monkeypatch.setattr(vocab, "read_texts", lambda *arguments: counted.append(arguments) or iter(()))
    summary = vocab.run([str(text_file)], str(out), settings=FEW, quiet=True)
    assert not counted and summary["texts"] == 3 * len(PARAGRAPHS)
    # Other text under the same name is counted anew.
    with pytest.raises(ConfigError, match="no word is left"):
        vocab.run([str(text_file)], str(out), settings=VocabularySettings(min_count=10**6, numbers=False), quiet=True)
    text_file.write_text("other words, other words")
    with pytest.raises(ConfigError, match="no word is left"):
        vocab.run([str(text_file)], str(out), settings=FEW, quiet=True)
    assert len(counted) == 2


def test_titles_become_entries_unchanged(plain_loop: None, text_file: Path, tmp_path: Path) -> None:
    titles = tmp_path / "titles.txt"
    titles.write_text("The Lord of the Rings\n\nnew york\n")
    vocab.run([str(text_file)], str(tmp_path / "v.json"), titles=str(titles), settings=FEW, quiet=True)
    entries = vocabulary.load(tmp_path / "v.json").entries
    assert entries[-1] == "The Lord of the Rings" and entries.count("new york") == 1


def test_small_texts_give_a_warning_about_settings_for_large_ones(
    plain_loop: None, text_file: Path, tmp_path: Path
) -> None:
    summary = vocab.run(
        [str(text_file)], str(tmp_path / "v.json"), settings=VocabularySettings(min_count=2), quiet=True
    )
    assert any("PMI" in note for note in summary["notes"])


def test_unreadable_input_is_an_error_before_any_work(plain_loop: None, text_file: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "v.json")
    picture = tmp_path / "x.png"
    picture.write_bytes(b"")
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"words": ["a"]}), table)
    cases = (("/nowhere/x.txt", "does not exist"), (str(picture), "no text"), (str(table), "no column 'text'"))
    for path_, word in cases:
        with pytest.raises(ConfigError, match=word):
            vocab.run([path_], out, settings=FEW, quiet=True)
    with pytest.raises(ConfigError, match="titles"):
        vocab.run([str(text_file)], out, titles="/nowhere", settings=FEW, quiet=True)
    with pytest.raises(ConfigError, match="local"):
        vocab.run([str(text_file)], "memory://v.json", settings=FEW, runner=Runner(), quiet=True)
