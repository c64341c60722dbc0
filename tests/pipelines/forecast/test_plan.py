"""plan against a run of everything: a census foretells it exactly, a sample encloses it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra import tables
from infra.beam import Runner
from infra.errors import ConfigError
from infra.hashing import canonical_json
from pipelines import stages
from pipelines.forecast import estimates, plan
from tests.pipelines.forecast.test_what_if import config


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return config(tmp_path_factory.mktemp("plan"), rows=300, resample={"modalities": ["text"], "t": 3})


@pytest.fixture(scope="module")
def quarter(path: Path) -> dict[str, Any]:
    """The forecast from a quarter, made while there is neither run nor store."""
    found = plan.run(str(path), share=0.25, quiet=True)
    assert not (path.parent / "run").exists()
    return found


@pytest.fixture(scope="module")
def truth(quarter: dict[str, Any], path: Path) -> dict[str, Any]:
    run = stages.open_for_work(str(path), out=None, replace=False, runner=Runner(), quiet=True)
    stages.run_all(run)
    entry = json.loads(Path(run.at("ledger.json")).read_text())["text"]
    members = [tables.read(str(f)) for f in sorted(Path(run.at("members")).glob("*.parquet"))]
    sums = {name: sum(sum(m[name].to_pylist()) for m in members) for name in ("bytes", "tokens")}
    return {**entry, **sums, "failed": sum(entry["failed"].values())}


def counts(entry: dict[str, Any]) -> dict[str, dict[str, float]]:
    names = ("kept", "duplicates", "failed", "bytes", "tokens")
    return {**{name: entry[name] for name in names}, **{f"dropped {k}": v for k, v in entry["dropped"].items()}}


def real(truth: dict[str, Any], name: str) -> int:
    return int(truth["dropped"].get(name[8:], 0) if name.startswith("dropped ") else truth[name])


def test_a_sample_encloses_the_truth(quarter: dict[str, Any], truth: dict[str, Any]) -> None:
    text = quarter["modalities"]["text"]
    assert text["inputs"] == truth["inputs"] == 300
    assert 50 <= text["sampled"] <= 110
    assert truth["duplicates"] > 30
    assert truth["dropped"]["resample"] > 10
    for name, entry in counts(text).items():
        assert entry["low"] <= real(truth, name) <= entry["high"], name
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert quarter["modalities"]["all"]["kept"] == text["kept"]
    assert quarter["hours"]["value"] > 0
    canonical_json(quarter)


def test_a_census_is_the_run(truth: dict[str, Any], path: Path) -> None:
    found = plan.run(str(path), share=1.0, quiet=True)
    text = found["modalities"]["text"]
    assert text["sampled"] == 300
    for name, entry in counts(text).items():
        assert entry["low"] == entry["value"] == entry["high"] == real(truth, name), name
    # The run has measured everything, so there is nothing to time but reading.
    assert any("hours leave out" in note for note in found["notes"])
    plan.show(found)


def test_pairs_are_all_that_is_known_of_pictures() -> None:
    """Copies that were not searched for in the whole widen what is kept, downwards only."""
    rows = plan.Rows(total=1000)
    rows.outcome = np.array(["alive"] * 90 + ["dropped"] * 10, dtype=object)
    rows.by = np.array([None] * 90 + ["motion"] * 10, dtype=object)
    rows.keys = np.array([f"k{i}" for i in range(100)], dtype=object)
    rows.survives = rows.outcome == "alive"
    rows.component = np.full(100, -1)
    rows.component[:2] = 7
    rows.bytes = rows.tokens = np.full(100, 10.0)
    asked = plan._Plan.__new__(plan._Plan)
    asked.notes = []
    asked.resolved = type("Resolved", (), {"resample": None, "filters": (), "duplicates": Asked()})()
    found = asked._one("image", rows, {})
    assert found["passed"] == estimates.count(90, 100, 1000)
    assert found["kept"].low < found["passed"].low
    assert found["kept"].high == found["passed"].high
    assert found["duplicates"].value == pytest.approx(1 * 900 * 899 / (90 * 89))
    assert found["bytes"].low < estimates.total(rows.bytes * rows.survives, 1000).low
    assert any("image" in note for note in asked.notes)


class Asked:
    image = object()


def test_a_wrong_config_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        plan.run(str(tmp_path / "none.yaml"), quiet=True)
