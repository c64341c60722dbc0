"""what-if: what other thresholds would keep, from what a finished run measured. Run and store are only read.

Every row is judged again from RUN/signals; what the store knows besides fills in rows that the run's own cascade never
reached. Where cells are still missing the answer is an interval, [certain, possible]. Duplicates are searched again by
the run's own code, in a scratch folder that is removed, where the store has the fingerprints of all that now take part.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from filters import resample as resampling
from infra import storage, tables
from infra.commit import need_manifest
from infra.config import Config, Document, validate
from infra.errors import ConfigError, StageError
from infra.hashing import fingerprint, rows_fingerprint
from infra.store import Cells, align, content_ids
from pipelines.core import tombstones
from pipelines.core.cascade import apply_cutoffs
from pipelines.core.finished_run import read_run_json, restore_config
from pipelines.core.resolve import Resolved, ordered, resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE, judge_rows, lacks_text, step_applies
from pipelines.decide.decide import survivors_mask
from pipelines.decide.duplicates.duplicates import find_duplicates, unit_duplicates

#: Parts of the config that decide and do not measure.
ROOTS = ("filters", "duplicates", "resample")

#: Outcome of a row whose cells do not reach to an end; `filter` says where they stop.
UNDECIDED = "undecided"

MODALITIES = ("video", "image", "multi_image", "text")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class HypotheticalRun(Run):
    """A run that is only thought of: what it is given lies under `base`, the rest in a scratch folder."""

    base: str = ""
    #: Units whose signals the store completed; those lie in the scratch folder.
    completed: frozenset[str] = frozenset()

    def at(self, *parts: str) -> str:
        known = parts[0] in ("samples", "verdicts")
        if parts[0] == "signals":
            known = parts[-1].removesuffix(".parquet") not in self.completed
        return storage.join(self.base if known else self.out, *parts)


def run(folder: str, settings: Sequence[str]) -> dict[str, Any]:
    """What RUN would keep with `settings` ("filters.motion.min_score=0.002", …; values are YAML).

    Raises ConfigError for a key that there is not, StageError where there is no finished run or a search for
    duplicates is needed whose fingerprints are nowhere.
    """
    held = read_run_json(folder)
    names = [unit.name for unit in need_manifest(folder, "verdicts").units]
    with tempfile.TemporaryDirectory(prefix="reelmill-what-if-") as scratch:
        before = _hypothesise(folder, scratch, held, restore_config(held))
        document = replace(restore_config(held, _changed(held["config"], settings)), path="--set")
        after = _hypothesise(folder, scratch, held, document)
        changes = [_change(setting, resolve(before), resolve(after)) for setting in settings]
        return {"run": folder, "set": changes, **WhatIf(before, after, names).answer()}


# -- settings ---------------------------------------------------------------------------------------------------


def parse(setting: str) -> tuple[tuple[str, ...], Any]:
    """(place in the config, value) of "a.b.c=VALUE". Raises ConfigError."""
    name, sign, text = setting.partition("=")
    place = tuple(name.strip().split("."))
    if not sign or not all(place) or len(place) < 2:
        raise ConfigError("not a setting", where=f"--set {setting}", hint="filters.motion.min_score=0.002")
    if place[0] not in ROOTS:
        raise ConfigError(
            f"{place[0]}.* cannot be asked about: it decides what is measured or written, not what is kept",
            where=f"--set {setting}",
            hint=f"what-if changes {', '.join(f'{root}.*' for root in ROOTS)}; for the rest give `reelmill run` "
            "the changed config and --out NEW",
        )
    try:
        return place, yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"not a YAML value: {text}", where=f"--set {setting}") from None


def _changed(config: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A config with settings put in."""
    data = copy.deepcopy(dict(config))
    for setting in settings:
        place, value = parse(setting)
        level = data
        for part in place[:-1]:
            if level.get(part) is None:
                level[part] = {}
            level = level[part]
            if not isinstance(level, dict):
                raise ConfigError(f"{part} is a value, not a group of settings", where=f"--set {setting}")
        level[place[-1]] = value
    return data


def _hypothesise(folder: str, scratch: str, held: Mapping[str, Any], document: Document) -> HypotheticalRun:
    config = validate(document, Config, {**document.data, "out": storage.join(scratch, "run")})
    return HypotheticalRun(config, document, quiet=True, makers=held["makers"], base=folder)


def _change(setting: str, before: Resolved, after: Resolved) -> dict[str, Any]:
    place, _ = parse(setting)
    return {"key": ".".join(place), "from": _value(before, place), "to": _value(after, place)}


def _value(resolved: Resolved, place: tuple[str, ...]) -> Any:
    groups: dict[str, Any] = {
        "filters": {f.name: f.settings.model_dump(mode="json") for f in resolved.filters},
        "duplicates": resolved.duplicates.model_dump(mode="json"),
        "resample": None if resolved.resample is None else resolved.resample.model_dump(mode="json"),
    }
    value: Any = groups
    for part in place:
        value = value.get(part) if isinstance(value, dict) else None
    return value


# -- judging ----------------------------------------------------------------------------------------------------


@dataclass
class Range:
    """now: what the run counted; then: at least `low`, at most `high`."""

    now: int = 0
    low: int = 0
    high: int = 0

    def value(self) -> dict[str, Any]:
        return {"now": self.now, "then": [self.low, self.high]}


@dataclass
class Tally:
    """One modality's answer."""

    inputs: int = 0
    gained: int = 0
    lost: int = 0
    kept: Range = field(default_factory=Range)
    duplicates: Range = field(default_factory=Range)
    failed: Range = field(default_factory=Range)
    dropped: dict[str, Range] = field(default_factory=dict)
    undecided: dict[str, int] = field(default_factory=dict)

    def value(self, order: Sequence[str]) -> dict[str, Any]:
        named = sorted(self.dropped, key=lambda n: order.index(n) if n in order else len(order))
        return {
            "inputs": self.inputs,
            "kept": self.kept.value(),
            "gained": self.gained,
            "lost": self.lost,
            "dropped": {name: self.dropped[name].value() for name in named},
            "duplicates": self.duplicates.value(),
            "failed": self.failed.value(),
            "undecided": self.undecided,
        }


class WhatIf:
    def __init__(self, before: HypotheticalRun, after: HypotheticalRun, names: Sequence[str]) -> None:
        self.before = before
        self.run = after
        self.found: Run = after  # where groups of duplicates lie
        self.names = names
        self.resolved = resolve(after)
        self.notes: list[str] = []
        self.order = [filter_.name for filter_ in self.resolved.filters]
        self.asked = self._asked_by_run()

    def answer(self) -> dict[str, Any]:
        completed = {name for name in self.names if self._complete(name)}
        self.run = replace(self.run, completed=frozenset(completed))
        strict, lenient = self._cutoffs()
        same = True
        for name in self.names:
            same &= self._judge(name, strict, lenient)
        low, high = self._duplicates(same)
        tallies = self._count(low, high, self._frequencies(low, high))
        exact = all(not tally.undecided for tally in tallies.values()) and all(
            r.low == r.high for t in tallies.values() for r in (t.kept, t.duplicates, t.failed, *t.dropped.values())
        )
        if not exact:
            self.notes.append(
                "then is [certain, possible]: the run did not measure all that these settings reach; "
                "`reelmill run` with them and --out NEW measures just that"
            )
        order = [*self.order, "resample"]
        return {
            "exact": exact,
            "notes": self.notes,
            "modalities": {name: tally.value(order) for name, tally in tallies.items()},
        }

    # signals

    def samples(self, name: str) -> pa.Table:
        return tables.read(self.run.at("samples", f"{name}.parquet"), ["key", "modality", "source", "text", "error"])

    def signals(self, name: str) -> pa.Table:
        """A unit's signals with all columns of this cascade, null where the run did not ask."""
        found = tables.read(self.run.at("signals", f"{name}.parquet"))
        for column in self.resolved.schema(self.resolved.steps):
            if column.name not in found.schema.names:
                found = found.append_column(column, pa.nulls(found.num_rows, column.type))
        return found

    def verdicts(self, name: str) -> pa.Table:
        return tables.read(self.run.at("verdicts", f"{name}.parquet"), ["outcome", "filter"])

    def was_alive(self, name: str) -> Mask:
        """bool (n,): rows that passed their own filters in the run, so that all its annotators measured them."""
        verdicts = self.verdicts(name)
        outcome = np.array(verdicts["outcome"].to_pylist(), dtype=object)
        by = np.array(verdicts["filter"].to_pylist(), dtype=object)
        alive: Mask = np.isin(outcome, ["kept", "duplicate"]) | ((outcome == "dropped") & (by == "resample"))
        return alive

    def _complete(self, name: str) -> bool:
        """Fill in cells of undecided rows that the store has; True where they are now other than the run's."""
        samples, signals = self.samples(name), self.signals(name)
        places = self._open(self.resolved, name, samples, signals)
        rows = np.flatnonzero(np.array([place is not None for place in places], dtype=bool))
        found = not set(ordered(self.resolved.steps)) <= self.asked
        if not len(rows) and not found:
            return False
        whole = tables.read(self.run.at("samples", f"{name}.parquet"), ["modality", "text", "media"])
        ids = content_ids(whole)
        for annotator in ordered(self.resolved.steps):
            maker, of = self.resolved.makers[annotator], self.resolved.annotators[annotator].keyed_by
            cells = Cells(self.run.store, annotator, maker).read(rows_fingerprint(ids[of])) if maker else None
            where = align(ids[of].take(pa.array(rows)), cells)
            if cells is None or not (where >= 0).any():
                continue
            found = True
            place = np.full(signals.num_rows, -1, dtype=np.int64)
            place[rows] = where
            take = pa.array(place, mask=place < 0)
            for column, _ in self.resolved.columns(annotator):
                stored = cells[column.split(".", 1)[1]].take(take)
                index = signals.schema.get_field_index(column)
                filled = pc.coalesce(signals[column], stored)
                signals = signals.set_column(index, signals.schema.field(index), filled)
        if found:
            tables.write(storage.join(self.run.out, "signals", f"{name}.parquet"), signals)
        return found

    def _judged(self, resolved: Resolved, samples: pa.Table, signals: pa.Table) -> tuple[pa.Table, Mask]:
        return judge_rows(resolved, samples, signals, self.run.captions_optional)

    def _open(self, resolved: Resolved, name: str, samples: pa.Table, signals: pa.Table) -> list[str | None]:
        """For each row, where in the cascade its cells end before its verdict is there; None for decided rows."""
        judged, unknown = self._judged(resolved, samples, signals)
        alive = np.asarray(pc.equal(judged["outcome"], ALIVE), dtype=bool)
        modality = np.array(samples["modality"].to_pylist(), dtype=object)
        silent = lacks_text(samples, self.run.captions_optional)
        before = self.was_alive(name)
        places: list[str | None] = [None] * samples.num_rows
        for step in resolved.steps:
            wanted = step_applies(resolved, step, modality, silent) & alive
            for annotator in step.annotators:
                able = wanted & np.isin(modality, sorted(resolved.annotators[annotator].modalities))
                if step.filter is not None:
                    able &= unknown
                elif annotator in self.asked:
                    able &= ~before
                for row in np.flatnonzero(able & self._blank(resolved, annotator, signals)).tolist():
                    places[row] = places[row] or (annotator if step.filter is None else step.filter.name)
        for row in np.flatnonzero(unknown).tolist():
            assert places[row] is not None, "a row is undecided and no cell is missing"
        return places

    def _asked_by_run(self) -> set[str]:
        """Annotators whose cells stand in RUN/signals."""
        if not self.names:
            return set()
        with storage.open_read(storage.join(self.run.base, "signals", f"{self.names[0]}.parquet")) as file:
            columns = pq.read_schema(file).names
        return {column.removesuffix(".error") for column in columns if column.endswith(".error")}

    def _blank(self, resolved: Resolved, annotator: str, signals: pa.Table) -> Mask:
        blank = np.ones(signals.num_rows, dtype=bool)
        for column, _ in resolved.columns(annotator):
            blank &= np.asarray(pc.is_null(signals[column]), dtype=bool)
        return blank

    # shares

    def _cutoffs(self) -> tuple[dict[str, float], dict[str, float]]:
        """Scores that shares come to: at the highest and at the lowest that missing scores allow."""
        strict: dict[str, float] = {}
        lenient: dict[str, float] = {}
        for index, step in enumerate(self.resolved.steps):
            if step.filter is None or step.filter.absolute:
                continue
            first = replace(self.resolved, steps=self.resolved.steps[:index])
            values, lost = [], 0
            for name in self.names:
                samples, signals = self.samples(name), self.signals(name)
                judged, unknown = self._judged(first, samples, signals)
                mine = np.isin(np.array(samples["modality"].to_pylist(), dtype=object), sorted(step.filter.modalities))
                mine &= np.asarray(pc.equal(judged["outcome"], ALIVE), dtype=bool)
                scores = signals[step.filter.reads[0]]
                blank = self._blank(self.resolved, step.annotators[-1], signals)
                lost += int((mine & (unknown | blank)).sum())
                values.append(np.asarray(scores.filter(pa.array(mine & ~unknown)).drop_null(), dtype=np.float64))
            known = np.concatenate([np.zeros(0), *values])
            share = getattr(step.filter.settings, "keep_top", 1.0)
            for found, missing in ((strict, math.inf), (lenient, -math.inf)):
                all_scores = np.concatenate([known, np.full(lost, missing)])
                found[step.filter.name] = float(step.filter.module.quantile_threshold(all_scores, share))
        return strict, lenient

    def _judge(self, name: str, strict: Mapping[str, float], lenient: Mapping[str, float]) -> bool:
        """Write a unit's judgements into the scratch folder; True where the same rows are alive as in the run."""
        samples, signals = self.samples(name), self.signals(name)
        hard, soft = apply_cutoffs(self.resolved, strict), apply_cutoffs(self.resolved, lenient)
        judged, _ = self._judged(soft, samples, signals)
        outcome = np.array(judged["outcome"].to_pylist(), dtype=object)
        by = np.array(judged["filter"].to_pylist(), dtype=object)
        for row, place in enumerate(self._open(soft, name, samples, signals)):
            if place is not None:
                outcome[row], by[row] = UNDECIDED, place
        if strict != lenient:
            other, _ = self._judged(hard, samples, signals)
            gone = np.asarray(pc.not_equal(other["outcome"], ALIVE), dtype=bool) & (outcome == ALIVE)
            outcome[gone], by[gone] = UNDECIDED, np.array(other["filter"].to_pylist(), dtype=object)[gone]
        judged = _with(judged, outcome, by)
        tables.write(self.run.work("judged", f"{name}.parquet"), judged)
        return bool(((outcome == ALIVE) == self.was_alive(name)).all()) and not (outcome == UNDECIDED).any()

    def judged(self, name: str) -> pa.Table:
        return tables.read(self.run.work("judged", f"{name}.parquet"))

    # duplicates

    def _duplicates(self, same: bool) -> tuple[Callable[[str], Mask], Callable[[str], Mask]]:
        """(low, high): for a unit, the rows that certainly and that possibly pass as no copy of another."""
        chosen = self.resolved.duplicates
        asked = chosen == resolve(self.before).duplicates
        if not any(getattr(chosen, modality) for modality in MODALITIES):
            return self._alive, self._alive
        if same and asked:
            self.found = replace(self.run, config=self.run.config.model_copy(update={"out": self.run.base}))
            return self._survivors, self._survivors
        if all(self._fingerprints(name) for name in self.names):
            find_duplicates(self.run, self.names, fingerprint("what-if"))
            self.found = self.run
            if not same:
                self.notes.append(
                    "duplicates were searched again among rows that certainly pass; an undecided row that is a copy of "
                    "two groups at once would make one of them and is not counted"
                )
            return self._survivors, self._survivors
        if not asked:
            raise StageError(
                f"the store at {self.run.store} does not have the fingerprints that these duplicates.* settings need",
                hint="`reelmill run` with these settings and --out NEW measures them",
            )
        self.notes.append(
            f"the store at {self.run.store} does not have all fingerprints, so groups of duplicates are the run's: "
            "of a group that lost members one or all of the rest may stay"
        )
        return self._groups()

    def _alive(self, name: str) -> Mask:
        return np.asarray(pc.equal(self.judged(name)["outcome"], ALIVE), dtype=bool)

    def _survivors(self, name: str) -> Mask:
        mask: Mask = survivors_mask(self.judged(name), unit_duplicates(self.found, name))
        return mask

    def _fingerprints(self, name: str) -> bool:
        """Whether the store has the fingerprint of every row of a unit that takes part in the search."""
        judged = self.judged(name)
        alive = np.asarray(pc.equal(judged["outcome"], ALIVE), dtype=bool)
        modality = np.array(judged["modality"].to_pylist(), dtype=object)
        samples = tables.read(self.run.at("samples", f"{name}.parquet"), ["modality", "text", "media"])
        ids = content_ids(samples)
        for annotator, kinds in (("minhash", ("text",)), ("fingerprint", ("video", "image", "multi_image"))):
            wanted = [kind for kind in kinds if getattr(self.resolved.duplicates, kind) is not None]
            rows = np.flatnonzero(alive & np.isin(modality, wanted))
            if len(rows):
                mine = ids[self.resolved.annotators[annotator].keyed_by]
                cells = Cells(self.run.store, annotator, self.resolved.makers[annotator]).read(rows_fingerprint(mine))
                if (align(mine.take(pa.array(rows)), cells) < 0).any():
                    return False
        return True

    def _groups(self) -> tuple[Callable[[str], Mask], Callable[[str], Mask]]:
        """Without vectors: the run's groups, whole, reduced to one, or anything between one and all of the rest."""
        folder = self.run.base
        parts = [
            tables.read(storage.join(folder, "duplicates", f"{unit.name}.parquet"), ["key", "component", "survivor"])
            for unit in need_manifest(folder, "duplicates").units
        ]
        rows = [row for part in parts for row in part.to_pylist()]
        group = {row["key"]: (row["component"], row["survivor"]) for row in rows}
        total: dict[int, int] = {}
        left: dict[int, list[str]] = {}
        for root, _ in group.values():
            total[root] = total.get(root, 0) + 1
        for name in self.names:
            judged = self.judged(name)
            before = self.was_alive(name)
            outcome = np.array(judged["outcome"].to_pylist(), dtype=object)
            by = np.array(judged["filter"].to_pylist(), dtype=object)
            modality = np.array(judged["modality"].to_pylist(), dtype=object)
            searched = [kind for kind in MODALITIES if getattr(self.resolved.duplicates, kind) is not None]
            new = (outcome == ALIVE) & ~before & np.isin(modality, searched)
            outcome[new], by[new] = UNDECIDED, "duplicates"
            tables.write(self.run.work("judged", f"{name}.parquet"), _with(judged, outcome, by))
            for key in np.array(judged["key"].to_pylist(), dtype=object)[outcome == ALIVE].tolist():
                if key in group:
                    left.setdefault(group[key][0], []).append(key)
        resampled = set() if self.resolved.resample is None else set(self.resolved.resample.modalities)
        low: set[str] = set()
        high: set[str] = set()
        for root, keys in left.items():
            survivor = group[keys[0]][1]
            if len(keys) == total[root] or (survivor in keys and len(keys) == 1):
                low.add(survivor)
                high.add(survivor)
            elif len(keys) == 1:
                low.add(keys[0])
                high.add(keys[0])
            else:
                low.add(survivor if survivor in keys else min(keys))
                high.update(keys)
        uncertain = high - low

        def mask(chosen: set[str], name: str, *, least: bool) -> Mask:
            judged = self.judged(name)
            alive = np.asarray(pc.equal(judged["outcome"], ALIVE), dtype=bool)
            keys, kinds = judged["key"].to_pylist(), judged["modality"].to_pylist()
            open_roots = {group[key][0] for key in uncertain}
            passes = []
            for key, kind in zip(keys, kinds, strict=True):
                # Which of an open group stays decides what resampling does with it: at least none of them.
                hidden = least and kind in resampled and key in group and group[key][0] in open_roots
                passes.append((key not in group or key in chosen) and not hidden)
            found: Mask = alive & np.array(passes, dtype=bool)
            return found

        return (lambda name: mask(low, name, least=True)), (lambda name: mask(high, name, least=False))

    # resampling

    def _frequencies(
        self, low: Callable[[str], Mask], high: Callable[[str], Mask]
    ) -> dict[str, tuple[resampling.Frequencies, resampling.Frequencies, float]]:
        """Per modality: document frequencies at their least and at their most, and T."""
        settings = self.resolved.resample
        found = {}
        for modality in () if settings is None else settings.modalities:
            least, most, undecided = [], [], 0
            for name in self.names:
                judged = self.judged(name)
                mine = np.asarray(pc.equal(judged["modality"], modality), dtype=bool)
                ids = self.signals(name)["ngrams.ids"]
                least.append(resampling.frequencies(ids.filter(pa.array(low(name) & mine)), 2**31 - 1))
                most.append(resampling.frequencies(ids.filter(pa.array(high(name) & mine)), 2**31 - 1))
                undecided += int((np.asarray(pc.equal(judged["outcome"], UNDECIDED), dtype=bool) & mine).sum())
            few, many = resampling.merge(least), resampling.merge(most)
            t = settings.t if settings.t is not None else resampling.tail_threshold(many.counts, settings.tail_share)
            if undecided:
                # Each undecided text might hold any n-gram; the rows that pass could then be thinned further.
                many = resampling.Frequencies(many.ids, many.counts + undecided, many.texts + undecided, many.unmatched)
                if settings.t is None:
                    self.notes.append(f"resample ({modality}): T is taken from the rows that certainly pass, {t:g}")
            found[modality] = (few, many, float(t))
        return found

    def _drawn(
        self, name: str, mask: Mask, tables_: Mapping[str, tuple[resampling.Frequencies, resampling.Frequencies, float]]
    ) -> tuple[Mask, Mask]:
        """(low, high), bool (n,): of the rows in `mask`, those that a draw certainly and possibly keeps."""
        low, high = mask.copy(), mask.copy()
        settings = self.resolved.resample
        if settings is None or not mask.any():
            return low, high
        judged = self.judged(name)
        ids = self.signals(name)["ngrams.ids"]
        for modality, (few, many, t) in tables_.items():
            rows = np.flatnonzero(mask & np.asarray(pc.equal(judged["modality"], modality), dtype=bool))
            keys = judged["key"].take(pa.array(rows)).to_pylist()
            for kept, table in ((low, many), (high, few)):
                chosen = ids.take(pa.array(rows))
                chance = resampling.keep_probability(chosen, table, t, settings.rule, settings.unmatched)
                kept[rows] = resampling.resample(keys, chance, self.run.config.seed)[0]
        return low, high

    # counting

    def _count(
        self,
        low: Callable[[str], Mask],
        high: Callable[[str], Mask],
        frequencies: Mapping[str, tuple[resampling.Frequencies, resampling.Frequencies, float]],
    ) -> dict[str, Tally]:
        tallies: dict[str, Tally] = {}
        for name in self.names:
            judged, verdicts = self.judged(name), self.verdicts(name)
            modality = np.array(judged["modality"].to_pylist(), dtype=object)
            then = np.array(judged["outcome"].to_pylist(), dtype=object)
            by = np.array(judged["filter"].to_pylist(), dtype=object)
            now = np.array(verdicts["outcome"].to_pylist(), dtype=object)
            now_by = np.array(verdicts["filter"].to_pylist(), dtype=object)
            single, possible = low(name), high(name)
            at_least, _ = self._drawn(name, single, frequencies)
            _, at_most = self._drawn(name, possible, frequencies)
            resampled = set() if self.resolved.resample is None else set(self.resolved.resample.modalities)
            searched = {kind for kind in MODALITIES if getattr(self.resolved.duplicates, kind) is not None}
            place = np.array([self._place(n) if o == UNDECIDED else -1 for n, o in zip(by, then, strict=True)])
            for kind, rows in _kinds(modality):
                tally = tallies.setdefault(kind, Tally())
                open_ = (then == UNDECIDED) & rows
                tally.inputs += int(rows.sum())
                for name_ in by[open_].tolist():
                    tally.undecided[name_] = tally.undecided.get(name_, 0) + 1
                _add(tally.kept, (now == "kept") & rows, at_least & rows, (at_most | open_) & rows)
                tally.gained += int((at_least & (now != "kept") & rows).sum())
                tally.lost += int(((now == "kept") & ~at_most & ~open_ & rows).sum())
                failed = (then == "failed") & rows
                _add(tally.failed, (now == "failed") & rows, failed, failed | open_)
                alive = (then == ALIVE) & rows
                same = alive & ~possible, (alive & ~single) | (open_ & np.isin(modality, sorted(searched)))
                _add(tally.duplicates, (now == "duplicate") & rows, *same)
                dropped = (now == "dropped") & rows
                thin = (
                    single & ~at_most & rows,
                    (possible & ~at_least & rows) | (open_ & np.isin(modality, sorted(resampled))),
                )
                if resampled or (now_by[dropped] == "resample").any():
                    _add(tally.dropped.setdefault("resample", Range()), dropped & (now_by == "resample"), *thin)
                away = (then == "dropped") & (by == tombstones.FILTER) & rows  # whatever the settings
                if away.any():
                    _add(tally.dropped.setdefault(tombstones.FILTER, Range()), away, away, away)
                for position, filter_ in enumerate(self.resolved.filters):
                    gone = (then == "dropped") & (by == filter_.name) & rows
                    reach = open_ & (place <= position) & np.isin(modality, sorted(filter_.modalities))
                    entry = tally.dropped.setdefault(filter_.name, Range())
                    _add(entry, dropped & (now_by == filter_.name), gone, gone | reach)
        return {name: tallies[name] for name in (*MODALITIES, "all") if name in tallies}

    def _place(self, name: str) -> int:
        """Where in the cascade a filter's name, or what comes after all filters, stands."""
        return self.order.index(name) if name in self.order else len(self.order)


def _with(judged: pa.Table, outcome: NDArray[Any], by: NDArray[Any]) -> pa.Table:
    for name, values in (("outcome", outcome), ("filter", by)):
        index = judged.schema.get_field_index(name)
        judged = judged.set_column(index, judged.schema.field(index), pa.array(values, pa.string()))
    return judged


def _kinds(modality: NDArray[Any]) -> Iterator[tuple[str, Mask]]:
    for kind in sorted(set(modality.tolist())):
        yield kind, modality == kind
    yield "all", np.ones(len(modality), dtype=bool)


def _add(entry: Range, now: Mask, low: Mask, high: Mask) -> None:
    entry.now += int(now.sum())
    entry.low += int(low.sum())
    entry.high += int(high.sum())


# -- for people -------------------------------------------------------------------------------------------------


def show(value: Mapping[str, Any]) -> None:
    """Tables of the answer on stdout."""
    from rich.table import Table

    from pipelines.core.console import open_console

    out = open_console()
    for change in value["set"]:
        out.print(f"{change['key']}: {change['from']} -> {change['to']}", highlight=False)
    table = Table(title="What would be kept", title_justify="left")
    table.add_column("modality")
    for name in ("inputs", "kept now", "kept then", "newly kept", "no longer kept"):
        table.add_column(name, justify="right")
    for name, entry in value["modalities"].items():
        kept = entry["kept"]
        counts = (
            f"{entry['inputs']:,}",
            f"{kept['now']:,}",
            _then(kept),
            f"{entry['gained']:,}",
            f"{entry['lost']:,}",
        )
        table.add_row(name, *counts)
    out.print(table)
    why = Table(title="By what stops them", title_justify="left")
    why.add_column("by")
    for name in ("now", "then", "undecided here"):
        why.add_column(name, justify="right")
    everything = value["modalities"].get("all", {"dropped": {}, "undecided": {}})
    rows = dict(everything["dropped"])
    if "duplicates" in everything:
        rows |= {"duplicates": everything["duplicates"], "failed": everything["failed"]}
    for name in [*rows, *(place for place in everything["undecided"] if place not in rows)]:
        entry = rows.get(name)
        numbers = ("", "") if entry is None else (f"{entry['now']:,}", _then(entry))
        count = everything["undecided"].get(name, 0)
        why.add_row(name, *numbers, f"{count:,}" if count else "")
    out.print(why)
    out.print("Exact: nothing is missing." if value["exact"] else "An interval: cells are missing.", highlight=False)
    for note in value["notes"]:
        out.print(f"- {note}", highlight=False)


def _then(entry: Mapping[str, Any]) -> str:
    low, high = entry["then"]
    return f"{low:,}" if low == high else f"[{low:,}, {high:,}]".replace("[", r"\[")
