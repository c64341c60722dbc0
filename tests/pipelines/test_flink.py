"""Runs on a real Flink cluster, two task managers with two slots each: the bytes are those of a local run.

Skipped without Java or without what `make flink` brings.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from infra import beam
from infra.beam import Runner
from infra.errors import ConfigError, StageError
from pipelines import stages
from tests import corpus
from tests.flink_cluster import FlinkCluster, run_cluster
from tests.pipelines import test_conformance, test_threads

EXAMPLE = Path(__file__).parents[2] / "examples" / "corpus.yaml"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlinkCluster]:
    with run_cluster(tmp_path_factory.mktemp("flink") / "cluster") as cluster:
        yield cluster


def runner_of(cluster: FlinkCluster) -> Runner:
    return Runner("FlinkRunner", options=tuple(options_of(cluster)))


def options_of(cluster: FlinkCluster) -> list[str]:
    return [f"--flink_master={cluster.master}", f"--flink_job_server_jar={cluster.jar}"]


def test_every_job_of_every_verb_has_the_bytes_of_one_process(
    cluster: FlinkCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = test_threads.write_corpus(tmp_path / "in")
    assert test_conformance.find_differences(root, tmp_path, runner_of(cluster), monkeypatch) == []


def bad_task(task: str) -> Mapping[str, int]:
    """A task that raises an error for people, or has a bug."""
    if task == "known":
        raise ConfigError("a mistake", where="c.yaml:7", hint="mend it")
    raise ValueError("a bug of ours")


def test_errors_of_workers_come_back(cluster: FlinkCluster, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        beam.run_tasks("job", bad_task, ["known"], str(tmp_path / "r"), runner_of(cluster))
    assert str(caught.value) == "c.yaml:7: a mistake\n  mend it"
    with pytest.raises(StageError, match=r"^job stopped: ValueError: a bug of ours\n") as bug:
        beam.run_tasks("job", bad_task, ["other"], str(tmp_path / "r"), runner_of(cluster))
    assert bug.value.hint.count("in bad_task") == 1 and "apache_beam" not in bug.value.hint
    assert "java" not in capfd.readouterr().err


# -- kills ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos that take a while to decode, three in each unit."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(24):
        corpus.write_clip(folder / f"{number:02d}.mp4", 70 + number, frames=240)
        (folder / f"{number:02d}.txt").write_text(corpus.caption(700 + number))
    return folder


def write_config(sources: Path, folder: Path, name: str) -> Path:
    content = {
        "name": "videos", "store": str(folder / f"{name}-store"), "out": str(folder / name),
        "sources": [{"name": "v", "path": str(sources), "modality": "video"}], "units": {"target_rows": 2},
        "filters": {"motion": None}, "duplicates": {"video": {}},
    }  # fmt: skip
    return corpus.write_config(folder / f"{name}.yaml", content)


@pytest.fixture(scope="module")
def expected(sources: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """checksums.json of a local run over `sources`."""
    folder = tmp_path_factory.mktemp("expected")
    assert start(write_config(sources, folder, "run")).wait() == 0
    return (folder / "run" / "checksums.json").read_bytes()


def use_job_server(cluster: FlinkCluster) -> Runner:
    """The runner for the job server of the cluster."""
    endpoint = f"--job_endpoint=127.0.0.1:{cluster.job_port}"
    return Runner("PortableRunner", options=(f"--flink_master={cluster.master}", endpoint))


def start(config: Path, runner: Runner | None = None) -> subprocess.Popen[str]:
    """Start `reelmill run`."""
    options = [] if runner is None else ["--runner", runner.name, *(f"--beam={option}" for option in runner.options)]
    command = [sys.executable, "-m", "pipelines.cli", "run", str(config), "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def start_and_wait_for_measuring(config: Path, runner: Runner) -> subprocess.Popen[str]:
    """Start a run and return when it has measured some of its units, but not all."""
    process = start(config, runner)
    signals = config.with_suffix("") / "signals"
    while len(list(signals.glob("*.parquet"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    assert not (signals / "_manifest.json").exists()
    return process


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, what it wrote on stderr)."""
    _, errors = process.communicate()
    return process.returncode, errors


def find_job_server(process: subprocess.Popen[str]) -> psutil.Process:
    children = psutil.Process(process.pid).children(recursive=True)
    return next(child for child in children if "java" in child.name())


@pytest.mark.parametrize("victim", ["task manager", "worker"])
def test_a_job_goes_on_without_what_was_killed(
    cluster: FlinkCluster, sources: Path, expected: bytes, tmp_path: Path, victim: str
) -> None:
    process = start_and_wait_for_measuring(write_config(sources, tmp_path, "run"), runner_of(cluster))
    workers = psutil.Process(cluster.task_managers[0].pid).children(recursive=True)
    assert workers
    if victim == "worker":
        workers[0].kill()
    else:
        task_manager = cluster.task_managers.pop(0)
        task_manager.kill()
        task_manager.wait()
        cluster.start_task_manager()
        psutil.wait_procs(workers)  # no orphan stays
    assert finish(process) == (0, "")
    assert (tmp_path / "run" / "checksums.json").read_bytes() == expected


@pytest.mark.parametrize("victim", ["job server", "launcher"])
def test_the_same_command_finishes_what_a_kill_ended(
    cluster: FlinkCluster, sources: Path, expected: bytes, tmp_path: Path, victim: str
) -> None:
    config = write_config(sources, tmp_path, "run")
    process = start_and_wait_for_measuring(config, runner_of(cluster))
    server = find_job_server(process)
    (process if victim == "launcher" else server).kill()
    code, errors = finish(process)
    psutil.wait_procs([server])  # it ends with the launcher
    if victim == "job server":
        assert code == 1 and errors.startswith("reelmill: measure stopped: Beam's job server ended")
        assert errors.count("\n") == 2 and "run the same command again" in errors
    assert finish(start(config, runner_of(cluster))) == (0, "")
    assert (tmp_path / "run" / "checksums.json").read_bytes() == expected


def test_a_run_goes_on_after_the_job_manager_was_killed(
    cluster: FlinkCluster, sources: Path, expected: bytes, tmp_path: Path
) -> None:
    config = write_config(sources, tmp_path, "run")
    process = start_and_wait_for_measuring(config, runner_of(cluster))
    assert cluster.job_manager is not None
    cluster.job_manager.kill()
    code, errors = finish(process)
    assert code == 1 and errors.count("\n") == 2 and errors.startswith("reelmill: measure stopped"), errors
    cluster.start_job_manager()
    cluster.wait_for_task_managers(2)
    assert finish(start(config, runner_of(cluster))) == (0, "")
    assert (tmp_path / "run" / "checksums.json").read_bytes() == expected


def test_a_job_server_that_was_up_is_named_when_it_ends(
    cluster: FlinkCluster, sources: Path, expected: bytes, tmp_path: Path
) -> None:
    config = write_config(sources, tmp_path, "run")
    process = start_and_wait_for_measuring(config, use_job_server(cluster))
    assert cluster.job_server is not None
    cluster.job_server.kill()
    code, errors = finish(process)
    assert code == 1 and errors.count("\n") == 2
    assert errors.startswith("reelmill: measure stopped: Beam's job server ended or cannot be reached")
    code, errors = finish(start(config, use_job_server(cluster)))
    assert code == 2 and "no job server answers at" in errors
    cluster.start_job_server()
    assert finish(start(config, use_job_server(cluster))) == (0, "")
    assert (tmp_path / "run" / "checksums.json").read_bytes() == expected


@pytest.mark.skipif("REELMILL_FLINK_CORPUS" not in os.environ, reason="minutes: REELMILL_FLINK_CORPUS=1 runs it")
@pytest.mark.skipif("REELMILL_CORPUS" not in os.environ, reason="no real media: REELMILL_CORPUS names their folder")
def test_the_corpus_of_the_example_has_the_bytes_of_a_local_run(cluster: FlinkCluster, tmp_path: Path) -> None:
    for name, runner in (("local", Runner(workers=2)), ("flink", runner_of(cluster))):
        text = EXAMPLE.read_text("utf-8").replace("out/corpus", str(tmp_path / name))
        run = stages.open_for_work(str(EXAMPLE), text=text, runner=runner, quiet=True)
        stages.run_all(run)
    local, flink = (tmp_path / name / "run" / "checksums.json" for name in ("local", "flink"))
    assert flink.read_bytes() == local.read_bytes()
