"""Beam's job server for Flink: a Java process that takes the jobs of this one, and ends with it."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from infra.errors import ConfigError, StageError

#: Job servers of this process by their options. Threads: guarded by the lock; every job of a command uses one server.
_SERVERS: dict[tuple[str, ...], JobServer] = {}
_LOCK = threading.Lock()  # threads: guards _SERVERS


class JobServer:
    """A running job server. endpoint: its HOST:PORT. Its output is in `log`, in a folder that is removed at exit."""

    def __init__(self, options: Sequence[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="reelmill-job-server-"))
        self.log = self.folder / "job-server.log"
        atexit.register(self.stop)  # threads: of the process; it may be called twice
        command, self.endpoint = build_command([*options, f"--artifacts_dir={self.folder / 'artifacts'}"])
        follow = [sys.executable, "-m", "infra.engines.follow", str(os.getpid())]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*follow, *command], stdout=log, stderr=log, start_new_session=True)
        while not is_listening(self.endpoint):
            self.check("start")
            time.sleep(0.1)

    def check(self, job: str) -> None:
        """Raise StageError if the process has ended."""
        if (status := self.process.poll()) is not None:
            raise StageError(
                f"{job} stopped: Beam's job server ended (exit status {status}): {read_end(self.log)}",
                hint="run the same command again: committed work is reused",
            )

    def stop(self) -> None:
        """Kill the process and remove its folder."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def find_job_server(options: Sequence[str]) -> JobServer:
    """The job server of these options of Beam, started with the first job and again if it has ended."""
    with _LOCK:
        server = _SERVERS.get(tuple(options))
        if server is None or server.process.poll() is not None:
            server = _SERVERS[tuple(options)] = JobServer(options)
        return server


def build_command(options: Sequence[str]) -> tuple[list[str], str]:
    """(command, HOST:PORT) of a job server, as Beam starts it; its jar is downloaded unless the options name one."""
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.flink_runner import FlinkJarJobServer

    parsed = PipelineOptions(list(options))
    try:
        command, endpoint = FlinkJarJobServer(parsed).subprocess_cmd_and_endpoint()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--runner FlinkRunner: there is no job server: {error}",
            hint="give the jar of Beam's job server for your version of Flink: --beam=--flink_job_server_jar=PATH",
        ) from None
    if shutil.which(command[0]) is None:
        raise ConfigError(
            f"--runner FlinkRunner: there is no program {command[0]!r} to run Beam's job server with",
            hint="install Java 17, or name it: --beam=--job_server_java_launcher=PATH",
        )
    return [str(word) for word in command], endpoint


def is_listening(endpoint: str, timeout_s: float = 5.0) -> bool:
    """Whether something accepts connections at HOST:PORT."""
    host, _, port = endpoint.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s).close()
    except (OSError, ValueError):
        return False
    return True


def read_end(log: Path) -> str:
    """The last line of a log that is not empty, cut to 300 characters."""
    lines = log.read_text("utf-8", "replace").split("\n") if log.is_file() else []
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "no output")
