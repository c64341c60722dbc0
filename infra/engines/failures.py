"""Explain why a job failed, from what Beam and its engine say about it."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from infra import errors
from infra.errors import ReelmillError, StageError

AGAIN = "run the same command again: committed work is reused"

_TRACEBACK = "Traceback (most recent call last):"
#: Between the tracebacks of a chain of errors.
_BETWEEN = r"\n\s*\n(?:During handling of the above exception|The above exception was the direct cause)"
#: An error of ours in a worker's text, up to the next traceback.
_OURS = re.compile(rf"^infra\.errors\.(\w+): (.*?)(?={_BETWEEN}|\Z)", re.DOTALL | re.MULTILINE)
#: A line of a traceback about a place, with the code below it.
_FRAME = re.compile(r'^  File "([^"\n]+)", line \d+, in .*\n(?:    .*\n)*', re.MULTILINE)
#: What Beam adds to the message of an error.
_STEP = re.compile(r" \[while running '[^'\n]*'\]\s*")
#: What Flink says of a job whose task manager has died, and of one that gets no slots.
_LOST = re.compile(r"TaskManager with id|remote task manager|TaskExecutor|unreachable|disconnect", re.IGNORECASE)
_NO_SLOTS = re.compile(r"NoResourceAvailable|required resources", re.IGNORECASE)


def explain(job: str, error: BaseException) -> BaseException:
    """The error to raise for a failed job: the ReelmillError of a task, otherwise a StageError.

    A bug in a task is a StageError whose hint is the bug's traceback, without Beam's own frames.
    """
    if isinstance(error, KeyboardInterrupt):
        return error
    # Beam raises a copy without place and hint; the original is further down the chain of causes.
    original = None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ReelmillError):
            original = cause
        cause = cause.__cause__ or cause.__context__
    if original is not None:
        return original
    stage = _explain_text(job, error)
    stage.__cause__ = error
    return stage


def _explain_text(job: str, error: BaseException) -> ReelmillError:
    """The error for a job whose tasks ran in other processes, which report with text, or for a bug in this one."""
    import grpc

    text = str(error)
    if isinstance(error, grpc.RpcError):
        what = f"{job} stopped: Beam's job server ended or cannot be reached"
        return StageError(what, hint=f"{AGAIN}; a job server of your own must be up before")
    if _TRACEBACK not in text and not _is_message_of_engine(text):
        text = "".join(traceback.format_exception(error))
    if ours := find_own_error(text):
        return ours
    if _TRACEBACK in text:
        what, frames = find_bug(text)
        return StageError(f"{job} stopped: {what}", hint=frames)
    if _LOST.search(text):
        return StageError(
            f"{job} stopped: the engine lost some of its workers: {_first_line(text)}",
            hint=f"{AGAIN} (with a restart strategy in its configuration, Flink goes on by itself: docs/clusters.md)",
        )
    if _NO_SLOTS.search(text):
        return StageError(f"{job} stopped: the engine had no free slots for it: {_first_line(text)}", hint=AGAIN)
    return StageError(f"{job} stopped on the engine: {_first_line(text)}", hint=AGAIN)


def _is_message_of_engine(text: str) -> bool:
    return text.startswith("Pipeline ") or "java." in text


def find_own_error(text: str) -> ReelmillError | None:
    """The ReelmillError that a worker's text reports, as a person reads it: place and message are one string."""
    reports = [match for match in _OURS.finditer(text) if not _STEP.search(match[2])]
    for match in reversed(reports):
        kind = getattr(errors, match[1], StageError)
        what, _, hint = match[2].strip().partition("\n  ")
        return errors.ConfigError(what, hint=hint) if kind is errors.MissingExtra else kind(what, hint=hint)
    return None


def find_bug(text: str) -> tuple[str, str]:
    """(what a bug says, the traceback's places outside Beam) of the last traceback in a text."""
    last = re.split(_BETWEEN, text)[-1].rpartition(_TRACEBACK)[2]
    launcher = str(Path("infra", "beam.py"))
    frames = [m for m in _FRAME.finditer(last) if "apache_beam" not in m[1] and not m[1].endswith(launcher)]
    ends = [match.end() for match in _FRAME.finditer(last)]
    message = _STEP.split(last[ends[-1] :] if ends else last)[0]
    return " ".join(message.split())[:500], "".join(match[0] for match in frames).rstrip()


def _first_line(text: str) -> str:
    """The engine's own words in one line, without its number of the job."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "it says nothing")
    return re.sub(r"^Pipeline \S+ failed in state \w+: ", "", line)[:300]
