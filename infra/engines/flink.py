"""Ask a Flink cluster by its REST interface: for its slots, and to cancel jobs that nobody waits for any more."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from infra.errors import ConfigError
from infra.hashing import fingerprint

#: States of a job that still has slots or asks for them.
_ACTIVE = frozenset({"INITIALIZING", "CREATED", "RUNNING", "FAILING", "CANCELLING", "RESTARTING", "SUSPENDED"})
TIMEOUT_S = 30.0
POLL_S = 0.5


@dataclass(frozen=True)
class Slots:
    """Tasks that a Flink cluster runs at once: `total`, and `each` of its largest task manager. 0: none is up yet."""

    total: int
    each: int


def find_master(options: Sequence[str]) -> str | None:
    """Address of the cluster that the options of Beam name, None where they name none."""
    master = read_option(options, "--flink_master")
    if master is None or master.startswith("["):
        return None
    return (master if "://" in master else f"http://{master}").rstrip("/")


def read_option(options: Sequence[str], name: str) -> str | None:
    """The last value of an option, given as `--name=value` or as two words."""
    value = None
    for option, following in zip(options, [*options[1:], ""], strict=False):
        key, equals, text = option.partition("=")
        if key == name:
            value = text if equals else following
    return value


def ask_slots(master: str) -> Slots:
    """Ask for the slots of every task manager. Raises ConfigError if the cluster does not answer."""
    counts = [int(manager["slotsNumber"]) for manager in _request(master, "taskmanagers")["taskmanagers"]]
    return Slots(sum(counts), max(counts, default=0))


def name_job(owner: str, job: str) -> str:
    """The name that a cluster shows for a job of the run `owner`: letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", f"reelmill {job} {fingerprint([owner])[:16]}")


def cancel_jobs_of(owner: str, options: Sequence[str]) -> None:
    """Cancel the jobs of the run `owner` on the cluster that the options name, and wait until their slots are free.

    Only a command that was killed, or whose job server was, leaves one behind: its tasks would go on and hold slots.
    """
    master = find_master(options)
    if not owner or master is None:
        return
    ending = name_job(owner, "").removeprefix("reelmill")
    while jobs := [
        job["jid"]
        for job in _request(master, "jobs/overview")["jobs"]
        if job["name"].startswith("reelmill-") and job["name"].endswith(ending) and job["state"] in _ACTIVE
    ]:
        for job in jobs:
            _request(master, f"jobs/{job}?mode=cancel", "PATCH")
        time.sleep(POLL_S)


def _request(master: str, path: str, method: str = "GET") -> Any:
    try:
        request = urllib.request.Request(f"{master}/{path}", method=method)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Flink cluster answers at {master}: {error}",
            hint="start it, or correct --beam=--flink_master=HOST:PORT (docs/clusters.md)",
        ) from None
