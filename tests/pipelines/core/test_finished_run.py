from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import StageError
from pipelines.core.finished_run import open_finished_run, read_run_json, restore_config
from pipelines.core.resolve import resolve
from pipelines.core.run import Run


def test_a_finished_run_is_what_it_was_wherever_it_lies(cold: Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(Path(cold.out).resolve())
    run = open_finished_run(str(moved))
    assert run.out == str(moved) and run.config.sources == cold.config.sources
    assert [f.name for f in resolve(run).filters] == [f.name for f in resolve(cold).filters]
    assert [f.settings for f in resolve(run).filters] == [f.settings for f in resolve(cold).filters]
    assert dict(resolve(run).makers) == dict(resolve(cold).makers)


def test_filters_keep_their_order_and_the_thresholds_that_their_weights_brought() -> None:
    held = {
        "config": {"filters": {"alignment": {}, "language": None, "motion": {"min_score": 0.5}}},
        "explain": [
            {"filter": "motion", "settings": {"min_score": 0.5}},
            {"filter": "alignment", "settings": {"min_score": 0.28}},
            {"filter": "language", "settings": {"allowed": ["en"]}},
        ],
    }
    data = restore_config(held).data
    assert list(data["filters"].items()) == [
        ("motion", {"min_score": 0.5}), ("alignment", {"min_score": 0.28}), ("language", None),
    ]  # fmt: skip
    top = {"filters": {**held["config"]["filters"], "alignment": {"keep_top": 0.3}}}
    assert restore_config(held, top).data["filters"]["alignment"] == {"keep_top": 0.3}
    assert held["config"]["filters"]["alignment"] == {}


def test_where_no_run_is_finished_that_is_said(tmp_path: Path) -> None:
    for ask in (read_run_json, open_finished_run):
        with pytest.raises(StageError, match="no finished run"):
            ask(str(tmp_path))
