"""plan: what a config would keep and cost, from a keyed share of its inputs, before the whole is measured.

The inventory is taken for real. What pixels and models say is measured on the sample and forecast with intervals. What
texts say by themselves (copies among them, which n-grams they hold) a sample cannot show: a copy's partner is hardly
ever drawn with it. So texts are read whole, up to MOST_TEXTS of a modality, and all copies of a sampled text go through
the filters with it: whether a sampled text survives is then known, and not estimated.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters import resample as resampling
from infra import storage, tables
from infra.beam import Runner
from infra.commit import need_manifest, read_json
from infra.hashing import draws
from pipelines.core.resolve import ordered, resolve
from pipelines.core.run import Run, open_run
from pipelines.core.verdicts import ALIVE
from pipelines.decide.decide import judge_units, survivors_mask
from pipelines.decide.duplicates.duplicates import find_duplicates, unit_duplicates
from pipelines.export.export import preview
from pipelines.forecast import estimates
from pipelines.forecast.estimates import Estimate
from pipelines.ingest.ingest import ingest_parts, take_inventory
from pipelines.ingest.sources import inventory
from pipelines.measure import measure

#: At least so many samples of each modality are measured, or all (ours).
LEAST = 50
#: Texts of one modality that are read whole for copies and n-grams (ours): a minute or two on one core.
MOST_TEXTS = 300_000
#: Share of the sample's n-gram survival that is taken from all survivors, in texts (ours).
PRIOR_TEXTS = 10.0
#: Least relative error of a time, since machines are not twice equally fast (ours).
CLOCK_ERROR = 0.25

MODALITIES = ("video", "image", "multi_image", "text")

Mask = NDArray[np.bool_]
Parts = list[list[str]]


def run(config_path: str, *, share: float = 0.01, workers: int = 1, quiet: bool = False) -> dict[str, Any]:
    """Forecast yield per filter, hours, bytes and tokens of a config, with 99 % intervals.

    share: of the items, each drawn by hash(seed, what it is). Cells go to the config's store; all else to a scratch
    folder that is removed. Raises ConfigError as `reelmill run` does.
    """
    begun = time.monotonic()
    run = open_run(config_path, runner=Runner(workers=workers), quiet=quiet)
    resolve(run)
    with tempfile.TemporaryDirectory(prefix="reelmill-plan-") as scratch:
        value = Forecaster(run, scratch, share).forecast()
    return {"config": config_path, "share": share, "workers": workers, **value,
            "seconds": round(time.monotonic() - begun, 1)}  # fmt: skip


@dataclass
class SampleStats:
    """What is known of the sampled rows of one modality; arrays over n rows."""

    total: int
    outcome: NDArray[Any] = field(default_factory=lambda: np.zeros(0, dtype=object))
    by: NDArray[Any] = field(default_factory=lambda: np.zeros(0, dtype=object))
    keys: NDArray[Any] = field(default_factory=lambda: np.zeros(0, dtype=object))
    survives: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))
    component: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    bytes: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    tokens: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    work: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    ids: list[pa.Array] = field(default_factory=list)
    reached: dict[str, int] = field(default_factory=dict)
    decoded: int = 0

    @property
    def n(self) -> int:
        return len(self.outcome)


class Forecaster:
    def __init__(self, run: Run, scratch: str, share: float) -> None:
        self.run = run
        self.scratch = scratch
        self.share = share
        self.resolved = resolve(run)
        self.notes: list[str] = []
        self.sources = [source.name for source in run.config.sources]

    def forecast(self) -> dict[str, Any]:
        parts, ignored = take_inventory(self._elsewhere("inventory"))
        self.totals, self.cut = self._draw(parts)
        copies, known = self._texts(parts)
        run = self._elsewhere("sample")
        chosen = self._choose(parts, "sample", lambda name, modality: self._drawn(name, modality) | copies(name))
        ingest_parts(run, chosen, {})
        measure.run(run)
        names, stamp = judge_units(run)
        find_duplicates(run, names, stamp)
        rows = {modality: SampleStats(total) for modality, total in self.totals.items()}
        for name in names:
            self._gather(run, name, rows)
        found = {modality: self._one(modality, rows[modality], known) for modality in rows}
        return {
            "modalities": {**{m: _plain(v) for m, v in found.items()}, "all": _plain(_sum(list(found.values())))},
            "ignored": {k: v for k, v in ignored.items() if v},
            "hours": self._hours(run, rows),
            "notes": self.notes,
        }

    def _elsewhere(self, name: str, **changes: Any) -> Run:
        out = storage.join(self.scratch, name)
        return replace(self.run, config=self.run.config.model_copy(update={"out": out, **changes}))

    # -- the sample --

    def _names(self, items: pa.Table, source: str | None = None) -> list[str]:
        own = [source] * items.num_rows if source is not None else items["source"].to_pylist()
        columns = (own, items["container"].to_pylist(), items["position"].to_pylist())
        return ["\x00".join(parts) for parts in zip(*columns, strict=True)]

    def _draw(self, parts: Parts) -> tuple[dict[str, int], dict[str, int]]:
        """Items per modality, and the draw below which an item is in the sample: by share, or of the LEAST-th item."""
        totals: dict[str, int] = {}
        smallest: dict[str, NDArray[np.uint64]] = {}
        for source, uris in zip(self.sources, parts, strict=True):
            for uri in uris:
                items = tables.read(uri, ["container", "position", "modality"])
                drawn = draws(self.run.config.seed, self._names(items, source), "plan")
                modality = np.array(items["modality"].to_pylist(), dtype=object)
                for kind in sorted(set(modality.tolist())):
                    mine = drawn[modality == kind]
                    totals[kind] = totals.get(kind, 0) + len(mine)
                    before = smallest.get(kind, np.zeros(0, np.uint64))
                    smallest[kind] = np.sort(np.concatenate([before, mine]))[:LEAST]
        line = min(int(self.share * 2.0**64), 2**64 - 1)
        return (
            {kind: totals[kind] for kind in MODALITIES if kind in totals},
            {kind: max(line, int(values[-1])) for kind, values in smallest.items()},
        )

    def _drawn(self, names: list[str], modality: NDArray[Any]) -> Mask:
        drawn = draws(self.run.config.seed, names, "plan")
        chosen = np.zeros(len(names), dtype=bool)
        for kind, line in self.cut.items():
            chosen |= (modality == kind) & (drawn <= np.uint64(line))
        return chosen

    def _choose(
        self, parts: Parts, name: str, chosen: Callable[[list[str], NDArray[Any]], Mask], *, media: bool = True
    ) -> Parts:
        """The inventory's parts again, with only the items that are chosen; without their media if so asked."""
        found: Parts = []
        for number, (source, uris) in enumerate(zip(self.sources, parts, strict=True)):
            mine = []
            for index, uri in enumerate(uris):
                items = tables.read(uri)
                modality = np.array(items["modality"].to_pylist(), dtype=object)
                items = items.filter(pa.array(chosen(self._names(items, source), modality)))
                if not media:
                    place = items.schema.get_field_index("media")
                    kind = inventory.ITEMS.field("media")
                    items = items.set_column(place, kind, pa.array([[]] * items.num_rows, kind.type))
                target = storage.join(self.scratch, name, "work", "inventory", f"s{number:03d}-{index:06d}.parquet")
                if items.num_rows:
                    tables.write(target, items.replace_schema_metadata(None))
                    mine.append(target)
            found.append(mine)
        return found

    # -- texts, whole --

    def _texts(self, parts: Parts) -> tuple[Callable[[list[str]], Mask], dict[str, tuple[Run, list[str]]]]:
        """(which items are copies of a sampled text, the run of whole texts by modality that it has read)."""
        wanted = set() if self.resolved.resample is None else set(self.resolved.resample.modalities)
        search = self.resolved.duplicates.text is not None
        wanted |= {"text"} if search else set()
        wanted = {kind for kind in wanted & set(self.totals) if self.totals[kind] <= MOST_TEXTS}

        def none(names: list[str]) -> Mask:
            return np.zeros(len(names), dtype=bool)

        if not wanted:
            return none, {}
        search &= "text" in wanted
        used = {"clean", *(("minhash",) if search else ()), *(("ngrams",) if self.resolved.resample else ())}
        run = self._elsewhere(
            "texts",
            store=storage.join(self.scratch, "store"),
            sources=tuple(s.model_copy(update={"modality": "text"}) for s in self.run.config.sources),
            measure={name: own for name, own in self.run.config.measure.items() if name in used},
            filters={},
            duplicates={"text": self.run.config.duplicates.get("text")} if search else {},
        )
        kinds = sorted(wanted)
        chosen = self._choose(parts, "texts", lambda names, modality: np.isin(modality, kinds), media=False)
        ingest_parts(run, chosen, {})
        measure.run(run)
        names, stamp = judge_units(run)
        known = dict.fromkeys(kinds, (run, names))
        if not search:
            return none, known
        find_duplicates(run, names, stamp)
        group: dict[str, int] = {}
        for unit in need_manifest(run.out, "duplicates").units:
            table = tables.read(run.at("duplicates", f"{unit.name}.parquet"), ["key", "component"])
            group.update(zip(table["key"].to_pylist(), table["component"].to_pylist(), strict=True))
        members: dict[int, list[str]] = {}
        touched: set[int] = set()
        for name in names:
            samples = tables.read(
                run.at("samples", f"{name}.parquet"), ["key", "modality", "source", "container", "position"]
            )
            items = self._names(samples)
            drawn = self._drawn(items, np.array(samples["modality"].to_pylist(), dtype=object))
            for key, item, is_drawn in zip(samples["key"].to_pylist(), items, drawn.tolist(), strict=True):
                if key in group:
                    members.setdefault(group[key], []).append(item)
                    if is_drawn:
                        touched.add(group[key])
        copies = {item for root in touched for item in members[root]}
        return (lambda items: np.array([item in copies for item in items], dtype=bool)), known

    # -- what the sample says --

    def _gather(self, run: Run, name: str, rows: Mapping[str, SampleStats]) -> None:
        """Take in one unit's sampled rows; copies that only came along are left out."""
        samples = tables.read(run.at("samples", f"{name}.parquet"))
        judged = tables.read(run.work("judged", f"{name}.parquet"))
        signals = tables.read(run.at("signals", f"{name}.parquet"))
        groups = unit_duplicates(run, name)
        survives = survivors_mask(judged, groups)
        modality = np.array(samples["modality"].to_pylist(), dtype=object)
        drawn = self._drawn(self._names(samples), modality)
        outcome = np.array(judged["outcome"].to_pylist(), dtype=object)
        keys = np.array(judged["key"].to_pylist(), dtype=object)
        alive = np.flatnonzero(drawn & (outcome == ALIVE))
        sizes = np.zeros((len(keys), 2))
        if len(alive):
            sizes[alive] = preview(run, name, alive.tolist())
        work = _work(samples, signals)
        reached = {a: ~_blank(signals, [c for c, _ in self.resolved.columns(a)]) for a in ordered(self.resolved.steps)}
        pixels = [a for a in reached if self.resolved.annotators[a].input in ("stream", "frames")]
        for kind, found in rows.items():
            mine = drawn & (modality == kind)
            found.outcome = np.concatenate([found.outcome, outcome[mine]])
            found.by = np.concatenate([found.by, np.array(judged["filter"].to_pylist(), dtype=object)[mine]])
            found.keys = np.concatenate([found.keys, keys[mine]])
            found.survives = np.concatenate([found.survives, survives[mine]])
            component = [groups[key]["component"] if key in groups else -1 for key in keys[mine].tolist()]
            found.component = np.concatenate([found.component, np.array(component, dtype=np.int64)])
            found.bytes = np.concatenate([found.bytes, sizes[mine, 0]])
            found.tokens = np.concatenate([found.tokens, sizes[mine, 1]])
            found.work = np.concatenate([found.work, work[mine]])
            if self.resolved.resample is not None:
                found.ids.append(signals["ngrams.ids"].filter(pa.array(mine)).combine_chunks())
            for annotator, mask in reached.items():
                found.reached[annotator] = found.reached.get(annotator, 0) + int((mask & mine).sum())
            if pixels:
                found.decoded += int((np.logical_or.reduce([reached[a] for a in pixels]) & mine).sum())

    def _one(self, kind: str, rows: SampleStats, known: Mapping[str, tuple[Run, list[str]]]) -> dict[str, Any]:
        """The forecast of one modality, as Estimates."""
        n, total = rows.n, rows.total
        alive = rows.outcome == ALIVE
        searched = getattr(self.resolved.duplicates, kind) is not None
        exact = not searched or n == total or (kind == "text" and kind in known)
        single = rows.survives if exact else alive
        low, high = self._resampled(kind, rows, single, known)
        middle = round((int(low.sum()) + int(high.sum())) / 2)
        passed = estimates.count(int(alive.sum()), n, total)
        kept = _between(int(low.sum()), middle, int(high.sum()), n, total)
        copies = estimates.count(int((alive & ~single).sum()), n, total)
        factor = Estimate(1.0, 1.0, 1.0)
        if not exact:
            _, sizes = np.unique(rows.component[alive & (rows.component >= 0)], return_counts=True)
            pairs = estimates.pairs(int((sizes * (sizes - 1) // 2).sum()), int(alive.sum()), round(passed.value))
            most = max(passed.high - 1, 0.0)
            copies = Estimate(min(pairs.value, max(passed.value - 1, 0.0)), 0.0, min(pairs.high, most))
            factor = Estimate(
                1 - copies.value / passed.value if passed.value else 1.0,
                max(1.0, passed.low - copies.high) / passed.low if passed.low else 0.0,
                1.0,
            )
            kept = Estimate(kept.value * factor.value, kept.low * factor.low, kept.high)
            self.notes.append(
                f"{kind}: copies are estimated from pairs that both fell into the sample, which says little; `passed` "
                "is before copies are taken out. A larger --share narrows it with its square"
            )
        dropped = {
            f.name: estimates.count(int(((rows.outcome == "dropped") & (rows.by == f.name)).sum()), n, total)
            for f in self.resolved.filters
            if kind in f.modalities
        }
        if self.resolved.resample is not None and kind in self.resolved.resample.modalities:
            alone = int(single.sum())
            thinned = (alone - int(high.sum()), alone - middle, alone - int(low.sum()))
            dropped["resample"] = _between(*thinned, n, total)
        return {
            "inputs": total,
            "sampled": n,
            "passed": passed,
            "kept": kept,
            "dropped": dropped,
            "duplicates": copies,
            "failed": estimates.count(int((rows.outcome == "failed").sum()), n, total),
            "bytes": _total(rows.bytes, low, high, total, factor),
            "tokens": _total(rows.tokens, low, high, total, factor),
        }

    def _resampled(
        self, kind: str, rows: SampleStats, single: Mask, known: Mapping[str, tuple[Run, list[str]]]
    ) -> tuple[Mask, Mask]:
        """(low, high): of the sampled rows that are not copies, those that their draw keeps, at the least and most."""
        settings = self.resolved.resample
        if settings is None or kind not in settings.modalities or not single.any():
            return single, single
        ids = pa.chunked_array(rows.ids, pa.list_(pa.int32())).filter(pa.array(single))
        mine = resampling.frequencies(ids, 2**31 - 1)
        keys = rows.keys[single].tolist()
        if rows.n == rows.total:
            t = settings.t if settings.t is not None else resampling.tail_threshold(mine.counts, settings.tail_share)
            chances = [resampling.keep_probability(ids, mine, float(t), settings.rule, settings.unmatched)] * 2
        elif kind in known:
            survive = estimates.count(mine.texts, rows.n, rows.total)
            chances = []
            for share in (survive.high / rows.total, survive.low / rows.total):
                table = self._frequencies(*known[kind], kind, rows, mine, share)
                t = settings.t
                if t is None:
                    t = resampling.tail_threshold(table.counts, settings.tail_share)
                chances.append(resampling.keep_probability(ids, table, float(t), settings.rule, settings.unmatched))
        else:
            self.notes.append(
                f"{kind}: n-gram counts are scaled from the sample, which overstates rare n-grams' counts"
            )
            chances = self._scaled(ids, mine, rows.total / rows.n)
        found = []
        for chance in chances:
            kept = single.copy()
            kept[single] = resampling.resample(keys, chance, self.run.config.seed)[0]
            found.append(kept)
        return found[0] & found[1], found[0] | found[1]

    def _frequencies(
        self, run: Run, names: Sequence[str], kind: str, rows: SampleStats, mine: resampling.Frequencies, share: float
    ) -> resampling.Frequencies:
        """Document frequencies of survivors: counted over all texts, times the share that survives among sampled texts
        with the n-gram, drawn towards `share`, that among all of them. `mine`: counts of the sample's survivors."""
        whole, sampled = [], []
        for name in names:
            samples = tables.read(run.at("samples", f"{name}.parquet"), ["modality", "source", "container", "position"])
            modality = np.array(samples["modality"].to_pylist(), dtype=object)
            ids = tables.read(run.at("signals", f"{name}.parquet"), ["ngrams.ids"])["ngrams.ids"]
            of_kind = modality == kind
            whole.append(resampling.frequencies(ids.filter(pa.array(of_kind)), 2**31 - 1))
            drawn = of_kind & self._drawn(self._names(samples), modality)
            sampled.append(resampling.frequencies(ids.filter(pa.array(drawn)), 2**31 - 1))
        everything, drawn_of = resampling.merge(whole), resampling.merge(sampled)
        held, asked = np.zeros(len(everything.ids)), np.zeros(len(everything.ids))
        held[np.searchsorted(everything.ids, mine.ids)] = mine.counts
        asked[np.searchsorted(everything.ids, drawn_of.ids)] = drawn_of.counts
        survival = np.minimum(1.0, (held + PRIOR_TEXTS * share) / (asked + PRIOR_TEXTS))
        counts = np.maximum(1, np.rint(everything.counts * survival)).astype(np.int64)
        return resampling.Frequencies(everything.ids, counts, everything.texts, everything.unmatched)

    def _scaled(self, ids: pa.ChunkedArray, mine: resampling.Frequencies, scale: float) -> list[NDArray[np.float64]]:
        """P(keep) with frequencies that are rather too high, and rather too low."""
        settings = self.resolved.resample
        many = np.rint(mine.counts * scale).astype(np.int64)
        few = np.rint(1 + (mine.counts - 1) * scale).astype(np.int64)
        t_low = t_high = settings.t
        if settings.t is None:
            t_low = resampling.tail_threshold(mine.counts, settings.tail_share)
            t_high = t_low * scale
        tables_ = [replace(mine, counts=counts) for counts in (many, few)]
        return [
            resampling.keep_probability(ids, table, float(t), settings.rule, settings.unmatched)
            for table, t in zip(tables_, (t_low, t_high), strict=True)
        ]

    # -- time --

    def _hours(self, run: Run, rows: Mapping[str, SampleStats]) -> dict[str, Any]:
        """Hours of ingest and measure on this machine with these workers; what the store already has costs nothing."""
        counters = dict(read_json(run.work("signals.counters.json")))
        ingested = dict(read_json(run.work("ingest.counters.json")))
        total = sum(r.total for r in rows.values())
        parts = {"ingest": total * ingested.get("total_ms", 0) / max(ingested.get("samples", 0), 1)}
        unknown = []
        spent = 0
        for annotator in ordered(self.resolved.steps):
            cells = sum(r.total * r.reached.get(annotator, 0) / max(r.n, 1) for r in rows.values())
            measured, ms = counters.get(f"{annotator}_cells", 0), counters.get(f"{annotator}_ms", 0)
            spent += ms
            if measured:
                parts[annotator] = cells * ms / measured
            elif cells:
                unknown.append(annotator)
        decoded = sum(r.total * r.decoded / max(r.n, 1) for r in rows.values())
        if counters.get("decodes"):
            parts["decode"] = decoded * counters["decode_ms"] / counters["decodes"]
        elif decoded:
            unknown.append("decode")
        rest = max(0, counters.get("total_ms", 0) - spent - counters.get("decode_ms", 0))
        parts["rest"] = total * rest / max(counters.get("samples", 0), 1)
        if unknown:
            self.notes.append(
                f"hours leave out {', '.join(unknown)}: the store already had every cell of the sample, so nothing was "
                "timed"
            )
        if self.resolved.late:
            self.notes.append("hours leave out measure.late")
        wide = estimates.deviations()
        errors = [wide * r.work.std() / (r.work.mean() * np.sqrt(r.n)) for r in rows.values() if r.work.any()]
        error = min(1.0, max([CLOCK_ERROR, *errors]))
        hours = {name: ms / 3.6e6 / max(1, self.run.runner.workers) for name, ms in parts.items()}
        value = sum(hours.values())
        return {
            **{
                k: round(v, 6)
                for k, v in (("value", value), ("low", value * (1 - error)), ("high", value * (1 + error)))
            },
            "by": {name: round(h, 6) for name, h in hours.items()},
            "of": "ingest and measure; decide and export come on top",
        }


def _work(samples: pa.Table, signals: pa.Table) -> NDArray[np.float64]:
    """float64 (n,): a stand-in for what a row costs: pixels (times seconds), else characters."""
    text = np.asarray(pc.fill_null(pc.utf8_length(samples["text"]), 0), dtype=np.float64)
    if "facts.width" not in signals.schema.names:
        return text
    width, height, seconds = (
        np.asarray(pc.fill_null(pc.cast(signals[f"facts.{name}"], pa.float64()), 0.0), dtype=np.float64)
        for name in ("width", "height", "duration")
    )
    return np.where(width > 0, width * height * np.maximum(seconds, 1.0), text)


def _blank(signals: pa.Table, columns: Sequence[str]) -> Mask:
    blank = np.ones(signals.num_rows, dtype=bool)
    for column in columns:
        blank &= np.asarray(pc.is_null(signals[column]), dtype=bool)
    return blank


def _between(low: int, middle: int, high: int, n: int, total: int) -> Estimate:
    """An Estimate of a count of which only [low, high] was seen."""
    ends = estimates.count(low, n, total), estimates.count(high, n, total)
    return Estimate(total * middle / n if n else 0.0, ends[0].low, ends[1].high)


def _total(values: NDArray[np.float64], low: Mask, high: Mask, total: int, factor: Estimate) -> Estimate:
    ends = estimates.total(values * low, total), estimates.total(values * high, total)
    middle = (ends[0].value + ends[1].value) / 2
    return Estimate(middle * factor.value, ends[0].low * factor.low, ends[1].high)


def _sum(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The forecasts of all modalities together."""
    value: dict[str, Any] = {name: sum(part[name] for part in parts) for name in ("inputs", "sampled")}
    for name in ("passed", "kept", "duplicates", "failed", "bytes", "tokens"):
        value[name] = estimates.added([part[name] for part in parts])
    filters = list(dict.fromkeys(name for part in parts for name in part["dropped"]))
    value["dropped"] = {
        name: estimates.added([part["dropped"][name] for part in parts if name in part["dropped"]]) for name in filters
    }
    return value


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, entry in value.items():
        if isinstance(entry, Estimate):
            found[name] = entry.plain()
        elif isinstance(entry, Mapping):
            found[name] = _plain(entry)
        else:
            found[name] = entry
    return found


# -- for people -------------------------------------------------------------------------------------------------


def show(value: Mapping[str, Any]) -> None:
    """The forecast as tables on stdout."""
    from rich.table import Table

    from pipelines.core.console import open_console

    out = open_console()
    table = Table(title="Forecast, with 99 % intervals", title_justify="left")
    table.add_column("")
    for name in value["modalities"]:
        table.add_column(name, justify="right")
    entries = list(value["modalities"].values())
    for name in ("inputs", "sampled"):
        table.add_row(name, *(f"{entry[name]:,}" for entry in entries), end_section=name == "sampled")
    for name in value["modalities"]["all"]["dropped"]:
        table.add_row(f"dropped by {name}", *(_interval(entry["dropped"].get(name)) for entry in entries))
    for name in ("failed", "duplicates", "passed", "kept", "bytes", "tokens"):
        table.add_row(name, *(_interval(entry[name]) for entry in entries), style="bold" if name == "kept" else None)
    out.print(table)
    hours = value["hours"]
    ends = f"{hours['value']:.3g} ({hours['low']:.3g} to {hours['high']:.3g})"
    out.print(f"hours with {value['workers']} workers: {ends}; {hours['of']}", highlight=False)
    for note in dict.fromkeys(value["notes"]):
        out.print(f"- {note}", highlight=False)


def _interval(entry: Mapping[str, float] | None) -> str:
    if entry is None:
        return ""
    value, low, high = (_short(entry[name]) for name in ("value", "low", "high"))
    return value if low == high else f"{value} ({low} to {high})"


def _short(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(number) >= 10 * size:
            return f"{number / size:,.3g} {unit}"
    return f"{number:,.0f}"
