"""What each threshold would keep at any other value: the data behind the sliders.

Every threshold splits the rows alike, whatever the filter: rows that its filter passes even at the tightest value,
rows that it stops even at the loosest, and rows that pass up to one value of their own. The filters themselves say
which row is which (they are asked at both ends), so that nothing of their rules is written a second time here; only
the number that a threshold is held against is.
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

#: What happens to a row apart from the threshold looked at.
PASSES, STOPPED, OPEN = 0, 1, 2


@dataclass(frozen=True)
class ThresholdEffect:
    """One number in the settings of a filter.

    path: its keys below filters.NAME; side "min": values >= it pass, "max": <=, "below": <; now: as the run had it,
    None where the rule was off. value: float64 (n,), what it is held against. always, never: bool (n,): rows whose
    filter passes, or stops them, at every value; the others pass where `value` is on the right side.
    today: bool (n,): rows that the filter passes as the run had it (with the rule off, where it was off).
    rest: uint8 (n,): what becomes of a row that passes here: PASSES, STOPPED or OPEN (a later cell was never measured).
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
        """bool (n,): rows that the filter passes with this threshold at `at`."""
        held = {"min": self.value >= at, "max": self.value <= at, "below": self.value < at}[self.side]
        return (self.always | held) & ~self.never


def thresholds(resolved: Resolved, rows: ReportRows, captions_optional: frozenset[str]) -> Iterator[ThresholdEffect]:
    """Every threshold of every filter that could stop a row, in the order of the cascade."""
    world = _World(resolved, rows, captions_optional)
    for index, step in enumerate(resolved.steps):
        if step.filter is None:
            continue
        for threshold in step.filter.thresholds:
            found = world.at(index, threshold)
            if (~found.always & ~found.never).any():
                yield found


class _World:
    """What the steps of the cascade say of each row, asked once."""

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
        wanted = step_applies(self.resolved, step, self.rows.modality, self.silent)
        error = np.zeros(len(self.rows), dtype=bool)
        nothing = np.ones(len(self.rows), dtype=bool)
        for annotator in step.annotators:
            able = wanted & np.isin(self.rows.modality, sorted(self.resolved.annotators[annotator].modalities))
            error |= able & np.asarray(pc.is_valid(self.signals[f"{annotator}.error"]), dtype=bool)
            for column, _ in self.resolved.columns(annotator):
                nothing &= np.asarray(pc.is_null(self.signals[column]), dtype=bool)
        if step.filter is None:
            none = np.zeros(len(self.rows), dtype=bool)
            return error, none, none
        measured = wanted & ~error
        return error, measured & nothing, measured & ~nothing

    def _columns(self, step: Step, where: NDArray[np.int64]) -> pa.Table:
        names = [column for annotator in step.annotators for column, _ in self.resolved.columns(annotator)]
        return self.signals.select([*dict.fromkeys(names), "modality"]).take(pa.array(where))

    def at(self, index: int, threshold: Threshold) -> ThresholdEffect:
        step = self.resolved.steps[index]
        assert step.filter is not None
        path = tuple(threshold.key.split("."))
        loosest, tightest = (-np.inf, np.inf) if threshold.direction == "min" else (np.inf, -np.inf)
        where = np.flatnonzero(self.asked[index])
        columns = self._columns(step, where)
        always, never = ~self.asked[index], np.zeros(len(self.rows), dtype=bool)
        for limit, mask, wanted in ((tightest, always, True), (loosest, never, False)):
            settings = with_value(step.filter.settings, path, limit)
            passed = type(step.filter)(settings).judge(columns).passed
            mask[where] = passed == wanted
        rest, before = self._rest(index)
        # What stopped a row before, or left it open, holds whatever is asked here.
        always |= before
        never &= ~before
        now, value = threshold.setting(step.filter.settings), threshold.numbers(self.rows.signals)
        today = ~self.fails[index] | before
        return ThresholdEffect(step.filter.name, path, threshold.direction, now, value, always, never, today, rest)

    def _rest(self, index: int) -> tuple[NDArray[np.uint8], Mask]:
        """(what becomes of rows that pass filter `index`, bool (n,): it was settled before that filter was asked)."""
        rest = np.where(self.broken, STOPPED, PASSES).astype(np.uint8)
        before = self.broken.copy()
        for position in range(len(self.resolved.steps)):
            gone = self.errors[position] | (self.fails[position] if position != index else False)
            free = rest == PASSES
            rest[free & gone] = STOPPED
            rest[free & ~gone & self.blanks[position]] = OPEN
            if position < index:
                before |= rest != PASSES
        before |= self.errors[index] | self.blanks[index]
        return rest, before


def with_value(settings: BaseModel, path: tuple[str, ...], value: float | None) -> BaseModel:
    """Settings with one number replaced, unchecked: infinities stand for the ends."""
    if len(path) == 1:
        extra = {"keep_top": None} if "keep_top" in type(settings).model_fields else {}
        return settings.model_copy(update={**extra, path[0]: value})
    return settings.model_copy(update={path[0]: with_value(getattr(settings, path[0]), path[1:], value)})
