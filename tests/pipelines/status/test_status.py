from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra import progress, storage
from infra.commit import lock
from infra.engines.share import Share
from infra.errors import StageError
from pipelines import cli, stages
from pipelines.core.at_work import note_unit
from pipelines.core.run import Run
from pipelines.measure import measure
from pipelines.status import status
from tests import corpus


@pytest.fixture
def run(tmp_path: Path) -> Run:
    corpus.write_corpus(tmp_path / "in")
    content = corpus.config(tmp_path / "in", tmp_path / "store", tmp_path / "run")
    path = corpus.write_config(tmp_path / "config.yaml", content)
    return stages.open_for_work(str(path), quiet=True)


def test_a_finished_stage_has_its_units_and_no_command(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageError, match="this is no run"):
        status.run(run.out)
    manifest = stages.run_stage(run, "ingest")
    assert manifest is not None
    got = status.run(run.out)
    assert got["command"] is None and got["units"] == []
    assert got["stages"] == [{"stage": "ingest", "units": len(manifest.units), "rows": manifest.rows, "again": []}]
    (job,) = got["jobs"]
    assert (job["job"], job["state"], job["done"]) == ("ingest", progress.DONE, job["total"]) and job["total"] > 0
    status.show(got)
    out = capsys.readouterr().out
    assert "no command holds this run" in out and "Finished stages" in out and "Units at work" not in out


def test_a_command_at_work_is_seen_by_another(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is asked for in the middle of a unit."""
    stages.run_stage(run, "ingest")
    seen: list[dict] = []
    measure_rows = measure.measure_rows

    def ask(run: Run, steps: tuple, name: str, *further: object) -> tuple:
        answer = CliRunner().invoke(cli.app, ["status", run.out, "--json"])
        assert answer.exit_code == 0, answer.output
        seen.append({**json.loads(answer.stdout), "measured": name})
        return measure_rows(run, steps, name, *further)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "measure_rows", ask)
    stages.run_stage(run, "measure")
    for answer in seen:
        assert answer["command"]["pid"] > 0 and answer["command"]["seconds"] < 60
        (unit,) = answer["units"]
        assert (unit["stage"], unit["unit"]) == ("measure", answer["measured"])
        assert {job["job"]: job["state"] for job in answer["jobs"]} == {"ingest": "done", "measure": "at work"}
    assert len(seen) > 1 and status.run(run.out)["units"] == []


def test_rate_and_time_left_follow_from_the_notes(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    now = int(time.time())
    note: Mapping[str, object] = {"job": "measure", "state": "at work", "total": 100, "done": 40, "first": 20,
                                  "what": "units", "begun": now - 20, "time": now - 10}  # fmt: skip
    storage.write_bytes(run.progress("measure"), json.dumps(note).encode())
    with lock(run.out), note_unit(run, "measure", "u00003"):
        got = status.run(run.out)
    (job,) = got["jobs"]
    assert (job["rate"], job["left"]) == (2.0, 30)
    status.show(got)
    out = capsys.readouterr().out
    assert "40 of 100 units" in out and "2.0/s" in out and "30 s" in out and "u00003" in out


def test_shares_are_told_apart(run: Run) -> None:
    from dataclasses import replace

    from infra.beam import Runner

    for number in (0, 1):
        stages.run_share(replace(run, runner=Runner(share=Share(number, 2))), "ingest")
    names = storage.list_names(run.work("progress"))
    assert names == ["ingest.0-of-2.json", "ingest.1-of-2.json"]


def test_a_job_that_fails_says_so(run: Run) -> None:
    uri = run.progress("measure")
    with pytest.raises(KeyError), progress.watch("measure", 5, lambda: 2, what="units", quiet=True, uri=uri):
        raise KeyError
    assert json.loads(storage.read_bytes(uri))["state"] == progress.STOPPED
