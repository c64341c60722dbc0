"""plan against a run of everything: a census foretells it exactly, a sample encloses it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infra import tables
from infra.beam import Runner
from infra.errors import ConfigError
from infra.hashing import canonical_json
from pipelines import stages
from pipelines.decide.duplicates.settings import Duplicates, ImageDuplicates
from pipelines.forecast import estimates, plan
from pipelines.forecast.forecaster import Forecaster
from pipelines.forecast.sample_stats import SampleStats
from tests.pipelines.forecast.test_what_if import config


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return config(tmp_path_factory.mktemp("plan"), rows=300, resample={"modalities": ["text"], "t": 3})


@pytest.fixture(scope="module")
def forecast_of_quarter(path: Path) -> dict[str, Any]:
    """The forecast from a quarter, made while there is neither run nor store."""
    forecast = plan.run(str(path), share=0.25, quiet=True)
    assert not (path.parent / "run").exists()
    return forecast


@pytest.fixture(scope="module")
def real_ledger(forecast_of_quarter: dict[str, Any], path: Path) -> dict[str, Any]:
    run = stages.open_for_work(str(path), out=None, replace=False, runner=Runner(), quiet=True)
    stages.run_all(run)
    entry = json.loads(Path(run.at("ledger.json")).read_text())["text"]
    members = [tables.read(str(f)) for f in sorted(Path(run.at("members")).glob("*.parquet"))]
    sums = {name: sum(sum(m[name].to_pylist()) for m in members) for name in ("bytes", "tokens")}
    return {**entry, **sums, "failed": sum(entry["failed"].values())}


def flatten_counts(entry: dict[str, Any]) -> dict[str, dict[str, float]]:
    names = ("kept", "duplicates", "failed", "bytes", "tokens")
    return {**{name: entry[name] for name in names}, **{f"dropped {k}": v for k, v in entry["dropped"].items()}}


def real_count(real_ledger: dict[str, Any], name: str) -> int:
    return int(real_ledger["dropped"].get(name[8:], 0) if name.startswith("dropped ") else real_ledger[name])


def test_intervals_of_a_sample_contain_the_true_counts(
    forecast_of_quarter: dict[str, Any], real_ledger: dict[str, Any]
) -> None:
    text = forecast_of_quarter["modalities"]["text"]
    assert text["inputs"] == real_ledger["inputs"] == 300
    assert 50 <= text["sampled"] <= 110
    assert real_ledger["duplicates"] > 30
    assert real_ledger["dropped"]["resample"] > 10
    for name, entry in flatten_counts(text).items():
        assert entry["low"] <= real_count(real_ledger, name) <= entry["high"], name
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert forecast_of_quarter["modalities"]["all"]["kept"] == text["kept"]
    assert forecast_of_quarter["hours"]["value"] > 0
    canonical_json(forecast_of_quarter)


def test_a_full_sample_gives_the_counts_of_the_run(real_ledger: dict[str, Any], path: Path) -> None:
    forecast = plan.run(str(path), share=1.0, quiet=True)
    text = forecast["modalities"]["text"]
    assert text["sampled"] == 300
    for name, entry in flatten_counts(text).items():
        assert entry["low"] == entry["value"] == entry["high"] == real_count(real_ledger, name), name
    # The run has measured everything, so there is nothing to time but reading.
    assert any("hours leave out" in note for note in forecast["notes"])
    plan.show(forecast)


def test_duplicates_of_pictures_are_estimated_from_pairs() -> None:
    """Copies that were not searched for in the whole widen what is kept, downwards only."""
    stats = SampleStats(total=1000)
    stats.outcome = np.array(["alive"] * 90 + ["dropped"] * 10, dtype=object)
    stats.filter = np.array([None] * 90 + ["motion"] * 10, dtype=object)
    stats.keys = np.array([f"k{i}" for i in range(100)], dtype=object)
    stats.survives = stats.outcome == "alive"
    stats.component = np.full(100, -1)
    stats.component[:2] = 7
    stats.bytes = stats.tokens = np.full(100, 10.0)
    resolved = SimpleNamespace(resample=None, filters=(), duplicates=Duplicates(image=ImageDuplicates()))
    forecaster = Forecaster(resolved, SimpleNamespace(), SimpleNamespace(kinds=()))  # type: ignore[arg-type]
    forecast = forecaster.forecast("image", stats)
    assert forecast["passed"] == estimates.count(90, 100, 1000)
    assert forecast["kept"].low < forecast["passed"].low
    assert forecast["kept"].high == forecast["passed"].high
    assert forecast["duplicates"].value == pytest.approx(1 * 900 * 899 / (90 * 89))
    assert forecast["bytes"].low < estimates.total(stats.bytes * stats.survives, 1000).low
    assert any("image" in note for note in forecaster.notes)


def test_a_wrong_config_is_reported_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file"):
        plan.run(str(tmp_path / "none.yaml"), quiet=True)
