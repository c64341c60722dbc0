"""Read all tables of a run as one row per input, in the order of the run."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import tables
from infra.columns import to_floats, to_strings
from infra.commit import read_manifest
from infra.errors import StageError
from pipelines.core.finished_run import JudgedRun
from pipelines.core.run import Run
from pipelines.core.signals import read_signals

#: Signals that a sample's page does not show: too large, or for machines only.
_HIDDEN = ("key", "ngrams.ids", "minhash.exact", "overlay.boxes", "clean.text")


@dataclass(frozen=True)
class ReportRows:
    """samples, verdicts, signals: the same n rows in the same order; members, duplicates: tables of some keys.
    Threads: a report is written by one."""

    samples: pa.Table
    verdicts: pa.Table
    signals: pa.Table
    members: pa.Table
    duplicates: pa.Table

    def __len__(self) -> int:
        return int(self.samples.num_rows)

    @functools.cached_property
    def keys(self) -> list[str]:
        return list(self.samples["key"].to_pylist())

    @functools.cached_property
    def row_of(self) -> dict[str, int]:
        """key -> row"""
        return {key: row for row, key in enumerate(self.keys)}

    @functools.cached_property
    def outcome(self) -> NDArray[Any]:
        return to_strings(self.verdicts["outcome"])

    @functools.cached_property
    def stopped_by(self) -> NDArray[Any]:
        """object (n,): the filter or stage that stopped each row, "" for kept rows."""
        return to_strings(pc.fill_null(self.verdicts["filter"], ""))

    @functools.cached_property
    def modality(self) -> NDArray[Any]:
        return to_strings(self.samples["modality"])

    @functools.cached_property
    def texts(self) -> list[str]:
        """The cleaned text if there is one, otherwise the text of the source."""
        text = self.samples["text"]
        if "clean.text" in self.signals.schema.names:
            text = pc.coalesce(self.signals["clean.text"], text)
        return list(pc.fill_null(text, "").to_pylist())

    def read_number(self, column: str) -> NDArray[np.float64]:
        """float64 (n,): a numeric or bool signal, NaN where it was not measured."""
        return to_floats(self.signals[column])

    def read_words(self, column: str) -> list[str]:
        """A text signal, "" where it was not measured."""
        if column not in self.signals.schema.names:
            return [""] * len(self)
        return [word or "" for word in self.signals[column].to_pylist()]

    def numeric(self) -> list[str]:
        """Names of the numeric signals, in the order of measuring."""
        return [field.name for field in self.signals.schema if _is_number(field.type)]

    def shown(self) -> list[str]:
        """Names of the signals that a sample's page shows."""
        plain = [f.name for f in self.signals.schema if _is_number(f.type) or pa.types.is_string(f.type)]
        return [name for name in plain if name not in _HIDDEN]


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def read_rows(judged: JudgedRun) -> ReportRows:
    """Read a run's tables.

    Raises StageError if samples, signals and verdicts do not have the same rows.
    """
    run = judged.run
    samples, verdicts, signals = [], [], []
    for unit in judged.units:
        samples.append(run.read("samples", unit))
        verdicts.append(run.read("verdicts", unit))
        signals.append(read_signals(run, unit))
        if any(not samples[-1]["key"].equals(table["key"]) for table in (verdicts[-1], signals[-1])):
            raise StageError(
                f"samples, signals and verdicts of {unit} do not have the same rows",
                where=run.out,
                hint=f"`reelmill audit {run.out}` lists what was changed",
            )
    return ReportRows(
        _concat(samples, tables.SAMPLES),
        _concat(verdicts, tables.VERDICTS),
        _concat(signals, judged.resolved.schema((*judged.resolved.steps, *judged.resolved.late))),
        _concat(list(_iterate_stage(run, "members")), tables.MEMBERS),
        _concat(list(_iterate_stage(run, "duplicates")), tables.DUPLICATES),
    )


def iterate_dialogues(judged: JudgedRun) -> Iterator[dict[str, Any]]:
    """Rows of the dialogues table, unit by unit; none if the run has no dialogues."""
    for table in _iterate_stage(judged.run, "dialogues"):
        yield from table.to_pylist()


def _iterate_stage(run: Run, stage: str) -> Iterator[pa.Table]:
    manifest = read_manifest(run.at(stage))
    for unit in () if manifest is None else manifest.units:
        yield run.read(stage, unit.name)


def _concat(units: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    if not units:
        return tables.empty(schema)
    plain = [table.replace_schema_metadata(None) for table in units]
    return pa.concat_tables(plain, promote_options="default").combine_chunks()
