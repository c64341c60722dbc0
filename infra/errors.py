"""The errors a person meets.

ReelmillError           something stopped; what, where, what to do     exit 1
├── ConfigError         wrong usage or configuration, before any work  exit 2
├── StageError          a stage could not finish                       exit 1
└── MissingExtra        an optional part is not installed              exit 2
BadSample               one input is bad: becomes a row, never stops the job
"""

from __future__ import annotations


class ReelmillError(Exception):
    """A failure that is explained to the person: what happened, where, and what to do."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        hint = f"\n  {self.hint}" if self.hint else ""
        return f"{place}{self.what}{hint}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.hint)


class ConfigError(ReelmillError):
    """The configuration or the command line is wrong; nothing has been started."""

    exit_code = 2


class StageError(ReelmillError):
    """A stage could not finish."""


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


class BadSample(Exception):
    """One input cannot be used. `kind` is a short stable word, the message says what was seen."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind = kind
        self.detail = detail

    def __reduce__(self) -> tuple[object, ...]:
        return BadSample, (self.kind, self.detail)


def _rebuild(kind: type[ReelmillError], what: str, where: str, hint: str) -> ReelmillError:
    return kind(what, where=where, hint=hint)
