"""Lines on stderr, escaped: progress, errors, records of logging, tracebacks of bugs."""

from __future__ import annotations

import logging
import sys
import traceback
from types import TracebackType

from infra.errors import ReelmillError
from infra.terminal.escaping import escape_controls


def write_line(text: str) -> None:
    """Write one line on stderr."""
    sys.stderr.write(escape_controls(text) + "\n")
    sys.stderr.flush()


def write_error(error: ReelmillError) -> None:
    """Write an error on stderr: a line on what happened and where, and indented ones on what to do."""
    where = f"{error.where}: " if error.where else ""
    write_line(f"reelmill: {where}{error.what}")
    for line in error.hint.split("\n") if error.hint else ():
        write_line(f"  {line.strip()}")


class _EscapingFormatter(logging.Formatter):
    """Formats records of other libraries, which may contain names."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(super().format(record), "\n\t")


def protect_stderr() -> None:
    """Escape what Python itself writes on stderr for this process: records of logging, and tracebacks of bugs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_EscapingFormatter(logging.BASIC_FORMAT))
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    sys.excepthook = _write_traceback  # threads: of the process, set before any other runs
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter is no reason to stop
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _write_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(escape_controls("".join(traceback.format_exception(kind, error, trace)), "\n\t"))
