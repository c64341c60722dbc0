"""Run jobs on a Beam runner. The only module outside pipelines that imports Beam."""

from __future__ import annotations

import difflib
import functools
import io
import logging
import shlex
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from infra import storage
from infra.commit import read_json
from infra.engines import failures
from infra.engines.flink import cancel_jobs_of, name_job
from infra.engines.job_server import find_job_server
from infra.engines.options import PORTABLE, complete_options, needs_job_server
from infra.engines.share import Share
from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json


@dataclass(frozen=True)
class Runner:
    """The Beam runner of a job, and which of a stage's tasks it is for.

    name: of a Beam runner. workers: processes on this machine (FnApiRunner only; 1 runs in this process).
    options: further Beam options, passed on unchanged. owner: URI of the run, which a command has to itself: its jobs
    on a Flink cluster are named after it, and one that a killed command left behind is cancelled. share: do a share of
    the tasks and end. finish: do none, others have done them.
    """

    name: str = "FnApiRunner"
    workers: int = 1
    options: tuple[str, ...] = ()
    owner: str = ""
    share: Share | None = None
    finish: bool = False


def check_runner(runner: Runner) -> list[str]:
    """Raise ConfigError for a runner or an option that Beam does not know: it would ignore the option in silence.

    Returns the options, with ours for an engine (see `complete_options`). Options of a runner are known once its module
    is imported, so it is made first.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
    from apache_beam.runners.runner import create_runner

    try:
        create_runner(runner.name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        hint = _suggest(runner.name, StandardOptions.KNOWN_RUNNER_NAMES, "runners")
        if runner.name in StandardOptions.KNOWN_RUNNER_NAMES:
            hint = "install what it needs"
        message = str(error).partition(" Valid values")[0].rstrip(".")
        raise ConfigError(f"--runner: Beam has no usable runner {runner.name!r}: {message}", hint=hint) from None
    follows_name = False
    for option in runner.options:
        is_name = option.startswith("--") and len(option) > 2
        if not is_name and not follows_name:
            raise ConfigError(f"--beam: {option!r} is not an option of Beam", hint="write --beam=--name=value")
        follows_name = is_name and "=" not in option
    refusal = io.StringIO()
    try:
        with redirect_stderr(refusal), redirect_stdout(refusal):
            options = PipelineOptions(list(runner.options))
            names = set(PipelineOptions([]).get_all_options())
            unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - names)
    except SystemExit:
        last = (refusal.getvalue().strip().splitlines() or [""])[-1]
        raise ConfigError(f"--beam: {last.partition('error: ')[2] or 'these options cannot be used'}") from None
    for name in unknown:
        raise ConfigError(f"--beam: Beam has no option --{name}", hint=_suggest(name, names, "options"))
    return complete_options(runner.name, runner.options) if runner.name in PORTABLE else list(runner.options)


def _suggest(name: str, names: Collection[str], what: str) -> str:
    near = difflib.get_close_matches(name, sorted(names), n=1)
    return f"did you mean {near[0]!r}?" if near else f"{what}: {', '.join(sorted(names))}"


class _WorkerPool:
    """The worker processes of a job: their output and how they ended, in a folder that only this user can read.

    The folder is temporary; after a death it is kept, for a person to look into.

    A worker's shell writes a file `died-PID` with the exit status when the worker ends with an error. `is_executing`
    is true from the first bundle of the pipeline to its last. Beam stops the workers after that, and how they end then
    does not matter; a worker that has died before may keep Beam waiting for ever.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="reelmill-workers-"))
        self.log = self.folder / "workers.log"
        self.is_executing = self.is_kept = False

    def __enter__(self) -> _WorkerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self.is_kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def command(self) -> str:
        """The shell command that runs one worker."""
        module = "apache_beam.runners.worker.sdk_worker_main"
        return (
            f"{shlex.quote(sys.executable)} -m {module} 2>>{shlex.quote(str(self.log))} || "
            f"echo $? >{shlex.quote(str(self.folder))}/died-$$"
        )

    def find_death(self) -> int | None:
        """The exit status of a worker that died while the pipeline was executing; None where none has."""
        died = next(iter(sorted(self.folder.glob("died-*"))), None)
        if died is None or not self.is_executing:  # in this order: it has died before the pipeline was seen executing
            return None
        return int(died.read_text() or 1)

    def build_error(self, job: str, status: int | None) -> StageError:
        """The error to raise for a worker that died. status: its exit status, None where it is not known."""
        how = ""
        if status is not None:
            how = f" (killed by signal {status - 128})" if status > 128 else f" (exit status {status})"
        self.is_kept = self.log.is_file() and self.log.stat().st_size > 0
        return StageError(
            f"a worker process of {job} died{how}",
            hint="run the same command again: committed work is reused (fewer --workers need less memory)"
            + (f"; output of the workers: {self.log}" if self.is_kept else ""),
        )


def build_engine(
    runner: Runner, pool: _WorkerPool | None = None, server: str | None = None, job: str = ""
) -> tuple[Any, Any]:
    """(Beam runner, PipelineOptions). FnApiRunner is named, since "DirectRunner" may run something else.

    Each of several workers is a process of this Python, in `pool`. server: HOST:PORT of a job server that takes the
    jobs of this runner. Raises ConfigError as `check_runner` does.
    """
    from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions

    given = [*check_runner(runner), *([f"--job_name={name_job(runner.owner, job)}"] if runner.owner else [])]
    local = runner.name == "FnApiRunner"
    name = runner.name if server is None else "PortableRunner"
    flags = [f"--direct_num_workers={max(1, runner.workers)}"] if local else [f"--runner={name}"]
    options = PipelineOptions([*flags, *given, *([f"--job_endpoint={server}"] if server else [])])
    options.view_as(SetupOptions).save_main_session = False  # every function lives in an importable module
    if not local:
        return name, options
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    if pool is None:
        return FnApiRunner(), options
    workers = pool

    class WatchedRunner(FnApiRunner):  # type: ignore[misc]
        """Notes when the pipeline executes: Beam profiles exactly that, and stops the workers afterwards."""

        @contextmanager
        def maybe_profile(self) -> Iterator[None]:
            with super().maybe_profile():
                workers.is_executing = True
                try:
                    yield
                finally:
                    workers.is_executing = False

    return WatchedRunner(default_environment=SubprocessSDKEnvironment(command_string=pool.command())), options


class _Submission(threading.Thread):
    """A pipeline in a thread of its own, so that this one can watch the processes that it needs."""

    def __init__(self, job: str, build: Callable[[Any], object], name: Any, options: Any) -> None:
        import apache_beam as beam

        super().__init__(name=job, daemon=True)
        self.pipeline = beam.Pipeline(runner=name, options=options)
        self.build = build
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            with self.pipeline as pipeline:
                self.build(pipeline)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            self.failure = error

    def cancel(self) -> None:
        """Cancel a job on an engine, which would go on without this process."""
        job = getattr(self.pipeline, "result", None)
        if job is not None and hasattr(job, "cancel"):
            job.cancel()


def run(job: str, build: Callable[[Any], object], runner: Runner) -> None:
    """Build a pipeline with `build(pipeline)` and run it to its end. Ctrl-C cancels it, on an engine too.

    Raises StageError when a worker process or the job server dies, for which Beam itself may wait for ever. Reelmill's
    own errors in tasks are raised as such, others as StageError.
    """
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)  # errors are raised, so need no log
    # Threads: a filter that is there is not added again. Beam logs an engine's messages, the error too, without a name.
    logging.getLogger().addFilter(_is_no_message_of_engine)
    with ExitStack() as stack:
        is_pool = runner.workers > 1 and runner.name == "FnApiRunner"
        pool = stack.enter_context(_WorkerPool()) if is_pool else None
        server = find_job_server(runner.options) if needs_job_server(runner.name, runner.options) else None
        endpoint = None if server is None else server.endpoint
        submission = _Submission(job, build, *build_engine(runner, pool, endpoint, job))
        if runner.name in PORTABLE:
            cancel_jobs_of(runner.owner, runner.options)
            threading.excepthook = _report_thread  # threads: of the process, the same function each time
        submission.start()
        try:
            while submission.is_alive():
                submission.join(0.2)
                if pool is not None and (status := pool.find_death()) is not None:
                    raise pool.build_error(job, status)
                if server is not None:
                    server.check(job)
        except KeyboardInterrupt:
            submission.cancel()
            if runner.name in PORTABLE:
                cancel_jobs_of(runner.owner, runner.options)  # the job server only passes the wish on, and ends with us
            raise
        failure = submission.failure
        if failure is not None and pool is not None and "Channel closed prematurely" in str(failure):
            raise pool.build_error(job, None) from failure  # Beam was the first to notice
    if failure is not None:
        raise failures.explain(job, failure)


def _report_thread(error: threading.ExceptHookArgs) -> None:
    """Report the error of a thread, but not of Beam's reader of an engine's messages: the job's error says the same."""
    if error.thread is None or error.thread.name != "wait_until_finish_read":
        threading.__excepthook__(error)


def _is_no_message_of_engine(record: logging.LogRecord) -> bool:
    return record.module != "portable_runner"


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


def sum_counters(counters: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Add counters key by key."""
    total: dict[str, int] = {}
    for counter in counters:
        for name, count in counter.items():
            total[name] = total.get(name, 0) + count
    return total


def _write_json(uri: str, counters: Mapping[str, int]) -> None:
    storage.write_bytes(uri, canonical_json(dict(counters)))
