"""Compute what each threshold would keep at any other value: the data behind the sliders.

Every threshold splits the rows into three: rows that its filter passes even at the tightest value, rows that it stops
even at the loosest, and rows that pass up to a value of their own. The filters decide which row is which, by judging
at both ends, so that their rules are not repeated here; only the number that a threshold is compared with is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel

from filters.interface import Threshold
from pipelines.core.resolve import Resolved, Step
from pipelines.core.verdicts import lacks_text, step_applies
from pipelines.report.report_rows import ReportRows

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Side = Literal["min", "max", "below"]

#: Outcome of a row if it passes the threshold in question.
PASSES, STOPPED, OPEN = 0, 1, 2


@dataclass(frozen=True)
class ThresholdEffect:
    """One number in the settings of a filter.

    path: its keys below filters.NAME; side "min": values >= it pass, "max": <=, "below": <; now: the run's setting,
    None if the rule is off. value: float64 (n,), the number that it is compared with. always, never: bool (n,): rows
    that pass, or are stopped, at every setting; for the others `value` decides. today: bool (n,): rows that pass with
    the run's setting. rest: uint8 (n,): outcome of a row that passes here: PASSES, STOPPED or OPEN (a later signal was
    not measured).
    """

    filter: str
    path: tuple[str, ...]
    side: Side
    now: float | None
    value: Floats
    always: Mask
    never: Mask
    today: Mask
    rest: NDArray[np.uint8]

    def passed(self, at: float) -> Mask:
        """bool (n,): rows that the filter passes with this threshold set to `at`."""
        passes = {"min": self.value >= at, "max": self.value <= at, "below": self.value < at}[self.side]
        return (self.always | passes) & ~self.never


def thresholds(resolved: Resolved, rows: ReportRows, captions_optional: frozenset[str]) -> Iterator[ThresholdEffect]:
    """Every threshold that could change the outcome of a row, in the order of the cascade."""
    state = _CascadeState(resolved, rows, captions_optional)
    for index, step in enumerate(resolved.steps):
        if step.filter is None:
            continue
        for threshold in step.filter.thresholds:
            effect = state.compute_effect(index, threshold)
            if (~effect.always & ~effect.never).any():
                yield effect


class _CascadeState:
    """The result of every step of the cascade for each row, computed once."""

    def __init__(self, resolved: Resolved, rows: ReportRows, captions_optional: frozenset[str]) -> None:
        self.resolved = resolved
        self.rows = rows
        self.silent = lacks_text(rows.samples, captions_optional)
        signals = rows.signals
        for column in resolved.schema(resolved.steps):
            if column.name not in signals.schema.names:
                signals = signals.append_column(column, pa.nulls(len(rows), column.type))
        self.signals = signals.append_column("modality", rows.samples["modality"])
        n = len(rows)
        self.broken = np.asarray(pc.is_valid(rows.samples["error"]), dtype=bool)
        self.errors, self.blanks, self.fails, self.asked = [], [], [], []
        for step in resolved.steps:
            error, blank, asked = self._look(step)
            failed = np.zeros(n, dtype=bool)
            if step.filter is not None and asked.any():
                where = np.flatnonzero(asked)
                failed[where] = ~step.filter.judge(self._columns(step, where)).passed
            self.errors.append(error)
            self.blanks.append(blank)
            self.fails.append(failed)
            self.asked.append(asked)

    def _look(self, step: Step) -> tuple[Mask, Mask, Mask]:
        """bool (n,) each: measuring failed; nothing was measured; the step's filter is asked."""
        applies = step_applies(self.resolved, step, self.rows.modality, self.silent)
        error = np.zeros(len(self.rows), dtype=bool)
        nothing = np.ones(len(self.rows), dtype=bool)
        for annotator in step.annotators:
            applicable = applies & np.isin(self.rows.modality, sorted(self.resolved.annotators[annotator].modalities))
            error |= applicable & np.asarray(pc.is_valid(self.signals[f"{annotator}.error"]), dtype=bool)
            for column, _ in self.resolved.columns(annotator):
                nothing &= np.asarray(pc.is_null(self.signals[column]), dtype=bool)
        if step.filter is None:
            none = np.zeros(len(self.rows), dtype=bool)
            return error, none, none
        measured = applies & ~error
        return error, measured & nothing, measured & ~nothing

    def _columns(self, step: Step, where: NDArray[np.int64]) -> pa.Table:
        names = [column for annotator in step.annotators for column, _ in self.resolved.columns(annotator)]
        return self.signals.select([*dict.fromkeys(names), "modality"]).take(pa.array(where))

    def compute_effect(self, index: int, threshold: Threshold) -> ThresholdEffect:
        step = self.resolved.steps[index]
        assert step.filter is not None
        path = tuple(threshold.key.split("."))
        loosest, tightest = (-np.inf, np.inf) if threshold.direction == "min" else (np.inf, -np.inf)
        where = np.flatnonzero(self.asked[index])
        columns = self._columns(step, where)
        always, never = ~self.asked[index], np.zeros(len(self.rows), dtype=bool)
        for limit, mask, outcome in ((tightest, always, True), (loosest, never, False)):
            settings = with_value(step.filter.settings, path, limit)
            passed = type(step.filter)(settings).judge(columns).passed
            mask[where] = passed == outcome
        rest, before = self._rest(index)
        # Rows that were stopped or left open before do not depend on this threshold.
        always |= before
        never &= ~before
        now, compared = threshold.setting(step.filter.settings), threshold.numbers(self.rows.signals)
        today = ~self.fails[index] | before
        side = threshold.direction
        return ThresholdEffect(step.filter.name, path, side, now, compared, always, never, today, rest)

    def _rest(self, index: int) -> tuple[NDArray[np.uint8], Mask]:
        """(outcome of rows that pass filter `index`; bool (n,): rows stopped or left open before that filter)."""
        rest = np.where(self.broken, STOPPED, PASSES).astype(np.uint8)
        before = self.broken.copy()
        for position in range(len(self.resolved.steps)):
            stopped = self.errors[position] | (self.fails[position] if position != index else False)
            free = rest == PASSES
            rest[free & stopped] = STOPPED
            rest[free & ~stopped & self.blanks[position]] = OPEN
            if position < index:
                before |= rest != PASSES
        before |= self.errors[index] | self.blanks[index]
        return rest, before


def with_value(settings: BaseModel, path: tuple[str, ...], value: float | None) -> BaseModel:
    """Settings with one number replaced, without validation, so that infinities are allowed."""
    if len(path) == 1:
        extra = {"keep_top": None} if "keep_top" in type(settings).model_fields else {}
        return settings.model_copy(update={**extra, path[0]: value})
    return settings.model_copy(update={path[0]: with_value(getattr(settings, path[0]), path[1:], value)})
