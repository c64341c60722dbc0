"""Text for a terminal: names, captions and errors of strangers are shown, and never act on the terminal.

Every line that is printed for a person passes through here, directly or by `pipelines.core.console`.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from types import TracebackType

from infra.errors import ReelmillError

#: Control characters (C0, DEL, C1), separators of lines and paragraphs, characters that turn the direction of text, and
#: halves of surrogate pairs, which cannot be printed at all.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str, keep: str = "") -> str:
    r"""`text` with every character that a terminal might obey as \x1b or \u202e. keep: such characters that stay."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def escape_json(text: str) -> str:
    r"""JSON with the same characters as \u001b inside strings, which is the same JSON. Line breaks stay."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in "\n\t" else f"\\u{ord(match[0]):04x}", text)


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
    sys.excepthook = _write_traceback
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter is no reason to stop
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _write_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    sys.stderr.write(escape_controls("".join(traceback.format_exception(kind, error, trace)), "\n\t"))
