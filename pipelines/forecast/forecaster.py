"""Forecast one modality, and the hours of a whole run, from the statistics of a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters import resample as resampling
from infra.columns import Mask
from infra.commit import read_json
from pipelines.core.resolve import Resolved, ordered
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE
from pipelines.forecast import estimates
from pipelines.forecast.estimates import Estimate
from pipelines.forecast.full_texts import FullTexts
from pipelines.forecast.item_sample import ItemSample
from pipelines.forecast.sample_stats import SampleStats

#: Least relative error of a time (ours): two machines never run equally fast.
CLOCK_ERROR = 0.25


@dataclass
class Forecaster:
    """Forecasts from a sample. notes: what a reader of the forecast must know."""

    resolved: Resolved
    sample: ItemSample
    full_texts: FullTexts
    notes: list[str] = field(default_factory=list)

    def forecast(self, kind: str, stats: SampleStats) -> dict[str, Any]:
        """Counts, bytes and tokens of one modality, as Estimates."""
        n, total = stats.n, stats.total
        alive = stats.outcome == ALIVE
        searched = self.resolved.duplicates.for_modality(kind) is not None
        exact = not searched or n == total or (kind == "text" and kind in self.full_texts.kinds)
        single = stats.survives if exact else alive
        low, high = self._resample(kind, stats, single)
        at_least, at_most = int(low.sum()), int(high.sum())
        middle = round((at_least + at_most) / 2)
        passed = estimates.count(int(alive.sum()), n, total)
        kept = _count_between(at_least, middle, at_most, n, total)
        copies = estimates.count(int((alive & ~single).sum()), n, total)
        uniqueness = Estimate(1.0, 1.0, 1.0)
        if not exact:
            copies, uniqueness = self._estimate_copies(kind, stats, passed)
            kept = _multiply(kept, uniqueness)
        dropped = {
            f.name: estimates.count(int(((stats.outcome == "dropped") & (stats.filter == f.name)).sum()), n, total)
            for f in self.resolved.filters
            if kind in f.modalities
        }
        if self.resolved.resample is not None and kind in self.resolved.resample.modalities:
            unique = int(single.sum())
            dropped["resample"] = _count_between(unique - at_most, unique - middle, unique - at_least, n, total)
        return {
            "inputs": total,
            "sampled": n,
            "passed": passed,
            "kept": kept,
            "dropped": dropped,
            "duplicates": copies,
            "failed": estimates.count(int((stats.outcome == "failed").sum()), n, total),
            "bytes": _multiply(_total_between(stats.bytes, low, high, total), uniqueness),
            "tokens": _multiply(_total_between(stats.tokens, low, high, total), uniqueness),
        }

    def _estimate_copies(self, kind: str, stats: SampleStats, passed: Estimate) -> tuple[Estimate, Estimate]:
        """(duplicates among the samples that pass, share of these that are none), from pairs within the sample."""
        self.notes.append(
            f"{kind}: duplicates are estimated from pairs of which both samples were drawn, which are few; `passed` "
            "counts them too. The interval narrows with the square of --share"
        )
        alive = stats.outcome == ALIVE
        _, sizes = np.unique(stats.component[alive & (stats.component >= 0)], return_counts=True)
        pairs = estimates.pairs(int((sizes * (sizes - 1) // 2).sum()), int(alive.sum()), round(passed.value))
        copies = Estimate(min(pairs.value, max(passed.value - 1, 0.0)), 0.0, min(pairs.high, max(passed.high - 1, 0.0)))
        uniqueness = Estimate(
            1 - copies.value / passed.value if passed.value else 1.0,
            max(1.0, passed.low - copies.high) / passed.low if passed.low else 0.0,
            1.0,
        )
        return copies, uniqueness

    # -- resampling

    def _resample(self, kind: str, stats: SampleStats, single: Mask) -> tuple[Mask, Mask]:
        """(low, high), bool (n,): of the sampled rows in `single`, those that resampling keeps, at least and most."""
        settings = self.resolved.resample
        if settings is None or kind not in settings.modalities or not single.any():
            return single, single
        ids = pa.chunked_array(stats.ngram_ids, pa.list_(pa.int32())).filter(pa.array(single))
        masks = []
        for chance in self._keep_probabilities(kind, stats, ids):
            kept = single.copy()
            kept[single] = resampling.draw_kept(stats.keys[single].tolist(), chance, self.sample.seed)[0]
            masks.append(kept)
        return masks[0] & masks[1], masks[0] | masks[1]

    def _keep_probabilities(
        self, kind: str, stats: SampleStats, ids: pa.ChunkedArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """P(keep) of rows with these n-grams, with frequencies that are too high and too low rather than too near."""
        settings = self.resolved.resample
        survivors = resampling.count_frequencies(ids, 2**31 - 1)

        def probabilities(frequencies: resampling.NgramCounts, t: float | None = None) -> NDArray[np.float64]:
            if t is None:
                t = settings.compute_threshold(frequencies.counts)
            return resampling.compute_keep_probability(ids, frequencies, float(t), settings.rule, settings.unmatched)

        if stats.n == stats.total:
            return probabilities(survivors), probabilities(survivors)
        if kind in self.full_texts.kinds:
            share = estimates.count(survivors.texts, stats.n, stats.total)
            high, low = (
                self.full_texts.estimate_frequencies(kind, survivors, self.sample, end / stats.total)
                for end in (share.high, share.low)
            )
            return probabilities(high), probabilities(low)
        self.notes.append(f"{kind}: n-gram counts are scaled from the sample, which overstates those of rare n-grams")
        scale = stats.total / stats.n
        many = replace(survivors, counts=np.rint(survivors.counts * scale).astype(np.int64))
        few = replace(survivors, counts=np.rint(1 + (survivors.counts - 1) * scale).astype(np.int64))
        t = settings.compute_threshold(survivors.counts)
        return probabilities(many, t), probabilities(few, t * scale if settings.t is None else t)

    # -- time

    def hours(self, run: Run, stats: Mapping[str, SampleStats]) -> dict[str, Any]:
        """Hours of ingest and measure on this machine with these workers. Cells in the store already cost nothing."""
        counters, ingested = (dict(read_json(run.work(f"{name}.counters.json"))) for name in ("signals", "ingest"))
        total = sum(entry.total for entry in stats.values())
        ms = {"ingest": total * ingested.get("total_ms", 0) / max(ingested.get("samples", 0), 1)}
        untimed = []
        for annotator in ordered(self.resolved.steps):
            cells = sum(e.total * e.reached.get(annotator, 0) / max(e.n, 1) for e in stats.values())
            measured = counters.get(f"{annotator}_cells", 0)
            if measured:
                ms[annotator] = cells * counters.get(f"{annotator}_ms", 0) / measured
            elif cells:
                untimed.append(annotator)
        decodes = sum(entry.total * entry.decoded / max(entry.n, 1) for entry in stats.values())
        if counters.get("decodes"):
            ms["decode"] = decodes * counters["decode_ms"] / counters["decodes"]
        elif decodes:
            untimed.append("decode")
        timed = sum(counters.get(f"{annotator}_ms", 0) for annotator in ordered(self.resolved.steps))
        rest = max(0, counters.get("total_ms", 0) - timed - counters.get("decode_ms", 0))
        ms["rest"] = total * rest / max(counters.get("samples", 0), 1)
        if untimed:
            self.notes.append(
                f"hours leave out {', '.join(untimed)}: the store already has every cell of the sample, so nothing was "
                "timed"
            )
        if self.resolved.late:
            self.notes.append("hours leave out measure.late")
        hours = {name: duration / 3.6e6 / max(1, run.runner.workers) for name, duration in ms.items()}
        value, error = sum(hours.values()), _relative_error(stats)
        ends = {"value": value, "low": value * (1 - error), "high": value * (1 + error)}
        return {
            **{name: round(end, 6) for name, end in ends.items()},
            "by": {name: round(duration, 6) for name, duration in hours.items()},
            "of": "ingest and measure; decide and export come on top",
        }


def _relative_error(stats: Mapping[str, SampleStats]) -> float:
    wide = estimates.normal_quantile()
    errors = [wide * e.cost.std() / (e.cost.mean() * np.sqrt(e.n)) for e in stats.values() if e.cost.any()]
    return float(min(1.0, max([CLOCK_ERROR, *errors])))


def _count_between(low: int, middle: int, high: int, n: int, total: int) -> Estimate:
    """Estimate a count of which the sample shows only [low, high]."""
    ends = estimates.count(low, n, total), estimates.count(high, n, total)
    return Estimate(total * middle / n if n else 0.0, ends[0].low, ends[1].high)


def _total_between(values: NDArray[np.float64], low: Mask, high: Mask, total: int) -> Estimate:
    """Estimate a sum over rows of which the sample shows only that they are between `low` and `high`."""
    ends = estimates.total(values * low, total), estimates.total(values * high, total)
    return Estimate((ends[0].value + ends[1].value) / 2, ends[0].low, ends[1].high)


def _multiply(estimate: Estimate, factor: Estimate) -> Estimate:
    """An estimate times a factor whose upper end is 1."""
    return Estimate(estimate.value * factor.value, estimate.low * factor.low, estimate.high)
