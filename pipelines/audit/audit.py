"""audit: cards against bytes. Whatever lies in a run or a mixture is held against what is told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infra import progress, storage
from infra.errors import ConfigError
from mixtures.shards.manifest import is_mixture
from pipelines.audit.audit_mixture import check_mixture
from pipelines.audit.audit_run import check_run, is_run
from pipelines.audit.files import AuditFiles
from pipelines.audit.findings import AuditFinding, AuditFindings

#: How deep below a folder runs and mixtures are looked for (ours).
DEPTH = 3

MIB = 2**20

#: Findings that a terminal is shown (ours).
ROWS = 40


@dataclass(frozen=True)
class AuditReport:
    """What came of one run or mixture. looked: how much was looked at; counts: findings by file and field."""

    uri: str
    kind: str
    looked: dict[str, int]
    findings: tuple[AuditFinding, ...]
    counts: tuple[dict[str, Any], ...]
    total: int

    @property
    def ok(self) -> bool:
        """Nothing was found."""
        return self.total == 0

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "dir": self.uri,
            "kind": self.kind,
            "ok": self.ok,
            "looked": self.looked,
            "findings": [finding.to_json() for finding in self.findings],
            "counts": list(self.counts),
            "total": self.total,
        }


def run(uri: str, *, deep: bool = False, quiet: bool = False) -> list[AuditReport]:
    """Audit a run, a mixture, or every one of them in a folder.

    deep: decode every medium of a run's tars and of a mixture's own too.
    Raises ConfigError where there is nothing to audit, StageError where it was written by another version.
    """
    places = find(uri)
    if not places:
        raise ConfigError(
            "neither a run nor a mixture", where=uri, hint="give the folder that `reelmill run` or `mix` wrote"
        )
    return [_audit(place, kind, deep, quiet) for place, kind in places]


def find(uri: str, depth: int = DEPTH) -> list[tuple[str, str]]:
    """(folder, "run" or "mixture") at or below a folder; what lies inside one is part of it."""
    if is_mixture(uri):
        return [(uri, "mixture")]
    if is_run(uri):
        return [(uri, "run")]
    if depth == 0:
        return []
    return [place for name in storage.list_folders(uri) for place in find(storage.join(uri, name), depth - 1)]


def _audit(uri: str, kind: str, deep: bool, quiet: bool) -> AuditReport:
    findings = AuditFindings()
    listing = [entry for entry in storage.list_files(uri) if not entry.path.startswith("work/")]
    files = AuditFiles(uri, findings, listing)
    total = sum(entry.size for entry in listing)
    try:
        with progress.watch("audit", -(-total // MIB), lambda: files.hashed // MIB, what="MiB", quiet=quiet):
            looked = check_mixture(files, deep) if kind == "mixture" else check_run(files, deep)
    finally:
        files.close()
    looked = {**looked, "files": len(listing), "bytes": total}
    return AuditReport(uri, kind, looked, tuple(findings.sorted()), tuple(findings.counts()), findings.total)


# -- for people -------------------------------------------------------------------------------------------------


def show(audits: list[AuditReport]) -> None:
    """A table of what was found in each."""
    from rich.table import Table
    from rich.text import Text

    from pipelines.core.console import open_console

    out = open_console()
    for one in audits:
        looked = ", ".join(f"{count:,} {name}" for name, count in one.looked.items())
        out.print(Text(f"{one.kind} {one.uri}: {looked}"), highlight=False)
        if one.ok:
            out.print(Text("every card, index and sum agrees with the bytes", style="green"))
            continue
        table = Table(title=f"{one.total:,} mismatches", title_justify="left")
        table.add_column("file, sample", no_wrap=True)
        for name in ("field", "expected", "found"):
            table.add_column(name, overflow="fold")
        for finding in one.findings[:ROWS]:
            place = f"{finding.file}\n{finding.key}".strip()
            cells = (place, finding.field, str(finding.expected), str(finding.found))
            table.add_row(*(Text(cell) for cell in cells))
        out.print(table)
        if one.total > ROWS:
            out.print(Text(f"and {one.total - min(ROWS, len(one.findings)):,} more; --json has them by file and field"))
