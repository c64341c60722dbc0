"""The Python interface does what the command line does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from infra.errors import ConfigError, StageError
from pipelines import api

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures, one of them twice, one with a caption; a broken one; a table of texts; a file of another kind."""
    folder = tmp_path_factory.mktemp("files")
    random = np.random.default_rng(1)
    for name, side in (("small [1].png", 32), ("large.png", 256), ("other.png", 240)):
        Image.fromarray(random.integers(0, 255, (side, side, 3), np.uint8)).save(folder / name)
    (folder / "again.png").write_bytes((folder / "large.png").read_bytes())
    (folder / "large.txt").write_text("A picture of noise.")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": f"Text number {i}."}) + "\n" for i in range(3)))
    (folder / "notes.md").write_text("A text of its own.")
    (folder / "Makefile").write_text("all:")
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> pa.Table:
    return api.measure(str(folder), ["facts", "quality"])


def rows(table: pa.Table) -> dict[str, dict[str, object]]:
    return {f"{row['container']}/{row['position']}".strip("/"): row for row in table.to_pylist()}


def test_every_medium_and_text_is_a_row(table: pa.Table) -> None:
    by_name = rows(table)
    assert sorted(by_name) == ["again.png", "broken.jpg", "large.png", "notes.md", "other.png", "small [1].png",
                               *(f"texts.jsonl/row={i}" for i in range(3))]  # fmt: skip
    assert by_name["large.png"]["text"] == "A picture of noise." and by_name["large.png"]["facts.width"] == 256
    assert by_name["texts.jsonl/row=1"]["quality.words"] == 3 and by_name["texts.jsonl/row=1"]["facts.width"] is None
    assert by_name["broken.jpg"]["facts.width"] is None and by_name["broken.jpg"]["facts.error"]
    assert by_name["small [1].png"]["error"] is None


def test_files_and_uris_are_the_same_as_their_folder(folder: Path, table: pa.Table) -> None:
    paths = [str(folder / "large.png"), f"file://{folder}/texts.jsonl"]
    alone = rows(api.measure(paths, ["facts", "quality"]))
    assert [alone[name]["facts.width"] for name in sorted(alone)] == [256, None, None, None]
    assert [alone[name]["text"] for name in sorted(alone)] == [rows(table)[name]["text"] for name in sorted(alone)]


def test_judging_opens_no_file_and_names_what_decided(table: pa.Table) -> None:
    def outcomes(filters: dict[str, dict[str, object]]) -> list[tuple[str, str | None, str]]:
        verdicts = api.judge(table, filters)
        assert verdicts["key"].equals(table["key"])
        pictures = [row for row, kind in zip(verdicts.to_pylist(), table["modality"].to_pylist(), strict=True)
                    if kind == "image"]  # fmt: skip
        decided = [(row["outcome"], row["filter"], (row["reason"] or "").split(":")[0]) for row in pictures]
        return sorted(decided, key=str)

    kept = ("kept", None, "")
    assert outcomes({"facts": {"min_side": 16}}) == [("failed", "measure", "facts"), *4 * [kept]]
    assert outcomes({"facts": {"min_side": 100}}) == [
        ("dropped", "facts", "too_small"), ("failed", "measure", "facts"), *3 * [kept]]  # fmt: skip


def test_a_sample_that_was_not_measured_never_passes(folder: Path) -> None:
    """Facts of a broken picture fail, so nothing else is measured of it, and no other filter may keep it."""
    table = api.measure(str(folder / "broken.jpg"), ["facts", "blank"])
    assert table["blank.spread"].to_pylist() == table["blank.error"].to_pylist() == [None]
    verdict = api.judge(table, ["blank"]).to_pylist()[0]
    assert (verdict["outcome"], verdict["filter"], verdict["reason"]) == ("failed", "measure", "not measured")


def test_a_column_that_was_not_measured_is_named(table: pa.Table) -> None:
    with pytest.raises(ConfigError, match=r"no column motion\.score, which the filter motion reads") as caught:
        api.judge(table, ["motion"])
    assert "measure with the annotator 'motion'" in str(caught.value)


def test_mistakes_are_errors(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder"):
        api.measure(str(tmp_path / "missing"), ["facts"])
    with pytest.raises(ConfigError, match="none of the paths"):
        api.measure(str(folder / "Makefile"), ["facts"])
    with pytest.raises(ConfigError, match="there is no such key"):
        api.measure(str(folder), ["fcts"])
    with pytest.raises(StageError, match="no finished run"):
        api.open_run(str(tmp_path))


def test_the_example_runs(folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "python_api.py"), str(folder), str(tmp_path)]
    completed = subprocess.run(
        command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert "min_side 16:" in completed.stdout
    assert "'duplicate': 1" in completed.stdout and "'failed': 1" in completed.stdout
    run = api.open_run(str(tmp_path / "run"))
    assert [run.read("verdicts", unit).num_rows for unit in run.unit_names("verdicts")] == [5]
