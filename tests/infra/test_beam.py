from __future__ import annotations

import functools
import os
import pickle
import signal
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


def test_tasks_run_once_each_and_their_counters_are_summed(tmp_path: Path) -> None:
    tasks = [f"t{i}" for i in range(20)]
    result = str(tmp_path / "out" / "counters.json")
    (tmp_path / "work").mkdir()
    found = beam.run_tasks("job", functools.partial(write_task, str(tmp_path / "work")), tasks, result, beam.Runner())
    assert found == {"tasks": 20, **{f"task {task}": 1 for task in tasks}}
    assert {path.name for path in (tmp_path / "work").iterdir()} == set(tasks)
    assert {path.read_text() for path in (tmp_path / "work").iterdir()} == {str(os.getpid())}
    assert beam.run_tasks("job", bad_task, [], result, beam.Runner()) == {}


def test_a_mistake_comes_out_as_it_was_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        beam.run_tasks("job", bad_task, ["known"], str(tmp_path / "r"), beam.Runner())
    assert str(caught.value) == "c.yaml:7: a mistake\n  mend it"


def test_a_bug_stops_the_stage_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"job stopped: .*a bug of ours") as caught:
        beam.run_tasks("job", bad_task, ["other"], str(tmp_path / "r"), beam.Runner())
    assert caught.value.__cause__ is not None


def test_the_runner_is_named_and_options_are_passed_on() -> None:
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    runner, _ = beam.build_engine(beam.Runner())
    assert type(runner) is FnApiRunner
    name, options = beam.build_engine(beam.Runner("FlinkRunner", options=("--flink_master=host:8081",)))
    assert name == "FlinkRunner" and options.get_all_options()["runner"] == "FlinkRunner"
    assert pickle.loads(pickle.dumps(beam.Runner(workers=3))) == beam.Runner(workers=3)


COUNTERS = st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)))


@given(COUNTERS, COUNTERS)
def test_counters_add_up_in_any_grouping(one: list[dict[str, int]], other: list[dict[str, int]]) -> None:
    whole = beam.sum_counters([*one, *other])
    assert beam.sum_counters([beam.sum_counters(other), beam.sum_counters(one)]) == whole
    assert all(whole[name] == sum(c.get(name, 0) for c in [*one, *other]) for name in whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # Beam's threads miss the dead
def test_workers_are_processes_and_a_dead_one_is_told(tmp_path: Path) -> None:
    tasks = [f"t{i}" for i in range(8)]
    (tmp_path / "work").mkdir()
    task = functools.partial(write_task, str(tmp_path / "work"))
    beam.run_tasks("job", task, tasks, str(tmp_path / "r"), beam.Runner(workers=2))
    assert str(os.getpid()) not in {path.read_text() for path in (tmp_path / "work").iterdir()}
    with pytest.raises(StageError, match="a worker process of job died"):
        beam.run_tasks("job", dying_task, ["one"], str(tmp_path / "r"), beam.Runner(workers=2))
