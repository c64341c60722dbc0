from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import StageError
from pipelines.core.finished_run import open_finished_run, read_run_json, restore_config
from pipelines.core.resolve import resolve
from pipelines.core.run import Run


def test_a_moved_run_opens_with_the_same_settings(cold: Run, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(Path(cold.out).resolve())
    run = open_finished_run(str(moved))
    assert run.out == str(moved) and run.config.sources == cold.config.sources
    assert [f.name for f in resolve(run).filters] == [f.name for f in resolve(cold).filters]
    assert [f.settings for f in resolve(run).filters] == [f.settings for f in resolve(cold).filters]
    assert dict(resolve(run).makers) == dict(resolve(cold).makers)


def test_filters_keep_their_order_and_the_thresholds_that_their_weights_brought() -> None:
    run_json = {
        "config": {"filters": {"alignment": {}, "language": None, "motion": {"min_score": 0.5}}},
        "explain": [
            {"filter": "motion", "settings": {"min_score": 0.5}},
            {"filter": "alignment", "settings": {"min_score": 0.28}},
            {"filter": "language", "settings": {"allowed": ["en"]}},
        ],
    }
    content = restore_config(run_json).content
    assert list(content["filters"].items()) == [
        ("motion", {"min_score": 0.5}), ("alignment", {"min_score": 0.28}), ("language", None),
    ]  # fmt: skip
    top = {"filters": {**run_json["config"]["filters"], "alignment": {"keep_top": 0.3}}}
    assert restore_config(run_json, top).content["filters"]["alignment"] == {"keep_top": 0.3}
    assert run_json["config"]["filters"]["alignment"] == {}


def test_a_folder_without_a_finished_run_is_an_error(tmp_path: Path) -> None:
    for open_folder in (read_run_json, open_finished_run):
        with pytest.raises(StageError, match="no finished run"):
            open_folder(str(tmp_path))
