from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json
from mixtures.plan.recipe import UNITS, Recipe, read_ratio, read_recipe
from mixtures.shards.manifest import open_mixture
from pipelines.cli import app
from pipelines.mix import mix, plan_mixture
from tests.mixtures.plan.test_members_index import all_members
from tests.mixtures.runs import read_manifest, rows_of, write_run
from tests.mixtures.tokenizer import tokenizer

COUNTS = {"video": 60, "image": 80, "multi_image": 12, "text": 200}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("world") / "run", rows_of(COUNTS), per_shard=25)


def recipe(**keys: Any) -> Recipe:
    return Recipe(**{"virtual": {"samples": 20}, **keys})


def rows(mixture: Any) -> list[dict[str, Any]]:
    return list(mixture.members().to_pylist())


def test_a_mixture_contains_the_planned_rows_of_its_parents(run: Path, tmp_path: Path) -> None:
    mixture = mix.run(
        [str(run)], recipe(shares={"modality": {"text": 0.2, "video": (0.3, 0.4)}}), str(tmp_path / "mix")
    )
    manifest = read_manifest(tmp_path / "mix")
    assert manifest == mixture.manifest and manifest["parents"][0]["run"] == "../" * len(
        (tmp_path / "mix").relative_to(run.parents[1]).parts) + str(run.relative_to(run.parents[1]))  # fmt: skip
    source = {row["key"]: row for row in all_members(run)}
    members = rows(mixture)
    assert len({row["key"] for row in members}) == len(members) == manifest["totals"]["samples"]
    for row in members:
        member = source[row["key"]]
        assert all(row[name] == member[name] for name in ("offset", "size", "tokens", "seconds", "bytes"))
        assert manifest["shards"][row["shard"]]["name"] == member["shard"]
        assert manifest["groups"][row["group"]]["modality"] == member["modality"]
    for g, group in enumerate(manifest["groups"]):
        of_group = [row for row in members if row["group"] == g]
        assert group["samples"] == len(of_group) and group["bytes"] == sum(row["bytes"] for row in of_group)
        assert group["tokens"] == sum(row["tokens"] for row in of_group)
        assert group["available"] == COUNTS[group["modality"]]
    for unit in UNITS:
        share = {g["modality"]: g[unit] / manifest["totals"][unit] for g in manifest["groups"]}
        assert manifest["achieved"][unit] == pytest.approx(share, abs=1e-6)
    assert {shard["name"] for shard in manifest["shards"]} == {source[row["key"]]["shard"] for row in members}
    order = [(row["vshard"], row["position"]) for row in members]
    assert order == sorted(order) and manifest["vshards"] == -(-len(members) // 20)


def test_the_same_command_gives_the_same_bytes_and_another_seed_other_samples(run: Path, tmp_path: Path) -> None:
    asked = recipe(size=100, shares={"modality": {"text": 0.2}})
    for name in ("a", "b"):
        mix.run([str(run)], asked, str(tmp_path / name))
    mix.run([str(run)], asked, str(tmp_path / "a"))  # again, over itself
    for name in ("mixture.json", "members.parquet", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    reseeded = mix.run([str(run)], asked.model_copy(update={"seed": 1}), str(tmp_path / "c"))
    first = {row["key"] for row in open_mixture(str(tmp_path / "a")).members().to_pylist()}
    assert 0 < len(first & {row["key"] for row in rows(reseeded)}) < 100
    assert str(tmp_path).encode() not in (tmp_path / "a" / "mixture.json").read_bytes()


@pytest.mark.parametrize("unit", UNITS)
def test_every_virtual_shard_is_at_the_ratio(run: Path, tmp_path: Path, unit: str) -> None:
    shares = {"video": 1.0} if unit == "seconds" else {"text": 0.1, "image": 0.35, "multi_image": 0.05, "video": 0.5}
    text = ",".join(f"{name}={share}" for name, share in shares.items())
    mixture = mix.run([str(run)], read_ratio(text, unit=unit, virtual={"samples": 20}), str(tmp_path / "mix"))
    manifest, members = mixture.manifest, rows(mixture)
    assert manifest["vshards"] >= 3
    amount = [1 if unit == "samples" else row[unit] for row in members]
    total = sum(amount)
    largest = {}
    for g, group in enumerate(manifest["groups"]):
        amounts = [a for row, a in zip(members, amount, strict=True) if row["group"] == g]
        if not amounts:
            continue
        largest[g] = max(amounts)
        expected = shares[group["modality"]] * total
        assert abs(sum(amounts) - expected) <= (1 if unit == "samples" else largest[g])
    for v in range(manifest["vshards"]):
        for g, most in largest.items():
            here = sum(a for row, a in zip(members, amount, strict=True) if row["group"] == g and row["vshard"] == v)
            ideal = sum(a for row, a in zip(members, amount, strict=True) if row["group"] == g) / manifest["vshards"]
            assert abs(here - ideal) <= most + 1e-9, (v, g)


@settings(max_examples=12)
@given(st.integers(10, 90), st.integers(0, 60))
def test_growing_a_share_keeps_what_was_in_it(run: Path, size: int, more: int) -> None:
    sets = []
    for count in (size, size + more):
        planned = plan_mixture.plan_mixture([str(run)], recipe(size=count, shares={"modality": {"text": 1.0}}), "out")
        sets.append(set(planned.members["key"].to_pylist()))
    assert sets[0] <= sets[1] and len(sets[1]) == size + more


def test_tokens_are_counted_by_the_recipes_contract(run: Path) -> None:
    few = recipe(contract={"tokens_per_frame": 8, "max_clips": 2})
    many = plan_mixture.plan_mixture([str(run)], recipe(), "out").members.to_pylist()
    for row, more in zip(plan_mixture.plan_mixture([str(run)], few, "out").members.to_pylist(), many, strict=True):
        assert row["key"] == more["key"] and row["tokens"] <= more["tokens"]
        if row["seconds"]:
            assert row["tokens"] - 2 * 32 <= more["tokens"] - (-(-row["seconds"] // 2)) * 128


def test_another_recipe_in_the_folder_is_left_alone_unless_replaced(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "mix"
    mix.run([str(run)], recipe(size=50), str(out))
    before = (out / "mixture.json").read_bytes()
    with pytest.raises(ConfigError, match="another mixture: its recipe differs in size") as caught:
        mix.run([str(run)], recipe(size=51), str(out))
    assert "--replace" in caught.value.hint and (out / "mixture.json").read_bytes() == before
    assert mix.run([str(run)], recipe(size=51), str(out), replace=True).manifest["totals"]["samples"] == 51
    another_run = write_run(tmp_path / "other", rows_of({"video": 5, "image": 4, "text": 60}))
    with pytest.raises(ConfigError, match="over other runs"):
        mix.run([str(another_run)], recipe(size=51), str(out))


def test_a_folder_that_is_no_mixture_is_left_alone(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    for replace in (False, True):
        with pytest.raises(ConfigError, match="no mixture"):
            mix.run([str(run)], recipe(), str(copy), replace=replace)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="not a folder"):
        mix.run([str(run)], recipe(), str(tmp_path / "file"))


def test_two_runs_with_samples_in_common(tmp_path: Path) -> None:
    runs = [str(write_run(tmp_path / str(i), rows_of({"text": 20}, start=10 * i, sources=["a"]))) for i in range(2)]
    mixture = mix.run(runs, recipe(), str(tmp_path / "mix"))
    assert mixture.manifest["totals"]["samples"] == 30 and any(
        "10 samples" in warning for warning in mixture.manifest["warnings"]
    )
    assert [parent["run"] for parent in mixture.manifest["parents"]] == ["../0", "../1"]
    members = rows(mixture)
    assert sum(mixture.manifest["shards"][row["shard"]]["parent"] == 0 for row in members) == 20


def test_a_share_of_a_run_and_of_columns_of_numbers(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"r{i}", rows_of({"video": 40}, start=40 * i), name=f"n{i}") for i in range(2)]
    asked = recipe(size=20, shares={"run": {"n1": 0.25}, "seconds": {"..4": 0.5}})
    mixture = mix.run([str(path) for path in runs], asked, str(tmp_path / "mix"))
    members = rows(mixture)
    assert sum(row["seconds"] < 4 for row in members) == 10
    assert sum(mixture.manifest["shards"][row["shard"]]["parent"] == 1 for row in members) == 5
    achieved = {
        (constraint["column"], constraint["value"]): constraint["achieved"]["samples"]
        for constraint in mixture.manifest["constraints"]
    }
    assert achieved == {("run", "n1"): 0.25, ("seconds", "..4"): 0.5}


def test_an_unknown_value_suggests_the_nearest_one(run: Path) -> None:
    with pytest.raises(StageError, match="no sample has the licence 'CC0-1'") as caught:
        plan_mixture.plan_mixture([str(run)], recipe(shares={"licence": {"CC0-1": 0.5}}), "out")
    assert "did you mean 'CC0-1.0'" in caught.value.hint
    plan_mixture.plan_mixture(
        [str(run)], recipe(shares={"licence": {"GPL": (0.0, 0.1)}}), "out"
    )  # a cap on what is not there holds


def test_text_is_counted_by_a_tokenizer_once_and_kept_beside_the_run(run: Path, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    path = str(tmp_path / "tok.json")
    tokenizer().save(path)
    asked = recipe(tokenizer=path)
    mixture = mix.run([str(own)], asked, str(tmp_path / "mix"), quiet=True)
    kept = sorted((own / "work" / "tokens").rglob("*.parquet"))
    assert len(kept) == len(list((own / "shards").glob("*.tar")))
    stamps = [path.stat().st_mtime_ns for path in kept]
    mix.run([str(own)], asked, str(tmp_path / "mix2"), quiet=True)
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    assert "tok.json" not in json.dumps(mixture.manifest["recipe"])
    estimate = {
        row["key"]: row["tokens"] for row in plan_mixture.plan_mixture([str(run)], recipe(), "out").members.to_pylist()
    }
    assert any(row["tokens"] != estimate[row["key"]] for row in rows(mixture))


def call(*arguments: str) -> tuple[int, str]:
    outcome = CliRunner().invoke(app, ["mix", *arguments])
    if isinstance(outcome.exception, (ConfigError, StageError)):
        return outcome.exception.exit_code, str(outcome.exception)
    return outcome.exit_code, outcome.stdout


def test_the_command_prints_one_json_value_or_tables_for_people(run: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "mix")
    ratio = "text=0.12,image=0.30,multi_image=0.05,video=0.53"
    code, printed = call("--from", str(run), "--ratio", ratio, "--size", "0.1k", "--seed", "4", "--out", out, "--json")
    assert code == 0
    manifest = json.loads(printed)
    assert (
        printed.encode() == canonical_json(manifest) and manifest["totals"]["samples"] == 100 and manifest["seed"] == 4
    )
    assert manifest["achieved"]["samples"]["text"] == 0.12
    code, printed = call("--from", str(run), "--ratio", ratio, "--size", "100", "--seed", "4", "--out", out)
    assert code == 0 and "% of samples" in printed and "12 %" in printed and "virtual shards: 1" in printed


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--ratio", "text=1.5"], 2, "between 0 and 1"),
        (["--ratio", "video=1", "--recipe", "apollo"], 2, "not both"),
        (["--recipe", "nowhere.yaml"], 2, "no such recipe"),
        (["--size", "0"], 2, "size 0 is empty"),
        (["--size", "lots"], 2, "size"),
        (["--unit", "hours"], 2, "unit"),
        (["--emit", "tfrecord"], 2, "cannot be written"),
        (["--ratio", "video=1", "--size", "1k"], 1, "not enough data"),
        (["--unit", "seconds"], 1, "text"),
        (["--ratio", "video=1", "--emit", "energon"], 2, "reads tars"),
    ],
)
def test_errors_have_their_exit_codes(run: Path, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    exit_code, printed = call("--from", str(run), "--out", str(tmp_path / "mix"), *arguments)
    assert (exit_code, words in printed) == (code, True), printed


def test_runs_may_follow_the_first_without_an_option(run: Path, tmp_path: Path) -> None:
    second_run = write_run(tmp_path / "other", rows_of({"video": 5}, start=900))
    code, printed = call(
        "--from", str(run), str(second_run), "--ratio", "video=1", "--out", str(tmp_path / "mix"), "--json"
    )
    assert code == 0 and json.loads(printed)["totals"]["samples"] == 65


def test_the_default_recipe_meets_the_ranges_of_apollo(run: Path, tmp_path: Path) -> None:
    mixture = mix.run([str(run)], read_recipe("apollo"), str(tmp_path / "mix"))
    share = mixture.manifest["achieved"]["samples"]
    assert 0.10 <= share["text"] <= 0.14 and 1.05 <= share["video"] / share["image"] <= 1.6
    assert mixture.manifest["warnings"] == []
    assert np.isclose(sum(share.values()), 1, atol=1e-5)
