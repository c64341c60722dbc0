"""Options of Beam for engines that run workers elsewhere: what Reelmill adds, and checks before any work."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.engines.flink import ask_slots, find_master, read_option
from infra.engines.job_server import is_listening
from infra.errors import ConfigError

#: Runners that hand a job to a job server, whose engine starts worker processes.
PORTABLE = frozenset({"FlinkRunner", "PortableRunner", "SparkRunner"})

#: Options that say how workers start; naming one of them leaves it all to the person.
_ENVIRONMENT = {"--environment_type", "--environment_config", "--environment_option", "--environment_options"}


def complete_options(name: str, options: Sequence[str]) -> list[str]:
    """The options of a person for a runner of `PORTABLE`, after ours for what they leave open.

    Workers are processes that the engine starts with the command `reelmill-worker`. Where `flink_master` names a
    cluster, all its slots are used, with a worker process for each. Raises ConfigError for a cluster or a job server
    that does not answer, and for a parallelism above the cluster's slots.
    """
    ours = []
    named = {option.partition("=")[0] for option in options}
    if not named & _ENVIRONMENT:
        ours += ["--environment_type=PROCESS", f"--environment_config={json.dumps({'command': worker_command()})}"]
    endpoint = read_option(options, "--job_endpoint")
    if endpoint is not None and endpoint != "embed" and not is_listening(endpoint):
        raise ConfigError(
            f"--runner {name}: no job server answers at {endpoint}",
            hint="start it, or correct --beam=--job_endpoint=HOST:PORT (docs/clusters.md)",
        )
    if endpoint is None and name == "PortableRunner":
        hint = "add --beam=--job_endpoint=HOST:PORT, or use --runner FlinkRunner, which starts one"
        raise ConfigError("--runner PortableRunner: the job server is not named", hint=hint)
    if (master := find_master(options)) is not None:
        slots = ask_slots(master)
        asked = read_option(options, "--parallelism")
        if asked is not None and slots.total < int(asked):
            raise ConfigError(
                f"--beam: --parallelism={asked} is more than the {slots.total} slots of the Flink cluster at {master}",
                hint="start more task managers, or leave the option out: by default all slots are used",
            )
        if slots.total:
            ours += [f"--parallelism={slots.total}", f"--sdk_worker_parallelism={slots.each}"]
    return [*ours, *options]


def needs_job_server(name: str, options: Sequence[str]) -> bool:
    """Whether this process starts the job server: for the FlinkRunner, unless an option sends its jobs elsewhere."""
    elsewhere = {"--job_endpoint", "--flink_submit_uber_jar", "--output_executable_path"}
    return name == "FlinkRunner" and not elsewhere & {option.partition("=")[0] for option in options}


def worker_command() -> str:
    """Path of the command that starts a worker: that of this Python, which workers have at the same place."""
    beside = Path(sys.executable).with_name("reelmill-worker")
    command = str(beside) if beside.exists() else shutil.which("reelmill-worker")
    if command is None:
        raise ConfigError(
            "the command reelmill-worker, which starts the workers of engines, is not installed",
            hint="install this package again: `make install`, or `pip install -e .`",
        )
    return command
