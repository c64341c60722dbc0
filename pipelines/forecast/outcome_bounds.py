"""Count outcomes under changed settings, at least and at most, beside those of the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters import resample as resampling
from filters.resample import NgramCounts
from infra.columns import Mask, equals, to_strings
from infra.media.interface import MODALITIES
from pipelines.core import tombstones
from pipelines.core.verdicts import ALIVE
from pipelines.forecast.duplicate_bounds import UnitMask, resampled_modalities, searched_modalities
from pipelines.forecast.rejudge import UNDECIDED, WhatIf

_NO_LIMIT = 2**31 - 1


@dataclass
class CountRange:
    """now: the run's count. low, high: bounds of the count under the changed settings."""

    now: int = 0
    low: int = 0
    high: int = 0

    def add(self, now: Mask, low: Mask, high: Mask) -> None:
        self.now += int(now.sum())
        self.low += int(low.sum())
        self.high += int(high.sum())

    def to_json(self) -> dict[str, Any]:
        return {"now": self.now, "then": [self.low, self.high]}


@dataclass
class OutcomeCounts:
    """Outcomes of one modality. gained, lost: samples that are certainly kept only then, and only now. undecided:
    samples by the filter or annotator whose cells are missing."""

    inputs: int = 0
    gained: int = 0
    lost: int = 0
    kept: CountRange = field(default_factory=CountRange)
    duplicates: CountRange = field(default_factory=CountRange)
    failed: CountRange = field(default_factory=CountRange)
    dropped: dict[str, CountRange] = field(default_factory=dict)
    undecided: dict[str, int] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        ranges = (self.kept, self.duplicates, self.failed, *self.dropped.values())
        return not self.undecided and all(range_.low == range_.high for range_ in ranges)

    def to_json(self, order: Sequence[str]) -> dict[str, Any]:
        names = sorted(self.dropped, key=lambda name: order.index(name) if name in order else len(order))
        return {
            "inputs": self.inputs,
            "kept": self.kept.to_json(),
            "gained": self.gained,
            "lost": self.lost,
            "dropped": {name: self.dropped[name].to_json() for name in names},
            "duplicates": self.duplicates.to_json(),
            "failed": self.failed.to_json(),
            "undecided": self.undecided,
        }


def count_outcomes(what_if: WhatIf, survivors: tuple[UnitMask, UnitMask]) -> dict[str, OutcomeCounts]:
    """Counts by modality, and of "all". survivors: what `find_survivors` returns."""
    bounds = _bound_frequencies(what_if, survivors)
    counts: dict[str, OutcomeCounts] = {}
    for name in what_if.names:
        unit = _read_unit(what_if, name, survivors, bounds)
        for kind, rows in _split_rows(unit.modality):
            unit.add_to(counts.setdefault(kind, OutcomeCounts()), rows, what_if)
    return {name: counts[name] for name in (*MODALITIES, "all") if name in counts}


def _split_rows(modality: NDArray[Any]) -> Iterator[tuple[str, Mask]]:
    for kind in sorted(set(modality.tolist())):
        yield kind, modality == kind
    yield "all", np.ones(len(modality), dtype=bool)


# -- resampling -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _FrequencyBounds:
    """Document frequencies of the survivors at their least and at their most, and the threshold t."""

    few: NgramCounts
    many: NgramCounts
    t: float


def _bound_frequencies(what_if: WhatIf, survivors: tuple[UnitMask, UnitMask]) -> dict[str, _FrequencyBounds]:
    """NgramCounts by resampled modality."""
    settings = what_if.resolved.resample
    bounds = {}
    for modality in () if settings is None else settings.modalities:
        least: list[NgramCounts] = []
        most: list[NgramCounts] = []
        undecided = 0
        for name in what_if.names:
            judged = what_if.judged(name)
            rows = equals(judged["modality"], modality)
            ids = what_if.signals(name)["ngrams.ids"]
            for parts, survives in zip((least, most), survivors, strict=True):
                parts.append(resampling.count_frequencies(ids.filter(pa.array(survives(name) & rows)), _NO_LIMIT))
            undecided += int((equals(judged["outcome"], UNDECIDED) & rows).sum())
        few, many = resampling.merge_frequencies(least), resampling.merge_frequencies(most)
        t = settings.compute_threshold(many.counts)
        if undecided:
            # Each undecided text might contain any n-gram; the rows that pass could then be thinned further.
            many = replace(many, counts=many.counts + undecided, texts=many.texts + undecided)
            if settings.t is None:
                what_if.notes.append(f"resample ({modality}): T is taken from the rows that certainly pass, {t:g}")
        bounds[modality] = _FrequencyBounds(few, many, float(t))
    return bounds


def _resample(what_if: WhatIf, name: str, survives: Mask, bounds: Mapping[str, _FrequencyBounds]) -> tuple[Mask, Mask]:
    """(low, high), bool (n,): of the surviving rows, those that resampling certainly and possibly keeps."""
    low, high = survives.copy(), survives.copy()
    settings = what_if.resolved.resample
    if settings is None or not survives.any():
        return low, high
    judged = what_if.judged(name)
    ids = what_if.signals(name)["ngrams.ids"]
    for modality, bound in bounds.items():
        rows = np.flatnonzero(survives & equals(judged["modality"], modality))
        take = pa.array(rows)
        keys = judged["key"].take(take).to_pylist()
        for kept, frequencies in ((low, bound.many), (high, bound.few)):
            chance = resampling.compute_keep_probability(
                ids.take(take), frequencies, bound.t, settings.rule, settings.unmatched
            )
            kept[rows] = resampling.draw_kept(keys, chance, what_if.run.config.seed)[0]
    return low, high


# -- counting ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _UnitOutcomes:
    """A unit's rows in the run (old_…) and under the changed settings; arrays (n,).

    single_…: survivors of the search for duplicates; kept_…: those that resampling keeps; at least and at most.
    """

    modality: NDArray[Any]
    old_outcome: NDArray[Any]
    old_filter: NDArray[Any]
    outcome: NDArray[Any]
    filter: NDArray[Any]
    single_low: Mask
    single_high: Mask
    kept_low: Mask
    kept_high: Mask

    def add_to(self, counts: OutcomeCounts, rows: Mask, what_if: WhatIf) -> None:
        """Add the outcomes of some rows to the counts of a modality."""
        undecided = (self.outcome == UNDECIDED) & rows
        counts.inputs += int(rows.sum())
        for name in self.filter[undecided].tolist():
            counts.undecided[name] = counts.undecided.get(name, 0) + 1
        was_kept = (self.old_outcome == "kept") & rows
        counts.kept.add(was_kept, self.kept_low & rows, (self.kept_high | undecided) & rows)
        counts.gained += int((self.kept_low & (self.old_outcome != "kept") & rows).sum())
        counts.lost += int((was_kept & ~self.kept_high & ~undecided).sum())
        failed = (self.outcome == "failed") & rows
        counts.failed.add((self.old_outcome == "failed") & rows, failed, failed | undecided)
        alive = (self.outcome == ALIVE) & rows
        maybe = undecided & np.isin(self.modality, searched_modalities(what_if))
        counts.duplicates.add(
            (self.old_outcome == "duplicate") & rows, alive & ~self.single_high, (alive & ~self.single_low) | maybe
        )
        self._add_drops(counts, rows, undecided, what_if)

    def _add_drops(self, counts: OutcomeCounts, rows: Mask, undecided: Mask, what_if: WhatIf) -> None:
        was_dropped = (self.old_outcome == "dropped") & rows
        resampled = resampled_modalities(what_if)
        if resampled or (self.old_filter[was_dropped] == "resample").any():
            counts.dropped.setdefault("resample", CountRange()).add(
                was_dropped & (self.old_filter == "resample"),
                self.single_low & ~self.kept_high & rows,
                (self.single_high & ~self.kept_low & rows) | (undecided & np.isin(self.modality, resampled)),
            )
        removed = (self.outcome == "dropped") & (self.filter == tombstones.FILTER) & rows
        if removed.any():  # taken down, whatever the settings
            counts.dropped.setdefault(tombstones.FILTER, CountRange()).add(removed, removed, removed)
        order = [filter_.name for filter_ in what_if.resolved.filters]
        positions = {name: position for position, name in enumerate(order)}
        # A row may still be dropped by the filter at which it is undecided, and by every later one.
        stop = np.array([positions.get(name, len(order)) for name in self.filter])
        for position, filter_ in enumerate(what_if.resolved.filters):
            dropped = (self.outcome == "dropped") & (self.filter == filter_.name) & rows
            reaches = undecided & (stop <= position) & np.isin(self.modality, sorted(filter_.modalities))
            counts.dropped.setdefault(filter_.name, CountRange()).add(
                was_dropped & (self.old_filter == filter_.name), dropped, dropped | reaches
            )


def _read_unit(
    what_if: WhatIf, name: str, survivors: tuple[UnitMask, UnitMask], bounds: Mapping[str, _FrequencyBounds]
) -> _UnitOutcomes:
    judged = what_if.judged(name)
    verdicts = what_if.run.read("verdicts", name, ["outcome", "filter"])
    single_low, single_high = (survives(name) for survives in survivors)
    return _UnitOutcomes(
        modality=to_strings(judged["modality"]),
        old_outcome=to_strings(verdicts["outcome"]),
        old_filter=to_strings(verdicts["filter"]),
        outcome=to_strings(judged["outcome"]),
        filter=to_strings(judged["filter"]),
        single_low=single_low,
        single_high=single_high,
        kept_low=_resample(what_if, name, single_low, bounds)[0],
        kept_high=_resample(what_if, name, single_high, bounds)[1],
    )
