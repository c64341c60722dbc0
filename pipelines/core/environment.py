"""Samples that failed by a fault of the machine or the storage, and of which nothing was stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from infra import storage
from infra.columns import equals
from infra.commit import need_manifest, read_json
from infra.errors import ENVIRONMENT_KINDS
from pipelines.core.run import Run
from pipelines.core.verdicts import ENVIRONMENT

#: Samples that are named in the message (ours).
MAX_NAMED = 5


@dataclass(frozen=True)
class EnvironmentFailures:
    """kinds: number of samples by kind of error; named: the first of them, with their reason."""

    kinds: dict[str, int]
    named: Sequence[str]


def find_failures(run: Run) -> EnvironmentFailures:
    """Read the verdicts of a run for samples that the environment failed; the ledger says whether there are any."""
    kinds, named = Counter[str](), list[str]()
    if read_json(run.at("ledger.json"))["all"]["failed"].get(ENVIRONMENT):
        for unit in need_manifest(run.out, "verdicts").units:
            verdicts = run.read("verdicts", unit.name, ["filter", "reason"])
            mask = pa.array(equals(verdicts["filter"], ENVIRONMENT))
            reasons = verdicts["reason"].filter(mask).to_pylist()
            kinds.update(kind_of_reason(reason) for reason in reasons)
            if reasons and len(named) < MAX_NAMED:
                samples = run.read("samples", unit.name, ["source", "container", "position"]).filter(mask).to_pylist()
                for sample, reason in zip(samples, reasons, strict=True):
                    named.append(" ".join(filter(None, sample.values())) + f": {reason}")
    return EnvironmentFailures(dict(sorted(kinds.items())), named[:MAX_NAMED])


def request_ingest(run: Run, unit: str) -> None:
    """Make the next run read a unit's files again, whatever their size and time say: one of them has changed."""
    storage.remove(run.work("ingest", f"{unit}.json"))


def kind_of_reason(reason: str) -> str:
    """The kind of error in a verdict's reason, which the name of an annotator may precede."""
    return next(field for field in reason.split(": ") if field in ENVIRONMENT_KINDS)


def describe_failures(failures: EnvironmentFailures) -> list[str]:
    """Lines for a person; none if there are no such samples."""
    if not failures.kinds:
        return []
    changed = failures.kinds.get("changed", 0)
    others = sum(failures.kinds.values()) - changed
    lines = []
    if changed:
        lines.append(f"{changed:,} inputs changed while the run was at work: run the same command again")
    if others:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in failures.kinds.items() if kind != "changed")
        cause = f"for reasons of this machine or its storage ({kinds})"
        lines.append(f"{others:,} inputs failed {cause}: the next run tries them again")
    return [*lines, *(f"  {name}" for name in failures.named)]
