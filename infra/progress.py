"""Progress on stderr: counts, rate and remaining time, from the committed work."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from infra.terminal import escape_controls, write_line

#: Seconds between two lines where stderr is no terminal.
LINE_EVERY_S = 15.0


@dataclass
class _WatchedJob:
    """A job whose progress is polled. first: count before it began."""

    job: str
    total: int
    what: str
    count: Callable[[], int]
    note: Callable[[], str] | None
    first: int = 0
    begun: float = field(default_factory=time.monotonic)
    stop: threading.Event = field(default_factory=threading.Event)

    def rate(self, done: int) -> float:
        return (done - self.first) / max(time.monotonic() - self.begun, 1e-6)

    def format_note(self) -> str:
        note = "" if self.note is None else self.note()
        return f"; {note}" if note else ""

    def show_bar(self) -> None:
        """Update a bar on a terminal until stopped."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(self.job, total=self.total, completed=self.first, rate="")
            while not self.stop.wait(0.5):
                done = self.count()
                bar.update(
                    task,
                    completed=done,
                    rate=f"{self.rate(done):,.1f} {self.what}/s{escape_controls(self.format_note())}",
                )

    def print_lines(self) -> None:
        """Print lines to a file or a pipe until stopped."""
        while not self.stop.wait(LINE_EVERY_S):
            done = self.count()
            rate = self.rate(done)
            remaining = f", {(self.total - done) / rate:,.0f} s left" if rate > 0 else ""
            write_line(
                f"{self.job}: {done:,} of {self.total:,} {self.what}, {rate:,.1f}/s{remaining}{self.format_note()}"
            )

    def print_summary(self) -> None:
        seconds = time.monotonic() - self.begun
        new = self.total - self.first
        rate = f", {new / seconds:,.1f} {self.what}/s" if seconds > 0.5 and new else ""
        write_line(f"{self.job}: {self.total:,} {self.what} in {seconds:,.1f} s{rate}")


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
    """Show how many of `total` `what` are done while the block runs. `count` counts the committed ones, `note` adds a
    remark."""
    if quiet or total <= 0:
        yield
        return
    watched = _WatchedJob(job, total, what, count, note)
    watched.first = count()
    thread = threading.Thread(target=watched.show_bar if sys.stderr.isatty() else watched.print_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        watched.stop.set()
        thread.join()
    watched.print_summary()
