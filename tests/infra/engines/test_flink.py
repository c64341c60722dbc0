"""Questions to a Flink cluster, here to what answers like one."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.engines.flink import Slots, ask_slots, cancel_jobs_of, find_master, name_job, read_option
from infra.errors import ConfigError


@contextmanager
def serve_cluster(*slots: int, jobs: dict[str, list[str]] | None = None) -> Iterator[str]:
    """HOST:PORT of what answers like a Flink cluster. slots: of its task managers. jobs: [name, state] by id."""
    jobs = jobs or {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers = {
                "/taskmanagers": {"taskmanagers": [{"slotsNumber": count} for count in slots]},
                "/jobs/overview": {
                    "jobs": [{"jid": jid, "name": name, "state": state} for jid, (name, state) in jobs.items()]
                },
            }
            self.answer(answers.get(self.path))
            for job in jobs.values():
                job[1] = job[1].replace("CANCELLING", "CANCELED")

        def do_PATCH(self) -> None:
            jid = self.path.removeprefix("/jobs/").removesuffix("?mode=cancel")
            jobs[jid][1] = jobs[jid][1].replace("RUNNING", "CANCELLING")
            self.answer({})

        def answer(self, content: object) -> None:
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_slots_are_counted() -> None:
    with serve_cluster(2, 3) as master:
        assert ask_slots(f"http://{master}") == Slots(5, 3)
    with serve_cluster() as master:
        assert ask_slots(f"http://{master}") == Slots(0, 0)
    with pytest.raises(ConfigError, match=f"no Flink cluster answers at http://{master}: .*\n  start it"):
        ask_slots(f"http://{master}")


def test_what_is_no_cluster_is_named() -> None:
    with serve_cluster() as master, pytest.raises(ConfigError, match=r"no Flink cluster answers at .*404"):
        ask_slots(f"http://{master}/elsewhere")


def test_jobs_that_a_run_left_behind_are_cancelled_and_no_others() -> None:
    mine, other = name_job("s3://b/run 1", "look up vectors"), name_job("s3://b/run 2", "measure")
    jobs = {"a": [mine, "RUNNING"], "b": [other, "RUNNING"], "c": [mine, "FINISHED"], "d": ["x", "RUNNING"]}
    with serve_cluster(jobs=jobs) as master:
        cancel_jobs_of("", [f"--flink_master={master}"])
        cancel_jobs_of("s3://b/run 1", [])
        assert jobs["a"][1] == "RUNNING"
        cancel_jobs_of("s3://b/run 1", [f"--flink_master={master}"])
    assert {jid: job[1] for jid, job in jobs.items()} == {
        "a": "CANCELED",
        "b": "RUNNING",
        "c": "FINISHED",
        "d": "RUNNING",
    }
    assert re.fullmatch(r"reelmill-look-up-vectors-[0-9a-f]{16}", mine)


def test_options_are_read_in_both_forms_and_the_last_counts() -> None:
    words = ["--a=1", "--b", "2", "--a", "3=4", "--c"]
    assert [read_option(words, name) for name in ("--a", "--b", "--c", "--d")] == ["3=4", "2", "", None]


def test_a_master_is_an_address_or_none() -> None:
    assert find_master(["--flink_master=host:8081"]) == "http://host:8081"
    assert find_master(["--flink_master", "https://host/"]) == "https://host"
    assert find_master(["--flink_master=[auto]"]) is None and find_master([]) is None
