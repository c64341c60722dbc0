"""Samples that a fault of the machine or the storage kept from being read or measured: nothing of them was stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from infra import storage, tables
from infra.columns import Mask, equals, is_environment, is_valid
from infra.commit import need_manifest, read_json, read_manifest
from infra.errors import ENVIRONMENT_KINDS
from pipelines.core.run import Run
from pipelines.core.verdicts import ENVIRONMENT

#: Samples that are named in the message (ours).
MAX_NAMED = 5


@dataclass(frozen=True)
class EnvironmentFailures:
    """failed, unmeasured: number of failed samples, and of kept ones that `measure.late` could not measure, by kind of
    error; named: the first of them, with their reason."""

    failed: dict[str, int]
    unmeasured: dict[str, int]
    named: Sequence[str]

    @property
    def kinds(self) -> dict[str, int]:
        """Number of all these samples by kind of error."""
        return dict(sorted((Counter(self.failed) + Counter(self.unmeasured)).items()))


def find_failures(run: Run) -> EnvironmentFailures:
    """Read the verdicts of a run for samples that the environment failed, where the ledger says that there are any, and
    the tables of late measurements that the next run must make again."""
    failed, unmeasured, named = Counter[str](), Counter[str](), list[str]()
    if read_json(run.at("ledger.json"))["all"]["failed"].get(ENVIRONMENT):
        for unit in need_manifest(run.out, "verdicts").units:
            verdicts = run.read("verdicts", unit.name, ["filter", "reason"])
            mask = equals(verdicts["filter"], ENVIRONMENT)
            failed.update(_name_samples(run, unit.name, verdicts["reason"], mask, named))
    late = read_manifest(run.at("late"))
    for unit in () if late is None else late.units:
        footer = tables.read_footer(run.at("late", f"{unit.name}.parquet"))
        if footer is not None and footer[2]:
            signals = run.read("late", unit.name)
            errors = [c for c in signals.column_names if c.endswith(".error")]
            reasons = pc.coalesce(*(_name_environment_errors(signals, c) for c in errors))
            unmeasured.update(_name_samples(run, unit.name, reasons, is_valid(reasons), named))
    return EnvironmentFailures(dict(failed), dict(unmeasured), named)


def _name_environment_errors(signals: pa.Table, column: str) -> pa.ChunkedArray:
    """The errors of an annotator that are faults of the environment, with its name; null for other rows."""
    errors = signals[column]
    named = pc.binary_join_element_wise(column.removesuffix(".error"), errors, ": ")
    return pc.if_else(pa.array(is_environment(errors)), named, pa.scalar(None, pa.string()))


def _name_samples(run: Run, unit: str, reasons: pa.ChunkedArray, mask: Mask, named: list[str]) -> list[str]:
    """The kinds of the reasons of some rows of a unit; adds the rows' names to `named`, up to MAX_NAMED."""
    selected = reasons.filter(pa.array(mask)).to_pylist()
    if selected and len(named) < MAX_NAMED:
        samples = run.read("samples", unit, ["source", "container", "position"]).filter(pa.array(mask)).to_pylist()
        lines = [" ".join(filter(None, sample.values())) for sample in samples]
        named += [f"{line}: {reason}" for line, reason in zip(lines, selected, strict=True)][: MAX_NAMED - len(named)]
    return [kind_of_reason(reason) for reason in selected]


def request_ingest(run: Run, unit: str) -> None:
    """Make the next run read a unit's files again, whatever their size and time say: one of them has changed."""
    storage.remove(run.work("ingest", f"{unit}.json"))


def kind_of_reason(reason: str) -> str:
    """The kind of error in a verdict's reason, which the name of an annotator may precede."""
    return next(field for field in reason.split(": ") if field in ENVIRONMENT_KINDS)


def describe_failures(failures: EnvironmentFailures) -> list[str]:
    """Lines for a person; none if there are no such samples."""
    lines = []
    if changed := failures.kinds.get("changed", 0):
        lines.append(f"{changed:,} inputs changed while the run was at work: run the same command again")
    for counts, what in (
        (failures.failed, "inputs failed"),
        (failures.unmeasured, "kept samples lack what measure.late measures,"),
    ):
        others = {kind: count for kind, count in sorted(counts.items()) if kind != "changed"}
        if others:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in others.items())
            cause = f"for reasons of this machine or its storage ({kinds})"
            lines.append(f"{sum(others.values()):,} {what} {cause}: the next run tries them again")
    return [*lines, *(f"  {name}" for name in failures.named)]
