"""A Flink cluster on this machine, for tests and benchmarks: a job manager, task managers and Beam's job server.

`make flink` brings the engine and the job server into `.flink/`; REELMILL_FLINK names another such folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

#: What Flink's own start scripts give Java 17.
OPENED = (
    *("lang", "net", "io", "nio", "lang.reflect", "text", "time", "util"),
    *("util.concurrent", "util.concurrent.atomic", "util.concurrent.locks"),
)
JAVA_OPTIONS = [
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in OPENED),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-exports=java.base/sun.net.util=ALL-UNNAMED",
    "--add-exports=java.rmi/sun.rmi.registry=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
]
#: Without Flink's start scripts every size must be given.
MEMORY = {
    "jobmanager.memory.heap.size": "512m",
    "taskmanager.cpu.cores": "2.0",
    "taskmanager.memory.task.heap.size": "512m",
    "taskmanager.memory.task.off-heap.size": "128m",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.managed.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "512m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
}
#: A task manager that dies is noticed after seconds, and its job starts again.
RECOVERY = {
    "heartbeat.interval": "2000",
    "heartbeat.timeout": "12000",
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": "3",
    "restart-strategy.fixed-delay.delay": "2 s",
}


def find_flink() -> Path:
    """The folder with engine and job server; skips the test where they are missing."""
    folder = Path(os.environ.get("REELMILL_FLINK") or ROOT / ".flink")
    if shutil.which("java") is None:
        pytest.skip("no Java: Flink needs Java 17")
    if not job_server_jar(folder).exists() or not list(folder.glob("engine/pyflink/lib/flink-dist-*.jar")):
        pytest.skip("no Flink: `make flink` brings it (Maven and Java 17), and REELMILL_FLINK names another")
    return folder


def job_server_jar(folder: Path) -> Path:
    return folder / "flink-job-server.jar"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@dataclass
class FlinkCluster:
    """A running cluster. flink: folder of `make flink`. folder: configuration, logs and temporary files."""

    flink: Path
    folder: Path
    slots: int = 2
    rest_port: int = field(default_factory=free_port)
    rpc_port: int = field(default_factory=free_port)
    job_manager: subprocess.Popen[bytes] | None = None
    task_managers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    job_server: subprocess.Popen[bytes] | None = None
    job_port: int = 0
    count: int = 0

    @property
    def master(self) -> str:
        return f"127.0.0.1:{self.rest_port}"

    @property
    def jar(self) -> Path:
        return job_server_jar(self.flink)

    def start_job_manager(self) -> None:
        name = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
        self.job_manager = self._start_flink("job-manager", name, ["-Xmx512m"], [])
        self._wait_until(lambda: self.ask("overview") is not None, self.job_manager, "job-manager")

    def start_task_manager(self) -> None:
        """Start one more task manager and wait until the cluster has its slots."""
        self.count += 1
        name = f"task-manager-{self.count}"
        main = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
        heap = ["-Xmx640m", "-XX:MaxDirectMemorySize=512m", "-XX:MaxMetaspaceSize=512m"]
        process = self._start_flink(name, main, heap, ["-D", f"taskmanager.resource-id={name}"])
        self.task_managers.append(process)
        self._wait_until(
            lambda: name in [manager["id"] for manager in self.ask("taskmanagers")["taskmanagers"]], process, name
        )

    def wait_for_task_managers(self, count: int) -> None:
        """Wait until `count` task managers have come back to a new job manager."""
        while len(self.ask("taskmanagers")["taskmanagers"]) < count:
            time.sleep(0.2)

    def start_job_server(self) -> None:
        """Start Beam's job server at `job_port`."""
        self.job_port = free_port()
        command = ["java", "-Xmx512m", "-jar", str(self.jar), f"--flink-master={self.master}"]
        command += [f"--job-port={self.job_port}", "--artifact-port=0", "--expansion-port=0"]
        command += [f"--artifacts-dir={self.folder / 'artifacts'}"]
        self.job_server = self._start("job-server", command)
        self._wait_until(lambda: accepts(self.job_port), self.job_server, "job-server")

    def ask(self, path: str) -> Any:
        """The answer of the job manager's REST interface; None where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.master}/{path}", timeout=10) as answer:
                return json.load(answer)
        except OSError:
            return None

    def stop(self) -> None:
        """Kill everything, with the process groups of worker processes."""
        for process in [self.job_server, *self.task_managers, self.job_manager]:
            if process is not None:
                kill_group(process)

    def _start_flink(self, name: str, main: str, java: list[str], arguments: list[str]) -> subprocess.Popen[bytes]:
        folder = self.folder / name
        for name_of_folder in ("conf", "tmp"):
            (folder / name_of_folder).mkdir(parents=True, exist_ok=True)
        settings = {
            **MEMORY,
            **RECOVERY,
            "jobmanager.rpc.address": "127.0.0.1",
            "jobmanager.rpc.port": str(self.rpc_port),
            "rest.address": "127.0.0.1",
            "rest.bind-address": "127.0.0.1",
            "rest.port": str(self.rest_port),
            "taskmanager.host": "127.0.0.1",
            "taskmanager.numberOfTaskSlots": str(self.slots),
            "io.tmp.dirs": str(folder / "tmp"),
        }
        lines = "".join(f"{key}: {value}\n" for key, value in settings.items())
        (folder / "conf" / "flink-conf.yaml").write_text(lines)
        (folder / "conf" / "log4j.properties").write_text(LOG4J)
        log4j = f"-Dlog4j.configurationFile={folder / 'conf' / 'log4j.properties'}"
        libraries = f"{self.flink}/engine/pyflink/lib/*"
        command = ["java", *java, *JAVA_OPTIONS, log4j, "-cp", libraries, main, "-c", str(folder / "conf"), *arguments]
        return self._start(name, command)

    def _start(self, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def _wait_until(self, is_up: Any, process: subprocess.Popen[bytes], name: str) -> None:
        while not is_up():
            assert process.poll() is None, (self.folder / f"{name}.log").read_text()[-4000:]
            time.sleep(0.2)


LOG4J = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss,SSS} %-5p %c{1} %m%n
"""


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process with its group, which outlives it where it was killed before."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def run_cluster(
    folder: Path, *, task_managers: int = 2, slots: int = 2, job_server: bool = True
) -> Iterator[FlinkCluster]:
    """A cluster that ends with the block."""
    cluster = FlinkCluster(find_flink(), folder, slots)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        cluster.start_job_manager()
        for _ in range(task_managers):
            cluster.start_task_manager()
        if job_server:
            cluster.start_job_server()
        yield cluster
    finally:
        cluster.stop()
