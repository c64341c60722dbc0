"""Progress on stderr: counts, rate and time left, read from what has been committed."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Seconds between two lines where stderr is no terminal.
LINE_EVERY_S = 15.0


@contextmanager
def watch(
    job: str,
    total: int,
    count: Callable[[], int],
    *,
    what: str,
    quiet: bool = False,
    note: Callable[[], str] | None = None,
) -> Iterator[None]:
    """Show how many of `total` `what` are done while the block runs; `count` looks at what is committed, `note` says
    what else there is to say of it."""
    if quiet or total <= 0:
        yield
        return
    start = time.monotonic()
    first = count()
    stop = threading.Event()
    if sys.stderr.isatty():
        show = _bar(job, total, first, what, count, stop, note)
    else:
        show = _lines(job, total, first, what, count, stop, note)
    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    finished = False
    try:
        yield
        finished = True
    finally:
        stop.set()
        thread.join()
        if finished:
            seconds = time.monotonic() - start
            new = total - first
            rate = f", {new / seconds:,.1f} {what}/s" if seconds > 0.5 and new else ""
            print(f"{job}: {total:,} {what} in {seconds:,.1f} s{rate}", file=sys.stderr)  # noqa: T201


def _bar(
    job: str,
    total: int,
    first: int,
    what: str,
    count: Callable[[], int],
    stop: threading.Event,
    note: Callable[[], str] | None,
) -> Callable[[], None]:
    def show() -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        begun = time.monotonic()
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(job, total=total, completed=first, rate="")
            while not stop.wait(0.5):
                done = count()
                rate = (done - first) / max(time.monotonic() - begun, 1e-6)
                bar.update(task, completed=done, rate=f"{rate:,.1f} {what}/s{_noted(note)}")

    return show


def _lines(
    job: str,
    total: int,
    first: int,
    what: str,
    count: Callable[[], int],
    stop: threading.Event,
    note: Callable[[], str] | None,
) -> Callable[[], None]:
    def show() -> None:
        begun = time.monotonic()
        while not stop.wait(LINE_EVERY_S):
            done = count()
            rate = (done - first) / (time.monotonic() - begun)
            left = f", {(total - done) / rate:,.0f} s left" if rate > 0 else ""
            print(f"{job}: {done:,} of {total:,} {what}, {rate:,.1f}/s{left}{_noted(note)}", file=sys.stderr)  # noqa: T201

    return show


def _noted(note: Callable[[], str] | None) -> str:
    said = "" if note is None else note()
    return f"; {said}" if said else ""
