"""Workers of engines ask for their work and end with the process that started them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import psutil
import pytest
from apache_beam.portability.api import beam_provision_api_pb2 as provision
from apache_beam.portability.api import beam_provision_api_pb2_grpc as provision_grpc
from apache_beam.runners.job.utils import dict_to_struct

from infra.engines import boot

#: A program that says when it is up, and waits.
WAITING = "import time\nprint('up', flush=True)\ntime.sleep(1000)"


class ProvisionService(provision_grpc.ProvisionServiceServicer):  # type: ignore[misc]
    """Answers as an engine does."""

    def GetProvisionInfo(self, request: Any, context: Any) -> Any:
        self.asked_by = dict(context.invocation_metadata()).get("worker_id")
        info = provision.ProvisionInfo(runner_capabilities=["beam:x", "beam:y"])
        info.pipeline_options.CopyFrom(dict_to_struct({"beam:option:job_name:v1": "a"}))
        info.logging_endpoint.url = "localhost:1"
        info.control_endpoint.url = "localhost:2"
        return provision.GetProvisionInfoResponse(info=info)


@pytest.fixture
def service() -> Iterator[tuple[str, ProvisionService]]:
    server = grpc.server(ThreadPoolExecutor(1))
    servicer = ProvisionService()
    provision_grpc.add_ProvisionServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", servicer
    server.stop(None).wait()


def test_a_worker_asks_where_its_work_is(service: tuple[str, ProvisionService]) -> None:
    endpoint, servicer = service
    environment = boot.ask_for_work("3-1", endpoint)
    assert servicer.asked_by == "3-1"
    assert environment == {
        "PIPELINE_OPTIONS": '{"beam:option:job_name:v1": "a"}',
        "RUNNER_CAPABILITIES": "beam:x beam:y",
        "LOGGING_API_SERVICE_DESCRIPTOR": 'url: "localhost:1"\n',
        "CONTROL_API_SERVICE_DESCRIPTOR": 'url: "localhost:2"\n',
    }


def test_a_worker_that_is_told_nothing_says_how_it_is_used() -> None:
    process = subprocess.run([sys.executable, "-m", "infra.engines.boot"], capture_output=True, text=True, check=False)
    assert process.returncode == 2 and "--provision_endpoint" in process.stderr


def start_parent(*command: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """(a process that starts this Python with a command and does no more, the process that it started)."""
    parent = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)"
    )
    arguments = [sys.executable, "-c", parent, sys.executable, *command]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


def test_a_worker_ends_when_the_process_that_started_it_is_killed() -> None:
    watch = "import os\nfrom infra.engines import boot\nboot.end_with_parent(os.getppid(), lambda: os._exit(1))\n"
    parent, worker = start_parent("-c", watch + WAITING)
    parent.kill()
    parent.wait()
    psutil.wait_procs([worker])
    assert not worker.is_running()
