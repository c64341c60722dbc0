"""Every job of every verb on one engine: its tables and shards are those of one process, byte for byte.

    make conformance RUNNER=FlinkRunner BEAM="--flink_master=HOST:8081"

Without REELMILL_RUNNER the engine is the FnApiRunner with two worker processes.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

from infra.beam import Runner
from pipelines.core import run as core_run
from tests.pipelines import test_threads


def find_differences(root: Path, folder: Path, runner: Runner, patch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are not the same after `runner`, which gets all jobs, and after this process alone."""
    test_threads.work(root, folder / "one", Runner())
    patch.setattr(core_run, "MIN_ROWS_FOR_WORKERS", 0)
    test_threads.work(root, folder / "engine", runner)
    one, engine = (test_threads.read_files(folder / name) for name in ("one", "engine"))
    assert len(one) > 100
    return sorted(name for name in one.keys() | engine.keys() if one.get(name) != engine.get(name))


def test_an_engine_gives_the_bytes_of_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.environ.get("REELMILL_RUNNER") or Runner().name
    options = tuple(shlex.split(os.environ.get("REELMILL_BEAM", "")))
    runner = Runner(name, workers=2 if (name, options) == (Runner().name, ()) else 1, options=options)
    root = test_threads.write_corpus(tmp_path / "in")
    assert find_differences(root, tmp_path, runner, monkeypatch) == []
