"""diff against a comparison by plain dictionaries, over runs of texts and mixtures of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from infra import tables
from infra.errors import ConfigError, StageError
from mixtures.plan.recipe import Recipe
from pipelines import stages
from pipelines.cli import app
from pipelines.diff import diff, diff_mixtures, diff_rows
from pipelines.diff.compare import compare_files, compare_settings
from pipelines.mix import mix
from tests import corpus

MIX = {
    "name": "m",
    "unit": "samples",
    "size": 8,
    "virtual": {"samples": 4},
    "shares": {"modality": {"text": [1.0, 1.0]}},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs over texts: "a"; "strict" with another threshold; "grown" with more and fewer texts; mixtures of "a"."""
    root = tmp_path_factory.mktemp("diff")
    (root / "raw").mkdir()

    def write(numbers: list[int]) -> None:
        short = "Here is number {} of the texts that have few words."
        texts = [corpus.document(n) if n % 4 else short.format(n) for n in numbers]
        lines = [{"id": f"t{n}", "text": text} for n, text in zip(numbers, texts, strict=True)]
        (root / "raw/texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(name: str, least: int = 5) -> None:
        source = {"name": "texts", "path": str(root / "raw"), "modality": "text", "id_column": "id"}
        filters = {"caption": None, "quality": {"document": {"min_words": least}}}
        changes = {"name": "d", "store": str(root / "store"), "out": str(root / name), "sources": [source],
                 "filters": filters, "units": {"target_rows": 4}, "export": {"shard_samples": 5}}  # fmt: skip
        path = corpus.write_config(root / f"{name}.yaml", changes)
        from infra.beam import Runner

        stages.run_all(stages.open_for_work(str(path), out=None, replace=False, runner=Runner(), quiet=True))

    write(list(range(16)))
    run("a")
    run("strict", least=12)
    write([*range(3, 16), 20, 21])
    run("grown")
    for seed in (1, 2):
        mix.run([str(root / "a")], Recipe.model_validate({**MIX, "seed": seed}), str(root / f"mix{seed}"), quiet=True)
    return {path.name: path for path in root.iterdir()}


def table(run: Path, stage: str) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for path in (run / stage).glob("*.parquet"):
        rows |= {row["key"]: row for row in tables.read(str(path)).to_pylist()}
    return rows


def test_a_run_and_its_copy_are_the_same(runs: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(runs["a"], tmp_path / "copy")
    changes = diff.run(str(runs["a"]), str(tmp_path / "copy"))
    assert changes["same"] and not changes["outcomes"] and changes["samples"]["both"] == 16
    assert CliRunner().invoke(app, ["diff", str(runs["a"]), str(tmp_path / "copy")]).exit_code == 0


def test_a_changed_threshold_is_reported_with_the_samples_it_stopped(runs: dict[str, Path]) -> None:
    a, b = runs["a"], runs["strict"]
    changes = diff.run(str(a), str(b))
    assert not changes["same"]
    before, after = table(a, "verdicts"), table(b, "verdicts")
    fates = Counter(
        (before[key]["outcome"], after[key]["outcome"], after[key]["filter"])
        for key in before
        if before[key]["outcome"] != after[key]["outcome"]
    )
    counts = {(e["from"]["outcome"], e["to"]["outcome"], e["to"]["filter"]): e["count"] for e in changes["outcomes"]}
    assert counts == fates and fates
    for entry in changes["outcomes"]:
        assert all(after[key]["filter"] == entry["to"]["filter"] for key in entry["examples"])
    assert [entry for entry in changes["config"] if "min_words" in entry["key"]] == [
        {"key": "filters.quality.document.min_words", "a": 5, "b": 12}
    ]
    moved = {entry["key"]: (entry["a"], entry["b"]) for entry in changes["ledger"] if entry["a"] != entry["b"]}
    kept = [sum(row["outcome"] == "kept" for row in rows.values()) for rows in (before, after)]
    assert moved["all.kept"] == tuple(kept)
    diff.show(changes)


def test_samples_of_one_run_only_are_counted(runs: dict[str, Path]) -> None:
    a, b = runs["a"], runs["grown"]
    changes = diff.run(str(a), str(b))
    keys_a, keys_b = set(table(a, "samples")), set(table(b, "samples"))
    counts = changes["samples"]
    assert (counts["both"], counts["only_a"]["count"], counts["only_b"]["count"]) == (
        len(keys_a & keys_b), len(keys_a - keys_b), len(keys_b - keys_a))  # fmt: skip
    assert counts["only_b"]["examples"] == sorted(keys_b - keys_a)[:5] and counts["only_a"]["sources"] == {"texts": 3}
    assert changes["outcomes"] == []
    words = next(entry for entry in changes["scores"] if entry["column"] == "quality.words")
    counts = [row["quality.words"] for row in table(a, "signals").values() if row["quality.words"] is not None]
    assert words["a"]["count"] == len(counts) and words["a"]["mean"] == pytest.approx(np.mean(counts), rel=1e-5)


def test_two_mixtures_of_one_run(runs: dict[str, Path]) -> None:
    a, b = runs["mix1"], runs["mix2"]
    changes = diff.run(str(a), str(b))
    keys_a, keys_b = (
        set(tables.read(str(mixture / "members.parquet"), ["key"])["key"].to_pylist()) for mixture in (a, b)
    )
    keys = changes["keys"]
    assert (keys["both"], keys["left"]["count"], keys["entered"]["count"]) == (
        len(keys_a & keys_b), len(keys_a - keys_b), len(keys_b - keys_a))  # fmt: skip
    assert keys["entered"]["examples"] == sorted(keys_b - keys_a)[:5]
    assert {"key": "seed", "a": 1, "b": 2} in changes["recipe"]
    assert {entry["by"] for entry in changes["shares"]} <= set(diff_mixtures.BY)
    assert diff.run(str(a), str(a))["same"]
    diff.show(changes)
    assert CliRunner().invoke(app, ["diff", str(a), str(b), "--json"]).exit_code == 1


def test_runs_that_cannot_be_compared_are_an_error(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a run and"):
        diff.run(str(runs["a"]), str(runs["mix1"]))
    with pytest.raises(StageError, match="neither a run"):
        diff.run(str(runs["a"]), str(tmp_path))


ROW = st.tuples(
    st.integers(0, 30), st.sampled_from(["kept", "dropped", "failed"]), st.one_of(st.none(), st.integers(0, 4))
)


@given(
    st.lists(ROW, unique_by=lambda row: row[0], max_size=25), st.lists(ROW, unique_by=lambda row: row[0], max_size=25)
)
def test_pairs_by_key_against_dictionaries(a: list[tuple[int, str, Any]], b: list[tuple[int, str, Any]]) -> None:
    def make_table(rows: list[tuple[int, str, Any]]) -> pa.Table:
        n = len(rows)
        text = {
            name: pa.nulls(n, pa.string())
            for name in ("modality", "source", "licence", "origin", "reason", "duplicate_of")
        }
        number = {name: pa.nulls(n, pa.float64()) for name in ("value", "threshold", "keep_probability")}
        return pa.table({**text, **number, "key": pa.array([f"{k:02d}" for k, _, _ in rows], pa.string()),
                         "outcome": pa.array([o for _, o, _ in rows], pa.string()),
                         "filter": pa.array([None] * n, pa.string()),
                         "x": pa.array([x for _, _, x in rows], pa.float64())})  # fmt: skip

    changes = diff_rows.RowChanges(["x"])
    only_a, only_b = changes.add_pairs_by_key(make_table(a), make_table(b))
    rows_a, rows_b = ({f"{k:02d}": (o, x) for k, o, x in rows} for rows in (a, b))
    assert set(only_a["key"].to_pylist()) == rows_a.keys() - rows_b.keys()
    assert set(only_b["key"].to_pylist()) == rows_b.keys() - rows_a.keys()
    changed = Counter(
        (rows_a[k][0], rows_b[k][0]) for k in rows_a.keys() & rows_b.keys() if rows_a[k][0] != rows_b[k][0]
    )
    assert {(e["from"]["outcome"], e["to"]["outcome"]): e["count"] for e in changes.list_outcomes()} == changed
    moved = [k for k in rows_a.keys() & rows_b.keys() if rows_a[k][1] != rows_b[k][1]]
    assert changes.moved.get("x", 0) == len(moved)
    far = sorted((-abs(rows_a[k][1] - rows_b[k][1]), k) for k in moved if None not in (rows_a[k][1], rows_b[k][1]))
    assert [(d, k) for d, k, _, _ in changes.movers.get("x", [])] == far[: diff_rows.MOVERS]


def test_values_and_files() -> None:
    assert compare_settings({"a": {"b": 1, "c": [1]}, "d": {}}, {"a": {"b": 2, "c": [1]}, "d": {"e": None}}) == [
        {"key": "a.b", "a": 1, "b": 2},
        {"key": "d", "a": {}, "b": None},
    ]
    files = compare_files({"x": "1", "y": "2", "z": "3"}, {"x": "1", "y": "9", "w": "3"})
    assert (files["equal"], files["different"]["count"], files["only_a"]["first"], files["only_b"]["first"]) == (
        1, 1, ["z"], ["w"])  # fmt: skip
