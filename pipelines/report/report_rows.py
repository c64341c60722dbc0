"""What a run says of each of its samples, gathered: one row an input, in the order of the run."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage, tables
from infra.commit import read_manifest
from infra.errors import StageError
from pipelines.core.finished_run import JudgedRun
from pipelines.core.signals import read_signals

#: Signals that are no number, word or text to show: too large, or for machines only.
_HIDDEN = ("ngrams.ids", "minhash.exact", "overlay.boxes", "clean.text")


@dataclass(frozen=True)
class ReportRows:
    """samples, verdicts, signals: the same n rows in the same order; members, duplicates: by key, of some of them."""

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
    def place(self) -> dict[str, int]:
        """Row by key."""
        return {key: row for row, key in enumerate(self.keys)}

    @functools.cached_property
    def outcome(self) -> NDArray[Any]:
        return np.array(self.verdicts["outcome"].to_pylist(), dtype=object)

    @functools.cached_property
    def by(self) -> NDArray[Any]:
        """What stopped each row; "" for kept ones."""
        return np.array(pc.fill_null(self.verdicts["filter"], "").to_pylist(), dtype=object)

    @functools.cached_property
    def modality(self) -> NDArray[Any]:
        return np.array(self.samples["modality"].to_pylist(), dtype=object)

    @functools.cached_property
    def texts(self) -> list[str]:
        """The clean text where it was made, else the raw one."""
        clean = self.signals["clean.text"] if "clean.text" in self.signals.schema.names else None
        raw = self.samples["text"]
        found = raw if clean is None else pc.coalesce(clean, raw)
        return list(pc.fill_null(found, "").to_pylist())

    def number(self, column: str) -> NDArray[np.float64]:
        """A numeric or bool signal as float64 (n,), NaN where it was not measured."""
        return np.asarray(pc.fill_null(pc.cast(self.signals[column], pa.float64()), float("nan")), dtype=np.float64)

    def numeric(self) -> list[str]:
        """Names of the signals that are numbers, in the order of measuring."""
        return [field.name for field in self.signals.schema if _is_number(field.type)]

    def shown(self) -> list[str]:
        """Names of the signals that a page of one sample shows."""
        plain = [f.name for f in self.signals.schema if _is_number(f.type) or pa.types.is_string(f.type)]
        return [name for name in plain if name != "key" and name not in _HIDDEN]


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def gather(finished: JudgedRun) -> ReportRows:
    """Read a run's tables.

    Raises StageError where samples, signals and verdicts are not of the same rows.
    """
    run = finished.run
    samples, verdicts, signals = [], [], []
    for name in finished.units:
        sample = tables.read(run.at("samples", f"{name}.parquet"))
        verdict = tables.read(run.at("verdicts", f"{name}.parquet"))
        signal = read_signals(run, name)
        if not sample["key"].equals(verdict["key"]) or not sample["key"].equals(signal["key"]):
            raise StageError(
                f"samples, signals and verdicts of {name} are not of the same rows",
                where=run.out,
                hint=f"`reelmill audit {run.out}` names what was changed",
            )
        samples.append(sample)
        verdicts.append(verdict)
        signals.append(signal)
    return ReportRows(
        _joined(samples, tables.SAMPLES),
        _joined(verdicts, tables.VERDICTS),
        _joined(signals, pa.schema([("key", pa.string())])),
        _stage(finished, "members", tables.MEMBERS),
        _stage(finished, "duplicates", tables.DUPLICATES),
    )


def _stage(finished: JudgedRun, stage: str, schema: pa.Schema) -> pa.Table:
    manifest = read_manifest(finished.run.at(stage))
    names = [] if manifest is None else [unit.name for unit in manifest.units]
    return _joined([tables.read(finished.run.at(stage, f"{name}.parquet")) for name in names], schema)


def _joined(parts: Sequence[pa.Table], schema: pa.Schema) -> pa.Table:
    if not parts:
        return tables.empty(schema)
    plain = [part.replace_schema_metadata(None) for part in parts]
    return pa.concat_tables(plain, promote_options="default").combine_chunks()


def dialogues(finished: JudgedRun) -> Iterator[dict[str, Any]]:
    """Rows of the dialogues table, one unit after another; none where no dialogues were asked for."""
    folder = finished.run.at("dialogues")
    manifest = read_manifest(folder)
    for unit in () if manifest is None else manifest.units:
        yield from tables.read(storage.join(folder, f"{unit.name}.parquet")).to_pylist()
