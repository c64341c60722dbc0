from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import commit
from infra.errors import StageError


def test_manifest_round_trip(tmp_path: Path) -> None:
    folder = str(tmp_path / "samples")
    assert commit.read_manifest(folder) is None
    units = [commit.Unit("u000000", 3, "aa"), commit.Unit("u000001", 4, "bb")]
    written = commit.write_manifest(folder, "samples", "ff", units)
    assert commit.read_manifest(folder) == written
    assert written.rows == 7 and written.units == tuple(units)


def test_a_stage_that_did_not_run_is_named_by_its_verb(tmp_path: Path) -> None:
    for stage, verb in (("samples", "ingest"), ("signals", "measure"), ("verdicts", "decide"), ("members", "export")):
        with pytest.raises(StageError, match=f"reelmill {verb}"):
            commit.need_manifest(str(tmp_path), stage)


def test_unit_names_count() -> None:
    assert commit.unit_name(12) == "u000012" and commit.unit_index("u000012") == 12
    assert commit.unit_index(commit.unit_name(1_234_567)) == 1_234_567


def test_damaged_json_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "_manifest.json").write_text("{")
    with pytest.raises(StageError, match=r"_manifest\.json.*not valid JSON"):
        commit.read_manifest(str(tmp_path))


def lock_file(tmp_path: Path, **held: object) -> Path:
    path = tmp_path / ".lock"
    path.write_text(json.dumps(held))
    return path


def test_the_lock_is_held_and_given_back(tmp_path: Path) -> None:
    with commit.lock(str(tmp_path)):
        held = json.loads((tmp_path / ".lock").read_bytes())
        assert held["pid"] == os.getpid() and time.time() - held["time"] < 30
    assert not (tmp_path / ".lock").exists()
    with pytest.raises(KeyError), commit.lock(str(tmp_path)):
        raise KeyError
    assert not (tmp_path / ".lock").exists()


def test_somebody_alive_keeps_others_out(tmp_path: Path) -> None:
    import socket

    path = lock_file(tmp_path, host=socket.gethostname(), pid=os.getppid(), time=time.time())
    with pytest.raises(StageError, match=f"process {os.getppid()} .* is at work"), commit.lock(str(tmp_path)):
        pass
    lock_file(tmp_path, host="elsewhere", pid=1, time=time.time())
    with pytest.raises(StageError, match="elsewhere"), commit.lock(str(tmp_path)):
        pass
    assert path.exists()


@pytest.mark.parametrize("age", [commit.DEAD_AFTER_S + 1, 0.0])
def test_the_dead_do_not(tmp_path: Path, age: float) -> None:
    import socket

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = "elsewhere" if age else socket.gethostname()
    lock_file(tmp_path, host=host, pid=dead.pid, time=time.time() - age)
    with commit.lock(str(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_bytes())["pid"] == os.getpid()


def test_a_torn_lock_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text('{"host": ')
    with commit.lock(str(tmp_path)):
        pass


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.01)
    with commit.lock(str(tmp_path)):
        (tmp_path / ".lock").unlink()
        deadline = time.monotonic() + 10
        while not (tmp_path / ".lock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
