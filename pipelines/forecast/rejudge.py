"""Judge every row of a finished run again under changed settings. The run and its store are only read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from filters.rules import quantile_threshold
from infra import storage, tables
from infra.columns import Mask, equals, is_all_null, replace_column, to_floats, to_strings
from infra.hashing import rows_fingerprint
from infra.store import Cells, align, content_ids
from pipelines.core.cascade import apply_cutoffs
from pipelines.core.resolve import Resolved, Step, ordered, resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE, judge_rows, lacks_text, step_applies

#: Outcome of a row whose verdict needs a cell that was never measured; `filter` is the step that needs it.
UNDECIDED = "undecided"


@dataclass(frozen=True)
class HypotheticalRun(Run):
    """A run with changed settings that is never executed. Samples, signals and verdicts are read from the finished run
    at `base`; everything else is in a scratch folder."""

    base: str = ""
    #: Units whose signals were completed from the store; their tables are in the scratch folder.
    completed: frozenset[str] = frozenset()

    def at(self, *parts: str) -> str:
        in_base = parts[0] in ("samples", "verdicts")
        if parts[0] == "signals":
            in_base = parts[-1].removesuffix(".parquet") not in self.completed
        return storage.join(self.base if in_base else self.out, *parts)


class WhatIf:
    """A hypothetical run, its units, and their rows judged under its settings.

    names: the run's units. measured: annotators that RUN/signals has columns of. notes: what a reader of the answer
    must know.
    """

    def __init__(self, run: HypotheticalRun, names: Sequence[str]) -> None:
        self.run = run
        self.names = names
        self.resolved = resolve(run)
        self.notes: list[str] = []
        self.measured = self._measured_annotators()
        completed = {name for name in names if self._complete_signals(name)}
        self.run = replace(run, completed=frozenset(completed))

    # -- tables of a unit

    def samples(self, name: str) -> pa.Table:
        return self.run.read("samples", name, ["key", "modality", "source", "text", "error"])

    def signals(self, name: str) -> pa.Table:
        """A unit's signals with all columns of this cascade, null where the run did not measure them."""
        signals = self.run.read("signals", name)
        for column in self.resolved.schema(self.resolved.steps):
            if column.name not in signals.schema.names:
                signals = signals.append_column(column, pa.nulls(signals.num_rows, column.type))
        return signals

    def judged(self, name: str) -> pa.Table:
        return self.run.read_work("judged", name)

    def was_alive(self, name: str) -> Mask:
        """bool (n,): rows that passed their own filters in the run, so that all its annotators measured them."""
        verdicts = self.run.read("verdicts", name, ["outcome", "filter"])
        mask: Mask = np.isin(to_strings(verdicts["outcome"]), ["kept", "duplicate"])
        return mask | (equals(verdicts["outcome"], "dropped") & equals(verdicts["filter"], "resample"))

    # -- signals

    def _measured_annotators(self) -> set[str]:
        if not self.names:
            return set()
        with storage.open_read(storage.join(self.run.base, "signals", f"{self.names[0]}.parquet")) as file:
            columns = pq.read_schema(file).names
        return {column.removesuffix(".error") for column in columns if column.endswith(".error")}

    def _complete_signals(self, name: str) -> bool:
        """Fill in the store's cells for undecided rows; True when the unit's signals now differ from the run's."""
        samples, signals = self.samples(name), self.signals(name)
        rows = np.flatnonzero(self._find_gaps(self.resolved, name, samples, signals) != "")
        changed = not set(ordered(self.resolved.steps)) <= self.measured
        if not len(rows) and not changed:
            return False
        ids = content_ids(self.run.read("samples", name, ["modality", "text", "media"]))
        for annotator in ordered(self.resolved.steps):
            maker, own_ids = self.resolved.makers[annotator], ids[self.resolved.annotators[annotator].keyed_by]
            cells = Cells(self.run.store, annotator, maker).read(rows_fingerprint(own_ids)) if maker else None
            cell_rows = align(own_ids.take(pa.array(rows)), cells)
            if cells is None or not (cell_rows >= 0).any():
                continue
            changed = True
            indices = np.full(signals.num_rows, -1, dtype=np.int64)
            indices[rows] = cell_rows
            take = pa.array(indices, mask=indices < 0)
            for column, _ in self.resolved.columns(annotator):
                filled = pc.coalesce(signals[column], cells[column.split(".", 1)[1]].take(take))
                signals = replace_column(signals, column, filled)
        if changed:
            tables.write(storage.join(self.run.out, "signals", f"{name}.parquet"), signals)
        return changed

    # -- judging

    def judge(self) -> bool:
        """Judge every unit into the scratch folder; True when the same rows are alive as in the run."""
        strict, lenient = self._find_cutoffs()
        unchanged = [self._judge_unit(name, strict, lenient) for name in self.names]
        return all(unchanged)

    def _judge_unit(self, name: str, strict: Mapping[str, float], lenient: Mapping[str, float]) -> bool:
        samples, signals = self.samples(name), self.signals(name)
        resolved = apply_cutoffs(self.resolved, lenient)
        judged, _ = self._judge_rows(resolved, samples, signals)
        outcome, deciding = to_strings(judged["outcome"]), to_strings(judged["filter"])
        gaps = self._find_gaps(resolved, name, samples, signals)
        undecided = gaps != ""
        outcome[undecided], deciding[undecided] = UNDECIDED, gaps[undecided]
        if strict != lenient:
            stricter, _ = self._judge_rows(apply_cutoffs(self.resolved, strict), samples, signals)
            undecided = ~equals(stricter["outcome"], ALIVE) & (outcome == ALIVE)
            outcome[undecided], deciding[undecided] = UNDECIDED, to_strings(stricter["filter"])[undecided]
        self.write_judged(name, judged, outcome, deciding)
        return bool(((outcome == ALIVE) == self.was_alive(name)).all()) and not (outcome == UNDECIDED).any()

    def write_judged(self, name: str, judged: pa.Table, outcome: NDArray[Any], deciding: NDArray[Any]) -> None:
        """Write a unit's judgements with other outcomes and deciding filters."""
        for column, strings in (("outcome", outcome), ("filter", deciding)):
            judged = replace_column(judged, column, pa.array(strings, pa.string()))
        tables.write(self.run.work("judged", f"{name}.parquet"), judged)

    def _judge_rows(self, resolved: Resolved, samples: pa.Table, signals: pa.Table) -> tuple[pa.Table, Mask]:
        return judge_rows(resolved, samples, signals, self.run.captions_optional)

    def _find_gaps(self, resolved: Resolved, name: str, samples: pa.Table, signals: pa.Table) -> NDArray[Any]:
        """object (n,): the filter or annotator whose missing cell leaves a row undecided; "" for decided rows."""
        judged, lacks_cells = self._judge_rows(resolved, samples, signals)
        alive = equals(judged["outcome"], ALIVE)
        modality = to_strings(samples["modality"])
        silent = lacks_text(samples, self.run.captions_optional)
        was_alive = self.was_alive(name)
        gaps = np.full(samples.num_rows, "", dtype=object)
        for step in resolved.steps:
            applies = step_applies(resolved, step, modality, silent) & alive
            for annotator in step.annotators:
                rows = applies & np.isin(modality, sorted(resolved.annotators[annotator].modalities))
                if step.filter is not None:
                    rows &= lacks_cells
                elif annotator in self.measured:
                    rows &= ~was_alive
                rows &= (gaps == "") & self._lacks(resolved, annotator, signals)
                gaps[rows] = annotator if step.filter is None else step.filter.name
        assert (gaps[lacks_cells] != "").all(), "a row is undecided and no cell is missing"
        return gaps

    def _lacks(self, resolved: Resolved, annotator: str, signals: pa.Table) -> Mask:
        return is_all_null(signals, [column for column, _ in resolved.columns(annotator)])

    def _find_cutoffs(self) -> tuple[dict[str, float], dict[str, float]]:
        """The scores that `keep_top` shares come to: (highest, lowest) that the missing scores allow, by filter."""
        strict: dict[str, float] = {}
        lenient: dict[str, float] = {}
        for index, step in enumerate(self.resolved.steps):
            if step.filter is None or step.filter.is_absolute:
                continue
            earlier = replace(self.resolved, steps=self.resolved.steps[:index])
            scores, missing = self._scores(earlier, step)
            share = getattr(step.filter.settings, "keep_top", 1.0)
            for cutoffs, substitute in ((strict, math.inf), (lenient, -math.inf)):
                all_scores = np.concatenate([scores, np.full(missing, substitute)])
                cutoffs[step.filter.name] = float(quantile_threshold(all_scores, share))
        return strict, lenient

    def _scores(self, earlier: Resolved, step: Step) -> tuple[NDArray[np.float64], int]:
        """(known scores, number of missing ones) of the rows that reach a step."""
        assert step.filter is not None
        scores, missing = [np.zeros(0)], 0
        for name in self.names:
            samples, signals = self.samples(name), self.signals(name)
            judged, lacks_cells = self._judge_rows(earlier, samples, signals)
            reached = np.isin(to_strings(samples["modality"]), sorted(step.filter.modalities))
            reached &= equals(judged["outcome"], ALIVE)
            missing += int((reached & (lacks_cells | self._lacks(self.resolved, step.annotators[-1], signals))).sum())
            column = signals[step.filter.score_column]
            scores.append(to_floats(column.filter(pa.array(reached & ~lacks_cells)).drop_null()))
        return np.concatenate(scores), missing
