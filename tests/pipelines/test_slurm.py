"""A run as Slurm arrays, by a stand-in for sbatch that runs each job at once as Slurm would, in its own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.beam import Runner
from pipelines import stages
from tests.pipelines import test_threads

SUBMIT = Path(__file__).parents[2] / "infra" / "deploy" / "slurm" / "submit.sh"

#: Runs the command of a job for each number of its array, unless a job that it depends on has failed; prints the job's
#: number as `--parsable` does. What ran is in jobs.jsonl of the folder SBATCH_JOBS.
SBATCH = f"""#!{sys.executable}
import argparse, json, os, pathlib, subprocess, sys
parser = argparse.ArgumentParser()
for name in ("job-name", "kill-on-invalid-dep", "dependency", "array", "cpus-per-task", "wrap"):
    parser.add_argument("--" + name)
for name in ("parsable", "requeue"):
    parser.add_argument("--" + name, action="store_true")
job = parser.parse_args()
notes = pathlib.Path(os.environ["SBATCH_JOBS"]) / "jobs.jsonl"
before = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
dependency = (job.dependency or "").removeprefix("afterok:")
status = None
if not dependency or before[int(dependency)]["status"] == 0:
    first, _, last = (job.array or "0-0").partition("-")
    variables = dict(os.environ, SLURM_CPUS_PER_TASK=job.cpus_per_task or "1")
    runs = []
    for number in range(int(first), int(last) + 1):
        own = dict(variables, SLURM_ARRAY_TASK_ID=str(number))
        runs.append(subprocess.Popen(["bash", "-c", job.wrap], env=own, stdout=subprocess.DEVNULL))
    status = max(run.wait() for run in runs)
note = dict(name=job.job_name, status=status, array=job.array)
notes.open("a").write(json.dumps(note) + "\\n")
print(f"{{len(before)}};cluster")
"""


def submit(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[dict[str, object]]]:
    """Submit a run; returns how that ended, and the jobs that Slurm got."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "sbatch").write_text(SBATCH)
    (tools / "reelmill").write_text(f'#!/bin/sh\nexec {sys.executable} -m pipelines.cli "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    variables = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "SBATCH_JOBS": str(folder),
                 "PYTHONPATH": str(SUBMIT.parents[3])}  # fmt: skip
    ended = subprocess.run([str(SUBMIT), *arguments], env=variables, capture_output=True, text=True, check=False)
    notes = folder / "jobs.jsonl"
    return ended, [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []


def test_a_run_of_arrays_has_the_bytes_of_one_command(tmp_path: Path) -> None:
    root = test_threads.write_corpus(tmp_path / "in")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
    stages.run_all(test_threads.open_run(root, whole, Runner()))
    test_threads.open_run(root, parts, Runner())
    ended, jobs = submit(parts, str(parts / "config.yaml"), "2", "--cpus-per-task=1")
    assert ended.returncode == 0, ended.stderr
    assert [(job["name"], job["status"], job["array"]) for job in jobs] == [
        (f"reelmill-{name}", 0, "0-1" if name in stages.SHARED else None)
        for stage in stages.STAGES
        for name in ([stage, f"{stage}-finish"] if stage in stages.SHARED else [stage])
    ]
    assert (whole / "run" / "checksums.json").read_bytes() == (parts / "run" / "checksums.json").read_bytes()


def test_after_a_failed_job_none_that_depends_on_it_runs(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("name: broken\nsources: []\n")
    ended, jobs = submit(tmp_path, str(config), "1")
    assert ended.returncode == 0 and jobs[0]["status"] == 2
    assert {job["status"] for job in jobs[1:]} == {None}


@pytest.mark.parametrize("arguments", [[], ["config.yaml"], ["config.yaml", "none"], ["config.yaml", "0"]])
def test_wrong_arguments_are_explained(tmp_path: Path, arguments: list[str]) -> None:
    ended, jobs = submit(tmp_path, *arguments)
    assert ended.returncode == 2 and "submit.sh CONFIG SHARES" in ended.stderr and not jobs
