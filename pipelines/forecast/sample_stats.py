"""Statistics of the sampled rows of each modality, read from a run over the sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.columns import Mask, is_all_null, to_floats, to_strings
from pipelines.core.resolve import Resolved, ordered
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE
from pipelines.decide.decide import mask_survivors
from pipelines.decide.duplicates import duplicates
from pipelines.export.samples import preview_samples
from pipelines.forecast.item_sample import ItemSample, item_names


@dataclass
class SampleStats:
    """The sampled rows of one modality; arrays over n rows.

    total: items of the modality in the inventory. outcome, filter: as in RUN/work/judged. survives: passes its filters
    and is no duplicate of another. component: group of duplicates, -1 for none. bytes, tokens: what the row takes in
    shards, 0 where it is not alive. cost: proportional to the work of measuring it. ngram_ids: one array per unit.
    reached: rows by annotator that measured them. decoded: rows whose media were decoded.
    """

    total: int
    outcome: NDArray[Any] = field(default_factory=partial(np.zeros, 0, object))
    filter: NDArray[Any] = field(default_factory=partial(np.zeros, 0, object))
    keys: NDArray[Any] = field(default_factory=partial(np.zeros, 0, object))
    survives: Mask = field(default_factory=lambda: np.zeros(0, bool))
    component: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    bytes: NDArray[np.float64] = field(default_factory=partial(np.zeros, 0, np.float64))
    tokens: NDArray[np.float64] = field(default_factory=partial(np.zeros, 0, np.float64))
    cost: NDArray[np.float64] = field(default_factory=partial(np.zeros, 0, np.float64))
    ngram_ids: list[pa.Array] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)
    decoded: int = 0

    @property
    def n(self) -> int:
        return len(self.outcome)

    def append(self, columns: Mapping[str, NDArray[Any]], rows: Mask) -> None:
        """Append some rows of a unit's arrays."""
        for name, column in columns.items():
            setattr(self, name, np.concatenate([getattr(self, name), column[rows]]))


def collect_stats(run: Run, resolved: Resolved, names: Sequence[str], sample: ItemSample) -> dict[str, SampleStats]:
    """The statistics of each modality. Copies of sampled texts that only came along are left out."""
    stats: dict[str, SampleStats] = {modality: SampleStats(total) for modality, total in sample.totals.items()}
    for name in names:
        _collect_unit(run, resolved, name, sample, stats)
    return stats


def _collect_unit(
    run: Run, resolved: Resolved, name: str, sample: ItemSample, stats: Mapping[str, SampleStats]
) -> None:
    samples, signals, judged = run.read("samples", name), run.read("signals", name), run.read_work("judged", name)
    groups = duplicates.read_unit(run, name)
    modality = to_strings(samples["modality"])
    drawn = sample.contains(item_names(samples), modality)
    keys, outcome = to_strings(judged["key"]), to_strings(judged["outcome"])
    alive = np.flatnonzero(drawn & (outcome == ALIVE))
    sizes = np.zeros((len(keys), 2))
    if len(alive):
        sizes[alive] = preview_samples(run, name, alive.tolist())
    component = [groups[key]["component"] if key in groups else -1 for key in keys.tolist()]
    columns: dict[str, NDArray[Any]] = {
        "outcome": outcome,
        "filter": to_strings(judged["filter"]),
        "keys": keys,
        "survives": mask_survivors(judged, groups),
        "component": np.array(component, dtype=np.int64),
        "bytes": sizes[:, 0],
        "tokens": sizes[:, 1],
        "cost": _measuring_cost(samples, signals),
    }
    reached = {a: ~is_all_null(signals, [c for c, _ in resolved.columns(a)]) for a in ordered(resolved.steps)}
    pixels = [reached[a] for a in reached if resolved.annotators[a].input in ("stream", "frames")]
    for kind, entry in stats.items():
        rows = drawn & (modality == kind)
        entry.append(columns, rows)
        if resolved.resample is not None:
            entry.ngram_ids.append(signals["ngrams.ids"].filter(pa.array(rows)).combine_chunks())
        for annotator, mask in reached.items():
            entry.reached[annotator] = entry.reached.get(annotator, 0) + int((mask & rows).sum())
        if pixels:
            entry.decoded += int((np.logical_or.reduce(pixels) & rows).sum())


def _measuring_cost(samples: pa.Table, signals: pa.Table) -> NDArray[np.float64]:
    """float64 (n,): proportional to the work of a row: pixels (times seconds), else characters."""
    characters = to_floats(pc.utf8_length(samples["text"]), 0.0)
    if "facts.width" not in signals.schema.names:
        return characters
    width, height, seconds = (to_floats(signals[f"facts.{name}"], 0.0) for name in ("width", "height", "duration"))
    return np.where(width > 0, width * height * np.maximum(seconds, 1.0), characters)
