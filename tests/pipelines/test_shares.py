"""Stages done in shares, by commands that know nothing of each other: the bytes are those of one command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from infra import commit, storage
from infra.beam import Runner
from infra.engines.share import Share, parse_share
from infra.errors import ConfigError, StageError
from pipelines import cli, stages
from pipelines.core.run import Run
from tests.pipelines import test_threads


@given(st.lists(st.text(), unique=True, max_size=40), st.integers(1, 12))
def test_shares_have_every_task_once_and_begin_apart(tasks: list[str], of: int) -> None:
    shares = [Share(number, of) for number in range(of)]
    assert sorted(task for share in shares for task in share.select(tasks)) == sorted(tasks)
    for share in shares:
        assert sorted(share.rotate(tasks)) == sorted(tasks)
        assert parse_share(str(share)) == share
    if len(tasks) >= of:
        assert len({share.rotate(tasks)[0] for share in shares}) == of


@pytest.mark.parametrize("text", ["", "3", "3/3", "-1/3", "1/0", "a/b", "1/2/3", "1.0/2"])
def test_a_wrong_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--shard"):
        parse_share(text)


@pytest.fixture(scope="module")
def corpus_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return test_threads.write_corpus(tmp_path_factory.mktemp("corpus") / "in")


def run_shares(run: Run, stage: str, numbers: Sequence[int], of: int) -> int:
    """Run shares at once; returns the number of their tasks."""
    with ThreadPoolExecutor(len(numbers)) as threads:
        runs = [replace(run, runner=Runner(share=Share(number, of))) for number in numbers]
        return sum(threads.map(lambda one: stages.run_share(one, stage), runs))


def finish(run: Run, stage: str) -> commit.Manifest:
    return stages.run_stage(replace(run, runner=Runner(finish=True)), stage)


def test_stages_in_shares_have_the_bytes_of_one_command(corpus_root: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    stages.run_all(test_threads.open_run(corpus_root, whole, Runner()))
    run = test_threads.open_run(corpus_root, parts, Runner())
    for stage in stages.STAGES:
        if stage not in stages.SHARED:
            stages.run_stage(run, stage)
            continue
        # The last share is done twice at once, the first one late.
        run_shares(run, stage, [1, 2, 2], 3)
        with pytest.raises(StageError, match=rf"tasks of {stage} are not done") as caught:
            finish(run, stage)
        assert "--shard i/N" in caught.value.hint
        run_shares(run, stage, [0], 3)
        manifest = finish(run, stage)
        assert run_shares(run, stage, [0, 1, 2], 3) >= len(manifest.units) > 3
    # Two that measure one unit at once may both add its cells to the store.
    both = [
        {name: content for name, content in test_threads.read_files(folder).items() if not name.startswith("store/")}
        for folder in (parts, whole)
    ]
    assert both[0] == both[1] and any(name.endswith(".tar") for name in both[0])


def test_shares_wait_for_no_command_that_holds_the_run(corpus_root: Path, tmp_path: Path) -> None:
    run = test_threads.open_run(corpus_root, tmp_path, Runner(share=Share(0, 2)))
    holder = {"host": "elsewhere", "pid": 7, "time": float(int(commit.time.time()))}
    storage.write_bytes(run.at(".lock"), json.dumps(holder).encode())
    with pytest.raises(StageError, match="process 7 on elsewhere is at work in this run"):
        stages.run_share(run, "ingest")


def test_the_command_line_does_a_share(corpus_root: Path, tmp_path: Path) -> None:
    test_threads.open_run(corpus_root, tmp_path, Runner())
    config = str(tmp_path / "config.yaml")
    call = CliRunner().invoke
    first = call(cli.app, ["ingest", config, "--shard", "0/2", "--json"])
    assert first.exit_code == 0, first.output
    assert {**json.loads(first.stdout), "tasks": 0} == {"stage": "ingest", "shard": "0/2", "tasks": 0}
    assert call(cli.app, ["ingest", config, "--shard", "1/2"]).exit_code == 0
    assert call(cli.app, ["ingest", config, "--finish", "--json"]).exit_code == 0
    for wrong in (["--finish"], ["--runner", "FlinkRunner"]):
        refused = call(cli.app, ["ingest", config, "--shard", "0/2", *wrong])
        assert refused.exit_code == 2 and "--shard" in refused.output
