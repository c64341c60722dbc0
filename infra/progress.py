"""Progress on stderr, and in a file for others: counts, rate and remaining time, from the committed work."""

from __future__ import annotations

import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from infra import storage
from infra.errors import StageError
from infra.hashing import canonical_json
from infra.terminal import escape_controls, write_line

#: Seconds between two lines where stderr is no terminal.
LINE_EVERY_S = 15.0
#: Seconds between two notes in a file.
NOTE_EVERY_S = 5.0

#: States of a job in its file.
AT_WORK, DONE, STOPPED = "at work", "done", "stopped"


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

    def write_notes(self, uri: str) -> None:
        """Write the count to a file until stopped."""
        self.write_note(uri, AT_WORK)
        while not self.stop.wait(NOTE_EVERY_S):
            self.write_note(uri, AT_WORK)

    def write_note(self, uri: str, state: str) -> None:
        """Write a JSON object: job, state, total, done, first (what was done when it began), what, and two times in
        seconds since 1970: begun, and time of the note."""
        seconds = time.monotonic() - self.begun
        note = {"job": self.job, "state": state, "total": self.total, "done": self.count(), "first": self.first,
                "what": self.what, "begun": int(time.time() - seconds), "time": int(time.time())}  # fmt: skip
        with suppress(OSError, StageError):  # the work goes on without it
            storage.write_bytes(uri, canonical_json(note))

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
    uri: str | None = None,
) -> Iterator[None]:
    """Show how many of `total` `what` are done while the block runs. `count` counts the committed ones, `note` adds a
    remark. uri: a file that says the same, `quiet` or not."""
    if (quiet and uri is None) or total <= 0:
        yield
        return
    watched = _WatchedJob(job, total, what, count, note)
    watched.first = count()
    targets: list[Callable[[], None]] = []
    if not quiet:
        targets.append(watched.show_bar if sys.stderr.isatty() else watched.print_lines)
    if uri is not None:
        targets.append(functools.partial(watched.write_notes, uri))
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    state = STOPPED
    try:
        yield
        state = DONE
    finally:
        watched.stop.set()
        for thread in threads:
            thread.join()
        if uri is not None:
            watched.write_note(uri, state)
    if not quiet:
        watched.print_summary()
