"""Plan shards: assign a series and a weight to every row, and cut shards from the weights of all units.

RUN/work/export/UNIT.parquet has a unit's rows, RUN/work/export-layout.json the shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import storage, tables
from infra.columns import equals, to_ints, to_strings
from infra.commit import read_scratch, write_scratch
from infra.errors import StageError
from mixtures.shards import shards
from mixtures.shards.series import Series
from pipelines.core.run import Run
from pipelines.core.sample_media import media_root
from pipelines.core.signals import read_signals
from pipelines.export.samples import build_captions, list_suffixes

LAYOUT = "export-layout.json"

#: Largest sum of weights: they are added as int64.
MAX_WEIGHT = 2**62

#: weight: share of a shard's capacity that a row uses, 0 where it is not kept; caption: the text to train on.
PLAN = pa.schema(
    [
        ("series", pa.string()),
        ("weight", pa.int64()),
        ("bytes", pa.int64()),
        ("kept", pa.bool_()),
        ("caption", pa.string()),
    ]
)


def plan_unit(run: Run, stamp: str, unit: str) -> Mapping[str, int]:
    """Task: assign each row of a unit its series and weight."""
    uri = run.work("export", f"{unit}.parquet")
    if tables.is_intact(uri, stamp):
        return {}
    export = run.config.export
    samples, signals = run.read("samples", unit), read_signals(run, unit)
    captions = build_captions(run, signals)
    formats = _read_optional(signals, "facts.container")
    sizes = _read_optional(signals, "facts.bytes")
    series, row_bytes = [], []
    for sample, caption, media_format, size in zip(samples.to_pylist(), captions, formats, sizes, strict=True):
        suffixes = list_suffixes(sample, media_format)
        has_caption = bool(caption) and export.captions_txt
        series.append(str(Series.of_sample(sample["modality"], suffixes, has_caption=has_caption)))
        row_bytes.append(_media_bytes(run, sample, size) + len(caption.encode()))
    kept = equals(run.read("verdicts", unit, ["outcome"])["outcome"], "kept")
    total_bytes = np.array(row_bytes, dtype=np.int64)
    weight = shards.weigh_rows(total_bytes, kept, export.shard_bytes, export.shard_samples)
    columns = {"series": series, "weight": weight, "bytes": total_bytes, "kept": kept, "caption": captions}
    tables.write(uri, pa.table(columns, schema=PLAN), fingerprint=stamp)
    return {"rows": len(series)}


def _read_optional(signals: pa.Table, column: str) -> list[Any]:
    """Values of a column; all None where it was not measured."""
    return list(signals[column].to_pylist()) if column in signals.schema.names else [None] * signals.num_rows


def _media_bytes(run: Run, sample: Mapping[str, Any], measured: int | None) -> int:
    """Bytes of a sample's media. measured: facts.bytes; without it the sizes of whole local files are looked up."""
    media = sample["media"] or ()
    lengths = [medium["length"] for medium in media]
    if all(length >= 0 for length in lengths):
        return sum(lengths)
    if measured is not None and len(media) == 1:
        return int(measured)
    root = next(media_root(run, source) for source in run.config.sources if source.name == sample["source"])
    uris = [root.locate(medium["uri"]) for medium in media]
    return sum(storage.local_path(uri).stat().st_size for uri in uris if storage.is_local(uri) and storage.is_file(uri))


@dataclass(frozen=True)
class ExportPlan:
    """Layout of all shards. totals: series -> total weight; starts: unit -> series -> weight of all units before it."""

    layout: shards.ShardLayout
    totals: Mapping[str, int]
    starts: Mapping[str, Mapping[str, int]]

    @classmethod
    def read(cls, run: Run) -> ExportPlan | None:
        """The plan that `plan_layout` wrote; None where the file is missing or damaged."""
        plan = read_scratch(run.work(LAYOUT), "")
        if plan is None:
            return None
        layout = shards.ShardLayout(plan["capacity"], plan["first"], plan["used"])
        return cls(layout, plan["totals"], plan["starts"])

    @classmethod
    def need(cls, run: Run) -> ExportPlan:
        """The same, after `plan_layout`. Raises StageError instead of returning None."""
        plan = cls.read(run)
        if plan is None:
            hint = "run `reelmill export` again"
            raise StageError("the plan of the shards is missing or damaged", where=run.work(LAYOUT), hint=hint)
        return plan

    @property
    def used_series(self) -> list[str]:
        """Series with at least one shard."""
        return [series for series, stretches in self.layout.used.items() if stretches]

    def locate(self, shard: str) -> tuple[str, int]:
        """(series, index within the series) of a shard. Raises KeyError for an unknown name."""
        modality, _, number = shard.rpartition("-")
        for series, first in self.layout.first.items():
            index = int(number) - first
            if Series.parse(series).modality == modality and 0 <= index < len(self.layout.used[series]):
                return series, index
        raise KeyError(shard)

    def list_units(self, series: str, index: int) -> list[str]:
        """Units that may have rows in a shard, by the weights before and after them."""
        capacity, used = self.layout.capacity, self.layout.used[series]
        low = used[index] * capacity if index else 0
        high = used[index + 1] * capacity if index + 1 < len(used) else None
        units = sorted(self.starts)
        starts = [self.starts[unit].get(series, 0) for unit in units]
        ends = [*starts[1:], self.totals[series]]
        return [
            unit
            for unit, start, end in zip(units, starts, ends, strict=True)
            if end >= low and (high is None or start < high)
        ]

    def assign(self, unit: str, series: str, weight: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,): shard index of each of a unit's n rows of a series, kept or not. weight: their weights."""
        before = self.starts[unit].get(series, 0) + np.cumsum(weight) - weight
        return shards.assign_shards(before, self.layout.capacity, self.layout.used[series])


def plan_layout(run: Run, units: Sequence[str]) -> ExportPlan:
    """Sum the units' weights in order, and write and return the plan: a shard per span of weight with kept rows.

    Samples that are taken down later keep their weight in the plan, so that no shard moves.
    """
    capacity = shards.compute_capacity(run.config.export.shard_bytes, run.config.export.shard_samples)
    totals: dict[str, int] = {}
    starts: dict[str, dict[str, int]] = {}
    used: dict[str, set[int]] = {}
    for unit in units:
        plan = run.read_work("export", unit, ["series", "weight"])
        starts[unit] = dict(totals)
        series, weights = to_strings(plan["series"]), to_ints(plan["weight"])
        for name in sorted(set(series.tolist())):
            weight = weights[series == name]
            before = totals.get(name, 0) + np.cumsum(weight) - weight
            used.setdefault(name, set()).update((before[weight > 0] // capacity).tolist())
            totals[name] = totals.get(name, 0) + int(weight.sum())
            if totals[name] > MAX_WEIGHT:
                hint = "lower export.shard_samples, or split the sources among several runs"
                raise StageError(f"too much data of the series {name} for shards of this size", hint=hint)
    layout = shards.build_layout({name: sorted(stretches) for name, stretches in used.items()}, capacity)
    plan = {
        "capacity": capacity,
        "first": dict(layout.first),
        "used": dict(layout.used),
        "totals": totals,
        "starts": starts,
    }
    write_scratch(run.work(LAYOUT), "", plan)
    return ExportPlan(layout, totals, starts)
