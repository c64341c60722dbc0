"""audit: verify every card, index and total of runs and mixtures against the actual bytes."""

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
from pipelines.core.console import print_table, print_text

#: Levels of folders that are searched for runs and mixtures (ours).
DEPTH = 3

MIB = 2**20

#: Findings printed on a terminal (ours).
MAX_PRINTED = 40


@dataclass(frozen=True)
class AuditReport:
    """Outcome of auditing one run or mixture. kind: "run" or "mixture"; looked: number of things checked, by name;
    counts: number of findings by file and field; total: number of findings, of which `findings` lists some."""

    uri: str
    kind: str
    looked: dict[str, int]
    findings: tuple[AuditFinding, ...]
    counts: tuple[dict[str, Any], ...]
    total: int

    @property
    def ok(self) -> bool:
        """Whether there are no findings."""
        return self.total == 0

    def to_json(self) -> dict[str, Any]:
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
    """Audit a run, a mixture, or all runs and mixtures in a folder.

    deep: also decode every medium in the tars of runs and materialized mixtures.
    Raises ConfigError if there is nothing to audit, StageError if another version of Reelmill wrote it.
    """
    folders = discover(uri)
    if not folders:
        raise ConfigError(
            "neither a run nor a mixture", where=uri, hint="give the folder that `reelmill run` or `mix` wrote"
        )
    return [_audit_folder(folder, kind, deep, quiet) for folder, kind in folders]


def discover(uri: str, depth: int = DEPTH) -> list[tuple[str, str]]:
    """(folder, "run" or "mixture") at or below `uri`; the inside of a run or mixture is not searched."""
    if is_mixture(uri):
        return [(uri, "mixture")]
    if is_run(uri):
        return [(uri, "run")]
    if depth == 0:
        return []
    return [entry for name in storage.list_folders(uri) for entry in discover(storage.join(uri, name), depth - 1)]


def _audit_folder(uri: str, kind: str, deep: bool, quiet: bool) -> AuditReport:
    findings = AuditFindings()
    listing = [entry for entry in storage.list_files(uri) if not entry.path.startswith("work/")]
    files = AuditFiles(uri, findings, listing)
    size = sum(entry.size for entry in listing)
    check = check_mixture if kind == "mixture" else check_run
    try:
        with progress.watch("audit", -(-size // MIB), lambda: files.hashed // MIB, what="MiB", quiet=quiet):
            looked = check(files, deep)
    finally:
        files.close()
    looked = {**looked, "files": len(listing), "bytes": size}
    return AuditReport(uri, kind, looked, tuple(findings.sorted()), tuple(findings.counts()), findings.total)


def show(reports: list[AuditReport]) -> None:
    """Print a table of findings for each run and mixture."""
    for report in reports:
        looked = ", ".join(f"{count:,} {name}" for name, count in report.looked.items())
        print_text(f"{report.kind} {report.uri}: {looked}")
        if report.ok:
            print_text("every card, index and total agrees with the actual bytes")
            continue
        columns = ("file, sample", "field", "expected", "found")
        rows = [
            (f"{finding.file}\n{finding.key}".strip(), finding.field, str(finding.expected), str(finding.actual))
            for finding in report.findings[:MAX_PRINTED]
        ]
        print_table(f"{report.total:,} mismatches", columns, rows, left_aligned=columns)
        if report.total > len(rows):
            print_text(f"and {report.total - len(rows):,} more; --json counts them by file and field")
