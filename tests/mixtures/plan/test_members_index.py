from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import tables
from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json
from mixtures.plan import draw
from mixtures.plan.groups import build_groups
from mixtures.plan.members_index import drop_repeats, read_index, view_keys
from mixtures.plan.recipe import Recipe
from tests.mixtures.runs import Row, rows_of, write_run

COUNTS = {"video": 7, "image": 9, "multi_image": 3, "text": 11}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", rows_of(COUNTS), per_shard=4)


def all_members(run: Path) -> list[dict[str, object]]:
    units = json.loads((run / "members" / "_manifest.json").read_bytes())["units"]
    return [row for unit in units for row in pq.read_table(run / "members" / f"{unit['name']}.parquet").to_pylist()]


def test_the_index_concatenates_the_members_of_all_runs(run: Path) -> None:
    index = read_index([str(run)], ("modality", "source", "licence", "seconds", "images", "shard", "run"))
    rows = all_members(run)
    assert len(index) == len(rows) == 30 and len(index.shards) == 2 + 3 + 1 + 3
    assert index.keys(np.arange(30)).to_pylist() == [row["key"] for row in rows]
    for name in ("offset", "size", "text_tokens", "images", "seconds", "bytes"):
        assert getattr(index, name).tolist() == [row[name] for row in rows]
    for name in ("modality", "source", "licence"):
        codes, values = index.columns[name]
        assert [values[code] for code in codes] == [row[name] for row in rows] and values == sorted(values)
    assert [index.shards[i].name for i in index.shard] == [row["shard"] for row in rows]
    assert index.numbers["seconds"].tolist() == [row["seconds"] for row in rows]
    assert index.columns["run"][1] == ["hand"]


def test_cells_are_what_constraints_name_and_one_for_all_others(run: Path) -> None:
    recipe = Recipe(shares={"source": {"b": 0.5}, "seconds": {"0..4": 0.2, "6..": 0.1}})  # type: ignore[dict-item]
    grouping = build_groups(read_index([str(run)], recipe.columns), recipe)
    rows = all_members(run)
    assert len(set(grouping.names())) == len(grouping.cells)
    for row, group in zip(rows, grouping.group, strict=True):
        cell = grouping.cells[group]
        seconds = float(row["seconds"])  # type: ignore[arg-type]
        assert cell["modality"] == row["modality"] and cell["source"] == ("b" if row["source"] == "b" else None)
        assert cell["seconds"] == ("0..4" if seconds < 4 else "6.." if seconds >= 6 else None)
    assert sorted(set(grouping.group.tolist())) == list(range(len(grouping.cells)))
    capped = Recipe(max_source=0.5)
    every = build_groups(read_index([str(run)], capped.columns), capped)
    assert {cell["source"] for cell in every.cells} == {"a", "b"}  # a cap is on each of them


def test_a_sample_of_two_runs_is_taken_from_the_first(tmp_path: Path) -> None:
    first, second = rows_of({"image": 6, "text": 5}), rows_of({"image": 9, "text": 2}, start=3)
    runs = [str(write_run(tmp_path / str(i), rows)) for i, rows in enumerate((first, second))]
    index = read_index(runs, ("modality", "source", "seconds"))
    keys = [key.decode() for key in index.key.view("S26").ravel()]
    draws = draw.draw_keys(0, "mix", index.key)
    rest, by_draw = drop_repeats(index, draws)
    expected = list(dict.fromkeys(keys))
    assert rest.keys(np.arange(len(rest))).to_pylist() == expected and rest.dropped == len(keys) - len(expected) > 0
    assert by_draw.tolist() == np.argsort(draw.draw_keys(0, "mix", rest.key), kind="stable").tolist()
    inside = {row.key for row in first}
    for key, shard in zip(expected, rest.shard, strict=True):
        assert rest.shards[shard].parent == (0 if key in inside else 1)
    assert len(rest.columns["source"][0]) == len(rest.numbers["seconds"]) == len(rest.offset) == len(rest)


def test_a_key_twice_in_one_run_is_an_error(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [Row(1, "text"), Row(2, "text")], per_shard=1)
    change(run, "text-000000", lambda table: table.set_column(0, "key", pa.array([Row(2, "text").key])))
    index = read_index([str(run)])
    with pytest.raises(StageError, match=f"{Row(2, 'text').key} appears twice in one run"):
        drop_repeats(index, draw.draw_keys(0, "mix", index.key))


def change(run: Path, shard: str, how, version: int | None = None) -> None:  # type: ignore[no-untyped-def]
    """Write a shard's members anew, as another writer would have, manifest and all."""
    path = run / "members" / f"{shard}.parquet"
    table = how(pq.read_table(path))
    if version is not None:
        table = table.replace_schema_metadata({"reelmill.version": str(version)})
        pq.write_table(table, path)
    else:
        tables.write(str(path), table)
    manifest = json.loads((run / "members" / "_manifest.json").read_bytes())
    for unit in manifest["units"]:
        if unit["name"] == shard:
            unit["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (run / "members" / "_manifest.json").write_bytes(canonical_json(manifest))


def test_members_of_another_version_are_refused_with_what_to_do(run: Path) -> None:
    change(run, "video-000000", lambda table: table.drop_columns(["text_tokens", "images"]), version=1)
    with pytest.raises(StageError, match="tables of version 1, not 2") as caught:
        read_index([str(run)])
    assert caught.value.where.endswith("video-000000.parquet") and "reelmill run" in caught.value.hint


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(StageError, match="does not have 26 characters"):
        view_keys(pa.chunked_array([["a" * 26, "b" * 25, "c" * 27]]))
    sliced = pa.chunked_array([pa.array(["x" * 26, "a" * 26, "b" * 26]).slice(1)])
    assert view_keys(sliced).tobytes() == b"a" * 26 + b"b" * 26


@pytest.mark.parametrize(
    ("harm", "what", "where"),
    [
        (
            lambda run: (run / "members" / "image-000001.parquet").unlink(),
            "members of a shard are missing",
            "image-000001",
        ),
        (
            lambda run: flip(run / "members" / "image-000001.parquet"),
            "differ from the run's manifest",
            "image-000001",
        ),
        (lambda run: (run / "shards" / "text-000000.card.json").unlink(), "has no card", "text-000000.card.json"),
        (lambda run: swap(run, "text-000000.card.json", "text-000001.card.json"), "belongs to another", "text-00000"),
        (lambda run: (run / "shards" / "video-000000.tar").unlink(), "a shard is missing", "video-000000.tar"),
        (lambda run: cut(run / "shards" / "video-000000.tar"), "its card says", "video-000000.tar"),
        (lambda run: (run / "members" / "_manifest.json").unlink(), "no finished members", "run"),
    ],
)
def test_a_damaged_run_is_an_error_with_its_path(run: Path, harm, what: str, where: str) -> None:  # type: ignore[no-untyped-def]
    harm(run)
    with pytest.raises(StageError, match=what) as caught:
        read_index([str(run)])
    assert where in caught.value.where and caught.value.hint


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(run: Path, a: str, b: str) -> None:
    first, second = run / "shards" / a, run / "shards" / b
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-512])


def test_a_run_named_twice_is_a_mistake_of_the_command_line(run: Path) -> None:
    with pytest.raises(ConfigError, match="named twice"):
        read_index([str(run), str(run) + "/../run"])
