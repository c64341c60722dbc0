from __future__ import annotations

import atexit
import functools
import os
import pickle
import signal
import stat
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import beam
from infra.errors import ConfigError, StageError


def write_task(folder: str, task: str) -> Mapping[str, int]:
    (Path(folder) / task).write_text(str(os.getpid()))
    return {"tasks": 1, f"task {task}": 1}


def bad_task(task: str) -> Mapping[str, int]:
    if task == "known":
        raise ConfigError("a mistake", where="c.yaml:7", hint="mend it")
    raise ValueError("a bug of ours")


def dying_task(task: str) -> Mapping[str, int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def private_log_task(task: str) -> Mapping[str, int]:
    folder = Path("/proc/self/fd/2").readlink().parent
    return {"private": int(stat.S_IMODE(folder.stat().st_mode) == 0o700), str(folder): 1}


def unclean_exit_task(marker: str, task: str) -> Mapping[str, int]:
    """Two workers: when Beam stops them one ends with an error at once, the other takes its time."""
    try:
        Path(marker).mkdir()
    except FileExistsError:
        atexit.register(time.sleep, 2)
    else:
        atexit.register(os._exit, 3)
    time.sleep(0.2)  # so that the other worker takes a task, too
    return {"tasks": 1}


def test_tasks_run_once_each_and_their_counters_are_summed(tmp_path: Path) -> None:
    tasks = [f"t{i}" for i in range(20)]
    output = str(tmp_path / "out" / "counters.json")
    (tmp_path / "work").mkdir()
    counters = beam.run_tasks(
        "job", functools.partial(write_task, str(tmp_path / "work")), tasks, output, beam.Runner()
    )
    assert counters == {"tasks": 20, **{f"task {task}": 1 for task in tasks}}
    assert {path.name for path in (tmp_path / "work").iterdir()} == set(tasks)
    assert {path.read_text() for path in (tmp_path / "work").iterdir()} == {str(os.getpid())}
    assert beam.run_tasks("job", bad_task, [], output, beam.Runner()) == {}


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_for_people_leaves_a_worker_unchanged(tmp_path: Path, workers: int) -> None:
    with pytest.raises(ConfigError) as caught:
        beam.run_tasks("job", bad_task, ["known"], str(tmp_path / "r"), beam.Runner(workers=workers))
    assert str(caught.value) == "c.yaml:7: a mistake\n  mend it"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bug_stops_the_stage_with_its_name_and_place(tmp_path: Path, workers: int) -> None:
    with pytest.raises(StageError, match=r"^job stopped: ValueError: a bug of ours\n") as caught:
        beam.run_tasks("job", bad_task, ["other"], str(tmp_path / "r"), beam.Runner(workers=workers))
    assert caught.value.__cause__ is not None
    assert caught.value.hint.count("in bad_task") == 1 and "apache_beam" not in caught.value.hint


def test_the_runner_is_named_and_options_are_passed_on() -> None:
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    runner, _ = beam.build_engine(beam.Runner())
    assert type(runner) is FnApiRunner
    flink = beam.Runner("FlinkRunner", options=("--environment_type=DOCKER", "--parallelism=4"))
    name, options = beam.build_engine(flink)
    assert name == "FlinkRunner" and options.get_all_options()["runner"] == "FlinkRunner"
    name, options = beam.build_engine(flink, server="host:1")
    assert name == "PortableRunner" and options.get_all_options()["job_endpoint"] == "host:1"
    assert options.get_all_options()["parallelism"] == 4
    assert pickle.loads(pickle.dumps(beam.Runner(workers=3))) == beam.Runner(workers=3)


COUNTERS = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)))


@given(COUNTERS, COUNTERS)
def test_counters_add_up_in_any_grouping(first: list[dict[str, int]], second: list[dict[str, int]]) -> None:
    whole = beam.sum_counters([*first, *second])
    assert beam.sum_counters([beam.sum_counters(second), beam.sum_counters(first)]) == whole
    assert all(whole[name] == sum(c.get(name, 0) for c in [*first, *second]) for name in whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Beam's threads miss the dead
def test_workers_are_processes_and_a_dead_worker_is_an_error(tmp_path: Path) -> None:
    tasks = [f"t{i}" for i in range(8)]
    (tmp_path / "work").mkdir()
    task = functools.partial(write_task, str(tmp_path / "work"))
    beam.run_tasks("job", task, tasks, str(tmp_path / "r"), beam.Runner(workers=2))
    assert str(os.getpid()) not in {path.read_text() for path in (tmp_path / "work").iterdir()}
    with pytest.raises(StageError, match="a worker process of job died"):
        beam.run_tasks("job", dying_task, ["one"], str(tmp_path / "r"), beam.Runner(workers=2))


def test_how_workers_end_after_the_last_task_does_not_matter(tmp_path: Path) -> None:
    task = functools.partial(unclean_exit_task, str(tmp_path / "first"))
    tasks = [f"t{i}" for i in range(8)]
    assert beam.run_tasks("job", task, tasks, str(tmp_path / "r"), beam.Runner(workers=2)) == {"tasks": 8}


def test_the_output_of_workers_is_private_and_removed(tmp_path: Path) -> None:
    counters = beam.run_tasks("job", private_log_task, ["a", "b"], str(tmp_path / "r"), beam.Runner(workers=2))
    assert counters.pop("private") == 2
    (folder,) = counters
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--flink_mastr=host:8081"], r"no option --flink_mastr\n  did you mean 'flink_master'\?"),
        (["--paralellism", "4"], r"no option --paralellism\n  did you mean 'parallelism'\?"),
        (["--zzzzzz"], r"no option --zzzzzz\n  options: .*parallelism"),
        (["parallelism=4"], r"'parallelism=4' is not an option of Beam"),
        (["-x"], "'-x' is not an option"),
        (["--"], "'--' is not an option"),
        (["--parallelism=4", "5"], "'5' is not an option"),
        (["--direct_num_workers=many"], "direct_num_workers: invalid int value"),
        (["--help"], "--beam: "),
    ],
)
def test_options_that_beam_would_ignore_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=message):
        beam.check_runner(beam.Runner(options=tuple(options)))
    assert capsys.readouterr() == ("", "")
    with pytest.raises(ConfigError, match=message):
        beam.run_tasks("job", bad_task, ["other"], "/nowhere", beam.Runner(options=tuple(options)))


@pytest.mark.parametrize(
    "options",
    [
        ("--flink_master=[auto]", "--parallelism=4"),
        ("--parallelism", "4"),
        ("--experiments=a",),
        ("--streaming",),
        ("--direct_running_mode=multi_threading", "--direct_num_workers=8"),
        ("--s3_region_name=x",),
    ],
)
def test_options_of_any_runner_are_accepted(options: tuple[str, ...]) -> None:
    beam.check_runner(beam.Runner(options=options))
    beam.check_runner(beam.Runner("FlinkRunner", options=(*options, "--environment_type=DOCKER")))


@pytest.mark.parametrize(
    "name", ["FlnkRunner", "", "no.such.Runner", "apache_beam.runners.Missing", "infra.beam.Runner2"]
)
def test_runners_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="--runner: Beam has no usable runner"):
        beam.check_runner(beam.Runner(name))
    with pytest.raises(ConfigError, match="did you mean 'FlinkRunner'"):
        beam.check_runner(beam.Runner("FlnkRunner"))
