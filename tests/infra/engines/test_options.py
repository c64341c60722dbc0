"""Options for engines: ours for what a person leaves open, and refusals before any work."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from infra.engines import options
from infra.engines.options import complete_options, needs_job_server
from infra.errors import ConfigError
from tests.infra.engines.test_flink import serve_cluster


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Path of a worker's command beside a Python."""
    (tmp_path / "reelmill-worker").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    return str(tmp_path / "reelmill-worker")


def test_all_slots_are_used_with_a_worker_for_each_and_our_command(command: str) -> None:
    with serve_cluster(2, 3) as master:
        given = [f"--flink_master={master}"]
        completed = complete_options("FlinkRunner", given)
    environment = ["--environment_type=PROCESS", f'--environment_config={{"command": "{command}"}}']
    assert completed == [*environment, "--parallelism=5", "--sdk_worker_parallelism=3", *given]


def test_what_a_person_names_comes_last_and_wins(command: str) -> None:
    from apache_beam.options.pipeline_options import PipelineOptions

    with serve_cluster(2, 2) as master:
        given = ["--flink_master", f"http://{master}/", "--sdk_worker_parallelism=1", "--parallelism", "3"]
        completed = PipelineOptions(complete_options("FlinkRunner", given)).get_all_options()
    assert (completed["sdk_worker_parallelism"], completed["parallelism"]) == ("1", 3)


@pytest.mark.parametrize("option", ["--environment_type=DOCKER", "--environment_options=process_command=/x"])
def test_workers_of_another_kind_are_left_to_the_person(option: str) -> None:
    assert complete_options("FlinkRunner", [option]) == [option]


def test_a_cluster_without_task_managers_gives_no_numbers(command: str) -> None:
    with serve_cluster() as master:
        assert "--parallelism" not in str(complete_options("FlinkRunner", [f"--flink_master={master}"]))


def test_more_tasks_than_slots_are_refused(command: str) -> None:
    with serve_cluster(2, 2) as master, pytest.raises(ConfigError, match="--parallelism=5 is more than the 4 slots"):
        complete_options("FlinkRunner", [f"--flink_master={master}", "--parallelism=5"])


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_what_does_not_answer_is_named(command: str) -> None:
    address = f"127.0.0.1:{closed_port()}"
    with pytest.raises(ConfigError, match=f"no job server answers at {address}\n"):
        complete_options("PortableRunner", [f"--job_endpoint={address}"])
    with pytest.raises(ConfigError, match=f"no Flink cluster answers at http://{address}: "):
        complete_options("FlinkRunner", [f"--flink_master={address}"])
    with pytest.raises(ConfigError, match="the job server is not named\n  add --beam=--job_endpoint"):
        complete_options("PortableRunner", [])


def test_a_job_server_that_answers_is_used(command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"--job_endpoint=127.0.0.1:{server.getsockname()[1]}"
        assert complete_options("PortableRunner", [endpoint])[-1] == endpoint


def test_a_missing_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="reelmill-worker, which starts the workers of engines, is not installed"):
        options.worker_command()


def test_only_the_flink_runner_starts_a_job_server() -> None:
    assert needs_job_server("FlinkRunner", ["--flink_master=h:1"])
    assert not needs_job_server("FlinkRunner", ["--job_endpoint", "h:1"])
    assert not needs_job_server("FlinkRunner", ["--flink_submit_uber_jar"])
    assert not needs_job_server("PortableRunner", [])
