"""A command that follows a process ends with it."""

from __future__ import annotations

import os
import subprocess
import sys

import psutil

from tests.infra.engines.test_boot import WAITING, start_parent


def test_its_exit_status_is_that_of_the_command() -> None:
    command = [
        sys.executable,
        "-m",
        "infra.engines.follow",
        str(os.getpid()),
        sys.executable,
        "-c",
        "raise SystemExit(3)",
    ]
    assert subprocess.run(command, check=False).returncode == 3


def test_the_command_ends_when_the_process_is_killed() -> None:
    follow = "import os, sys\nfrom infra.engines import follow\n"
    follow += f"sys.argv = ['follow', str(os.getppid()), sys.executable, '-c', {WAITING!r}]\nfollow.main()"
    parent, follower = start_parent("-c", follow)
    (command,) = follower.children()
    parent.kill()
    parent.wait()
    psutil.wait_procs([follower, command])
    assert not follower.is_running() and not command.is_running()
