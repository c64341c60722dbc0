"""Errors reported to the user.

ReelmillError           something stopped: what, where, what to do     exit 1
├── ConfigError         wrong usage or configuration, before any work  exit 2
├── StageError          a stage could not finish                       exit 1
│   └── SourceChanged   a medium is not what it was at ingest          exit 1
└── MissingExtra        an optional part is not installed              exit 2
BadSample               one input is bad: becomes a row, never stops the job
"""

from __future__ import annotations


class ReelmillError(Exception):
    """A failure explained to the user.

    what: what happened. where: file, line or URI. hint: what to do. `exit_code`: of the command.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        hint = f"\n  {self.hint}" if self.hint else ""
        return f"{where}{self.what}{hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.hint)


class ConfigError(ReelmillError):
    """The configuration or the command line is wrong; no work has begun."""

    exit_code = 2


class StageError(ReelmillError):
    """A stage could not finish."""


class SourceChanged(StageError):
    """A medium is not what it was at ingest."""


class MissingExtra(ReelmillError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    exit_code = 2

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed",
            hint=f'install it with: pip install -c constraints.txt -e ".[{extra}]"',
        )
        self._arguments = (package, extra, purpose)

    def __reduce__(self) -> tuple[object, ...]:
        return MissingExtra, self._arguments


#: Kinds of a sample's errors that are faults of the machine, of its memory or of the storage, and not of the sample:
#: they are never stored, count apart from failures, and the next run tries again.
ENVIRONMENT_KINDS = (
    *("changed", "killed", "memory", "unreadable", "watchdog"),  # when a medium is opened
    *("unavailable archive", "unavailable caption", "unavailable medium"),  # at ingest
)


def is_environment_error(error: str | None) -> bool:
    """Whether a sample's error, "kind: detail", is of one of ENVIRONMENT_KINDS."""
    return error is not None and error.partition(":")[0] in ENVIRONMENT_KINDS


class BadSample(Exception):
    """One input cannot be used. `kind` is a short stable word, `detail` describes the fault."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        return BadSample, (self.kind, self.detail)


def _rebuild(kind: type[ReelmillError], what: str, where: str, hint: str) -> ReelmillError:
    return kind(what, where=where, hint=hint)
