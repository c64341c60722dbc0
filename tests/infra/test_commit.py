from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from infra import commit, storage
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


def test_damaged_json_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "_manifest.json").write_text("{")
    with pytest.raises(StageError, match=r"_manifest\.json.*not valid JSON"):
        commit.read_manifest(str(tmp_path))


def lock_file(tmp_path: Path, **fields: object) -> Path:
    path = tmp_path / ".lock"
    path.write_text(json.dumps(fields))
    return path


def test_the_lock_is_taken_and_released(tmp_path: Path) -> None:
    with commit.lock(str(tmp_path)):
        lock_fields = json.loads((tmp_path / ".lock").read_bytes())
        assert lock_fields["pid"] == os.getpid() and time.time() - lock_fields["time"] < 30
    assert not (tmp_path / ".lock").exists()
    with pytest.raises(KeyError), commit.lock(str(tmp_path)):
        raise KeyError
    assert not (tmp_path / ".lock").exists()


def test_a_live_process_keeps_others_out(tmp_path: Path) -> None:
    path = lock_file(tmp_path, host=socket.gethostname(), pid=os.getppid(), time=time.time())
    with pytest.raises(StageError, match=f"process {os.getppid()} .* is at work"), commit.lock(str(tmp_path)):
        pass
    lock_file(tmp_path, host="elsewhere", pid=1, time=time.time())
    with pytest.raises(StageError, match="elsewhere"), commit.lock(str(tmp_path)):
        pass
    assert path.exists()


@pytest.mark.parametrize("age", [commit.DEAD_AFTER_S + 1, 3600.0, -3600.0, None])
def test_the_lock_of_a_dead_process_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float | None
) -> None:
    monkeypatch.setattr(commit, "WATCH_S", 0.2)
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname() if age is None else "elsewhere"
    lock_file(tmp_path, host=host, pid=dead.pid, time=time.time() - (age or 0.0))
    with commit.lock(str(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_bytes())["pid"] == os.getpid()


@pytest.mark.parametrize("ahead", [-3600, 3600])
def test_a_live_process_with_another_clock_keeps_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.1)
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        content = json.dumps({"host": "elsewhere", "pid": 1, "time": float(int(time.time()) + ahead + beats)})
        storage.write_bytes(str(tmp_path / ".lock"), content.encode())

    beat()
    stop = threading.Event()

    def keep_beating() -> None:
        while not stop.wait(0.2):
            beat()

    thread = threading.Thread(target=keep_beating)
    thread.start()
    with pytest.raises(StageError, match="process 1 on elsewhere is at work"), commit.lock(str(tmp_path)):
        pass
    stop.set()
    thread.join()


def whole_lock() -> dict[str, object]:
    """The lock of a live process of this machine."""
    return {"host": socket.gethostname(), "pid": os.getppid(), "time": time.time()}


NO_LOCKS = [
    b"", b"\n", b"null", b"[]", b"5", b'"text"', b"{}", b"\xff\xfe", b"[" * 100_000, b'{"host": ',
    *(json.dumps({**whole_lock(), "pid": pid}).encode() for pid in (0, -1, "7", None, True, 1.5, 2**40, [])),
    *(json.dumps({**whole_lock(), "time": now}).encode() for now in ("now", None, -1, [], 1e300)),
    json.dumps({**whole_lock(), "host": 5}).encode(), json.dumps({**whole_lock(), "time": float("nan")}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("content", NO_LOCKS, ids=range(len(NO_LOCKS)))
def test_a_file_that_is_no_lock_is_taken_over(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".lock").write_bytes(content)
    with commit.lock(str(tmp_path)):
        assert json.loads((tmp_path / ".lock").read_bytes())["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()


def test_a_lock_cut_at_any_length_is_taken_over(tmp_path: Path) -> None:
    content = json.dumps(whole_lock()).encode()
    for length in range(len(content)):
        (tmp_path / ".lock").write_bytes(content[:length])
        with commit.lock(str(tmp_path)):
            pass


def test_a_folder_in_place_of_the_lock_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "nowhere")
    with commit.lock(str(tmp_path)):
        assert not (tmp_path / "nowhere").exists()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(StageError, match=r"\.lock: there is a folder"), commit.lock(str(tmp_path)):
        pass


def test_only_one_of_many_simultaneous_processes_gets_the_lock(tmp_path: Path) -> None:
    code = (
        "import sys, threading\nfrom infra import commit\nfrom infra.errors import StageError\n"
        "sys.stdin.readline()\n"
        "try:\n    with commit.lock(sys.argv[1]):\n        print('works', flush=True); sys.stdin.readline()\n"
        "except StageError:\n    print('refused', flush=True)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    outcomes = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        assert process.stdout is not None
        outcomes.append(process.stdout.readline().strip())
    for process in processes:
        process.communicate("\n")
    assert sorted(outcomes) == ["refused"] * 5 + ["works"]


def test_a_heartbeat_that_fails_is_followed_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.01)
    run = tmp_path / "run"
    with commit.lock(str(run)):
        while not run.is_file():  # a heartbeat may make the folder again in between
            shutil.rmtree(run, ignore_errors=True)
            with contextlib.suppress(IsADirectoryError):
                run.write_text("in the way of the folder")
        time.sleep(0.1)
        run.unlink()
        while not (run / ".lock").exists():
            time.sleep(0.01)


def test_the_lock_is_refreshed_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "HEARTBEAT_S", 0.01)
    with commit.lock(str(tmp_path)):
        (tmp_path / ".lock").unlink()
        deadline = time.monotonic() + 10
        while not (tmp_path / ".lock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
