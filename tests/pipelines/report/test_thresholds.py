"""Sliders against the oracle: the run's own judge with the threshold changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import FILTERS
from pipelines.core.finished_run import JudgedRun, open_judged_run
from pipelines.core.resolve import Resolved, Step
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE, judge_rows
from pipelines.report import sliders
from pipelines.report.report_rows import ReportRows, read_rows
from pipelines.report.thresholds import OPEN, PASSES, ThresholdEffect, thresholds, with_value
from tests.pipelines.report.test_data_scripts import unpack


@pytest.fixture(scope="module")
def world(run: Run) -> tuple[JudgedRun, ReportRows, list[ThresholdEffect]]:
    finished = open_judged_run(run.out)
    rows = read_rows(finished)
    return finished, rows, list(thresholds(finished.resolved, rows, finished.run.captions_optional))


def change_threshold(resolved: Resolved, threshold: ThresholdEffect, at: float) -> Resolved:
    steps = []
    for step in resolved.steps:
        if step.filter is not None and step.filter.name == threshold.filter:
            filter_ = type(step.filter)(with_value(step.filter.settings, threshold.path, at))
            step = Step(step.annotators, filter_)
        steps.append(step)
    return replace(resolved, steps=tuple(steps))


def judge_again(
    finished: JudgedRun, rows: ReportRows, threshold: ThresholdEffect, at: float
) -> tuple[np.ndarray, np.ndarray]:
    """bool (n,): rows that certainly pass all filters, and rows that no one can tell of."""
    resolved = change_threshold(finished.resolved, threshold, at)
    judged, unknown = judge_rows(resolved, rows.samples, rows.signals, finished.run.captions_optional)
    alive = np.array([outcome == ALIVE for outcome in judged["outcome"].to_pylist()])
    return alive & ~unknown, alive & unknown


def test_thresholds_of_every_filter_in_the_cascade_are_found(world: Any) -> None:
    finished, _, effects = world
    names = {filter_.name for filter_ in finished.resolved.filters}
    assert {threshold.filter for threshold in effects} == names - {"caption"}
    assert len(effects) > 20


@settings(max_examples=40)
@given(data=st.data())
def test_any_threshold_anywhere_keeps_what_the_judge_keeps(world: Any, data: st.DataObject) -> None:
    finished, rows, effects = world
    threshold = data.draw(st.sampled_from(effects))
    values = sorted({float(x) for x in threshold.value if np.isfinite(x)})
    at = data.draw(st.sampled_from(values) | st.floats(values[0] - 1, values[-1] + 1))
    certain, possible = judge_again(finished, rows, threshold, at)
    passed = threshold.passed(at)
    np.testing.assert_array_equal(passed & (threshold.rest == PASSES), certain)
    np.testing.assert_array_equal(passed & (threshold.rest == OPEN), possible)


def test_missing_cells_widen_the_count_to_an_interval(world: Any) -> None:
    finished, rows, effects = world
    words = next(t for t in effects if t.filter == "quality" and t.path == ("min_words",))
    _, possible = judge_again(finished, rows, words, 2.0)
    assert possible.sum() == 1  # the clip of two words was never asked how it moves
    np.testing.assert_array_equal(words.passed(2.0) & (words.rest == OPEN), possible)


def test_current_thresholds_reproduce_the_run(world: Any) -> None:
    _, rows, effects = world
    alive = np.isin(rows.outcome, ["kept", "duplicate"]) | (rows.stopped_by == "resample")
    for threshold in effects:
        np.testing.assert_array_equal(threshold.today & (threshold.rest == PASSES), alive)
        if threshold.now is not None:
            np.testing.assert_array_equal(threshold.passed(threshold.now) & (threshold.rest == PASSES), alive)


def test_counts_by_value_add_up_to_the_rows(world: Any) -> None:
    _, rows, effects = world
    for threshold in effects:
        for counts in sliders.count_by_value(threshold, rows):
            of_modality = rows.modality == counts["modality"]
            values = unpack(counts["value"])
            for at in [*values.tolist()[:5], 0.0]:
                side = {"min": values >= at, "max": values <= at, "below": values < at}[threshold.side]
                for i, (name, rest) in enumerate((("passes", PASSES), ("open", OPEN))):
                    total = counts["fixed"][i] + int(unpack(counts[name])[side].sum())
                    assert total == int((of_modality & threshold.passed(at) & (threshold.rest == rest)).sum())


# -- filters whose rules are not plain limits, on rows of every kind ---------------------------------------------------

COLUMNS = {
    "language": ("label", "score", "english", "letters", "latin", "english_share"),
    "facts": ("width", "height", "pixel_aspect", "duration", "fps"),
}


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), name=st.sampled_from(sorted(COLUMNS)))
def test_threshold_values_are_those_that_the_filter_compares(seed: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    n = 60
    kind = FILTERS[name]
    columns: dict[str, Any] = {"modality": rng.choice(["video", "image"], n)}
    for column in COLUMNS[name]:
        if column == "label":
            columns["language.label"] = rng.choice(["en", "de", "fr"], n)
        elif column in ("letters", "width", "height"):
            columns[f"{name}.{column}"] = rng.integers(0 if column == "letters" else 1, 40, n)
        elif column == "latin":
            columns["language.latin"] = (columns["language.letters"] * rng.choice([0, 0.5, 1], n)).astype(int)
        else:
            columns[f"{name}.{column}"] = np.round(rng.random(n), 2)
    columns["facts.codec"] = ["h264"] * n
    signals = pa.table(columns)
    own = kind.settings_class()()
    for threshold in kind.thresholds:
        path, side, numbers = tuple(threshold.key.split(".")), threshold.direction, threshold.numbers(signals)
        ends = (np.inf, -np.inf) if side == "min" else (-np.inf, np.inf)
        always, sometimes = (kind(with_value(own, path, end)).judge(signals).passed for end in ends)
        for at in rng.choice(numbers[np.isfinite(numbers)], 4):
            met = {"min": numbers >= at, "max": numbers <= at, "below": numbers < at}[side]
            real = kind(with_value(own, path, float(at))).judge(signals).passed
            np.testing.assert_array_equal(always | (sometimes & met), real, err_msg=f"{name} {path} {at}")
