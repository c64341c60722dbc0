from __future__ import annotations

import io
import sys
import time

import pytest

from infra import progress


def test_a_line_at_the_end_says_how_many_how_fast(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.watch("measure", 1200, lambda: 0, what="units"):
        pass
    out = capsys.readouterr()
    assert out.out == "" and out.err.startswith("measure: 1,200 units in 0.")


def test_quiet_or_nothing_to_do_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.watch("measure", 5, lambda: 0, what="units", quiet=True):
        pass
    with progress.watch("measure", 0, lambda: 0, what="units"):
        pass
    assert capsys.readouterr() == ("", "")


def test_progress_lines_give_rate_and_remaining_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.05)
    begun = time.monotonic()
    with progress.watch("ingest", 100, lambda: 10 if time.monotonic() - begun < 0.01 else 60, what="units"):
        time.sleep(0.4)
    lines = capsys.readouterr().err.splitlines()
    assert any("60 of 100 units" in line and "/s, " in line and line.endswith(" s left") for line in lines[:-1])


def test_a_job_that_fails_is_not_reported_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), progress.watch("ingest", 5, lambda: 0, what="units"):
        raise KeyError
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with progress.watch("ingest", 5, lambda: 3, what="units"):
        time.sleep(0.8)
    assert "ingest" in screen.getvalue() and "3/5" in screen.getvalue()
