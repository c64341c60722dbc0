"""Start one worker process of an engine, as Beam's container contract describes it: the command `reelmill-worker`.

An engine gives `--id=ID --provision_endpoint=HOST:PORT`; that service answers where the worker finds its work. Code
comes from the installed package only: artifacts of a job are not fetched.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Callable

#: Seconds between two looks at the parent process, and for an answer of the provision service (ours).
PARENT_POLL_S, PROVISION_TIMEOUT_S = 1.0, 60.0


def main() -> None:
    """Entry point of the console script."""
    parser = argparse.ArgumentParser(prog="reelmill-worker", description="A worker of a Beam engine, started by it.")
    parser.add_argument("--id", required=True, help="name of this worker")
    parser.add_argument("--provision_endpoint", required=True, help="HOST:PORT of the engine's provision service")
    for name in ("logging", "artifact", "control"):
        parser.add_argument(f"--{name}_endpoint", help="unused: the provision service gives it")
    parser.add_argument("--semi_persist_dir", default="/tmp", help="folder for temporary files")
    arguments = parser.parse_args()
    end_with_parent(os.getppid(), lambda: os._exit(1))
    # One thread per process in every library, set before numpy loads.
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")  # threads: only the watch above is running
    # Before Beam's modules are imported, which read it then. Threads: as above.
    os.environ["WORKER_ID"] = arguments.id
    os.environ.update(ask_for_work(arguments.id, arguments.provision_endpoint))
    os.environ["SEMI_PERSISTENT_DIRECTORY"] = arguments.semi_persist_dir  # threads: as above
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv)


def end_with_parent(parent: int, end: Callable[[], object]) -> None:
    """Call `end` soon after the process `parent`, which started this one, has died: its workers would be orphans.

    Linux's parent-death signal is no help: it comes when the thread that started this process ends, and the threads of
    an engine end with each of its tasks.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        end()

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def ask_for_work(worker: str, endpoint: str) -> dict[str, str]:
    """Ask the provision service; returns the environment variables of Beam's worker."""
    import grpc
    from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
    from apache_beam.runners.job.utils import struct_to_dict
    from apache_beam.runners.worker.channel_factory import GRPCChannelFactory
    from apache_beam.runners.worker.worker_id_interceptor import WorkerIdInterceptor

    channel = grpc.intercept_channel(GRPCChannelFactory.insecure_channel(endpoint), WorkerIdInterceptor(worker))
    service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
    request = beam_provision_api_pb2.GetProvisionInfoRequest()
    info = service.GetProvisionInfo(request, timeout=PROVISION_TIMEOUT_S, wait_for_ready=True).info
    endpoints = {"LOGGING": info.logging_endpoint, "CONTROL": info.control_endpoint, "STATUS": info.status_endpoint}
    return {
        "PIPELINE_OPTIONS": json.dumps(struct_to_dict(info.pipeline_options)),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        **{f"{name}_API_SERVICE_DESCRIPTOR": str(address) for name, address in endpoints.items() if address.url},
    }


if __name__ == "__main__":
    main()
