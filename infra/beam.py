"""Run jobs on a Beam runner. The only module outside pipelines that imports Beam."""

from __future__ import annotations

import functools
import logging
import os
import shlex
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra import storage
from infra.commit import read_json
from infra.errors import ReelmillError, StageError
from infra.hashing import canonical_json


@dataclass(frozen=True)
class Runner:
    """The Beam runner of a job.

    name: of a Beam runner. workers: processes on this machine (FnApiRunner only; 1 runs in this process).
    options: further Beam options, passed on unchanged.
    """

    name: str = "FnApiRunner"
    workers: int = 1
    options: tuple[str, ...] = ()


def build_engine(runner: Runner) -> tuple[Any, Any]:
    """(Beam runner, PipelineOptions). FnApiRunner is named, since "DirectRunner" may run something else.

    Each of several workers is a process of this Python whose output goes to a log file in the temporary folder.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions

    local = runner.name == "FnApiRunner"
    flags = [f"--direct_num_workers={max(1, runner.workers)}"] if local else [f"--runner={runner.name}"]
    options = PipelineOptions([*flags, *runner.options])
    options.view_as(SetupOptions).save_main_session = False  # every function lives in an importable module
    if not local:
        return runner.name, options
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    if runner.workers <= 1:
        return FnApiRunner(), options
    log = Path(tempfile.gettempdir()) / f"reelmill-workers-{os.getpid()}.log"
    command = (
        f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main 2>>{shlex.quote(str(log))}"
    )
    return FnApiRunner(default_environment=SubprocessSDKEnvironment(command_string=command)), options


def run(job: str, build: Callable[[Any], object], runner: Runner) -> None:
    """Build a pipeline with `build(pipeline)` and run it to its end.

    Raises StageError when a worker process dies, for which Beam itself may wait for ever. Reelmill's own errors in
    tasks are raised unchanged where Beam preserves them, others as StageError.
    """
    import apache_beam as beam

    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # errors are raised, so need no log
    name, options = build_engine(runner)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            with beam.Pipeline(runner=name, options=options) as pipeline:
                build(pipeline)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread below
            failure.append(error)

    thread = threading.Thread(target=work, name=job, daemon=True)
    before = _children()
    thread.start()
    seen: set[int] = set()
    while thread.is_alive():
        thread.join(0.2)
        if runner.workers > 1 and thread.is_alive():
            now = _children() - before
            dead = {pid for pid in seen if pid not in now or _is_zombie(pid)}
            if dead and not _ends_soon(thread):
                raise _worker_died(job)
            seen |= {pid for pid in now if _is_worker(pid)}
    if failure and runner.workers > 1 and "Channel closed prematurely" in str(failure[0]):
        raise _worker_died(job) from failure[0]  # Beam was the first to notice
    if failure:
        raise _explain(job, failure[0])


def run_tasks(
    job: str, function: Callable[[str], Mapping[str, int]], tasks: Sequence[str], counters_uri: str, runner: Runner
) -> dict[str, int]:
    """Run `function(task)` for every task id and return the summed counters, also written to `counters_uri`.

    A task reads files and writes its own file whole; only its id and its counters travel through Beam.
    """
    if not tasks:
        storage.write_bytes(counters_uri, canonical_json({}))
        return {}

    def build(pipeline: Any) -> object:
        import apache_beam as beam

        return (
            pipeline
            | f"{job}: tasks" >> beam.Create(list(tasks))
            | f"{job}: spread" >> beam.Reshuffle()
            | f"{job}: do" >> beam.Map(function)
            | f"{job}: sum" >> beam.CombineGlobally(sum_counters).without_defaults()
            | f"{job}: report" >> beam.Map(functools.partial(_write_json, counters_uri))
        )

    run(job, build, runner)
    return dict(read_json(counters_uri))


def sum_counters(counters: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Add counters key by key."""
    total: dict[str, int] = {}
    for counter in counters:
        for name, count in counter.items():
            total[name] = total.get(name, 0) + count
    return total


def _write_json(uri: str, counters: Mapping[str, int]) -> None:
    storage.write_bytes(uri, canonical_json(dict(counters)))


def _explain(job: str, error: BaseException) -> BaseException:
    """The error to raise for a failed job: the task's own ReelmillError, otherwise a StageError."""
    if isinstance(error, KeyboardInterrupt):
        return error
    # Beam raises a copy without place and hint; the original is further down the chain of causes.
    original = None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ReelmillError):
            original = cause
        cause = cause.__cause__ or cause.__context__
    if original is not None:
        return original
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    last = next((line.strip() for line in reversed(lines) if "Error" in line or ": " in line), str(error))
    stage = StageError(f"{job} stopped: {last[:500]}")
    stage.__cause__ = error
    return stage


def _worker_died(job: str) -> StageError:
    return StageError(
        f"a worker process of {job} died",
        hint="run the same command again: committed work is reused (fewer --workers need less memory)",
    )


def _ends_soon(thread: threading.Thread) -> bool:
    # At the end of a job its workers exit before the pipeline returns.
    thread.join(20.0)
    return not thread.is_alive()


def _children() -> set[int]:
    try:
        text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    except OSError:
        return set()
    pids = {int(pid) for pid in text.split()}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids |= {int(pid) for pid in (task / "children").read_text().split()}
        except OSError:
            continue
    return pids


def _is_worker(pid: int) -> bool:
    try:
        return b"sdk_worker_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (OSError, IndexError):
        return True
