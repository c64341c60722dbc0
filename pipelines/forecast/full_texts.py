"""Texts that a forecast reads whole, since a sample cannot show copies and n-gram counts.

A copy's partner is hardly ever drawn with it. So all texts are read, and all copies of a sampled text go through the
filters with it: whether a sampled text survives is then known, and not estimated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from filters import resample as resampling
from filters.resample import NgramCounts
from infra import storage
from infra.columns import equals, to_strings
from infra.commit import need_manifest
from pipelines.core.resolve import Resolved
from pipelines.core.run import Run
from pipelines.decide.decide import judge_units
from pipelines.decide.duplicates import duplicates
from pipelines.forecast.item_sample import ItemSample, item_names
from pipelines.ingest.ingest import ingest_parts
from pipelines.measure import measure

#: Texts of one modality that are read whole for copies and n-grams (ours): a minute or two on one core.
MOST_TEXTS = 300_000
#: Weight of the overall survival rate in the survival rate of an n-gram, in texts (ours).
PRIOR_TEXTS = 10.0

_ITEM = ["modality", "source", "container", "position"]


@dataclass(frozen=True)
class FullTexts:
    """A run over the texts of some modalities (`kinds`), with its units, and the items that are copies of a sampled
    text."""

    run: Run
    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    copies: frozenset[str] = frozenset()

    def estimate_frequencies(
        self, kind: str, survivors: NgramCounts, sample: ItemSample, survival: float
    ) -> NgramCounts:
        """Document frequencies among all survivors of a modality.

        They are the counts over all texts, times the share that survives among sampled texts with the n-gram, drawn
        towards `survival`, the share that survives among all sampled texts. survivors: counts of the sample's
        survivors.
        """
        all_texts, sampled_texts = [], []
        for name in self.names:
            samples = self.run.read("samples", name, _ITEM)
            ids = self.run.read("signals", name, ["ngrams.ids"])["ngrams.ids"]
            rows = equals(samples["modality"], kind)
            all_texts.append(resampling.count_frequencies(ids.filter(pa.array(rows)), 2**31 - 1))
            rows &= sample.contains(item_names(samples), to_strings(samples["modality"]))
            sampled_texts.append(resampling.count_frequencies(ids.filter(pa.array(rows)), 2**31 - 1))
        total, sampled = resampling.merge_frequencies(all_texts), resampling.merge_frequencies(sampled_texts)
        kept, drawn = np.zeros(len(total.ids)), np.zeros(len(total.ids))
        kept[np.searchsorted(total.ids, survivors.ids)] = survivors.counts
        drawn[np.searchsorted(total.ids, sampled.ids)] = sampled.counts
        rates = np.minimum(1.0, (kept + PRIOR_TEXTS * survival) / (drawn + PRIOR_TEXTS))
        return replace(total, counts=np.maximum(1, np.rint(total.counts * rates)).astype(np.int64))


def read_full_texts(run: Run, resolved: Resolved, sample: ItemSample, scratch: str) -> FullTexts:
    """Ingest and measure the texts of the modalities whose copies or n-grams decide, and find copies among them.

    run: the forecast's config. Everything is written below `scratch`, cells too.
    """
    kinds = set() if resolved.resample is None else set(resolved.resample.modalities)
    if resolved.duplicates.text is not None:
        kinds.add("text")
    kinds = {kind for kind in kinds & set(sample.totals) if sample.totals[kind] <= MOST_TEXTS}
    if not kinds:
        return FullTexts(run)
    search = resolved.duplicates.text is not None and "text" in kinds
    annotators = {"clean", *(("minhash",) if search else ()), *(("ngrams",) if resolved.resample else ())}
    changes = {
        "out": storage.join(scratch, "texts"),
        "store": storage.join(scratch, "store"),
        "sources": tuple(source.model_copy(update={"modality": "text"}) for source in run.config.sources),
        "measure": {name: settings for name, settings in run.config.measure.items() if name in annotators},
        "filters": {},
        "duplicates": {"text": run.config.duplicates.get("text")} if search else {},
    }
    run = replace(run, config=run.config.model_copy(update=changes))
    items = sample.copy_items(run.out, lambda _, modality: np.isin(modality, sorted(kinds)), media=False)
    ingest_parts(run, items)
    measure.run(run)
    names, stamp = judge_units(run)
    copies = frozenset[str]()
    if search:
        duplicates.run(run, names, stamp)
        copies = _find_copies(run, names, sample)
    return FullTexts(run, tuple(names), tuple(sorted(kinds)), copies)


def _find_copies(run: Run, names: list[str], sample: ItemSample) -> frozenset[str]:
    """Items in a group of duplicates that has a sampled member."""
    component: dict[str, int] = {}
    for unit in need_manifest(run.out, "duplicates").units:
        table = run.read("duplicates", unit.name, ["key", "component"])
        component.update(zip(table["key"].to_pylist(), table["component"].to_pylist(), strict=True))
    members: dict[int, list[str]] = {}
    sampled: set[int] = set()
    for name in names:
        samples = run.read("samples", name, ["key", *_ITEM])
        items = item_names(samples)
        drawn = sample.contains(items, to_strings(samples["modality"]))
        for key, item, is_drawn in zip(samples["key"].to_pylist(), items, drawn.tolist(), strict=True):
            if key in component:
                members.setdefault(component[key], []).append(item)
                if is_drawn:
                    sampled.add(component[key])
    return frozenset(item for group in sampled for item in members[group])
