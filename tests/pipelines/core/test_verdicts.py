from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import tables
from pipelines.core.resolve import Resolved, resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import add_ledgers, check_ledger, judge_rows, lacks_text, tally


@pytest.fixture
def resolved(make_run: Callable[..., Run]) -> Resolved:
    sources = [{"name": "a", "path": ".", "modality": "image"}, {"name": "b", "path": ".", "modality": "video"}]
    return resolve(
        make_run(sources, filters={"caption": None, "facts": {"min_side": 100}, "motion": {"min_score": 0.1}})
    )


def judge_samples(resolved: Resolved, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[bool]]:
    """Rows from a few words: text, size, motion and errors; None is not measured."""
    samples, signals = [], []
    for number, row in enumerate(rows):
        base = {"key": f"k{number}", "modality": "video", "source": "b", "text": "words", "error": None}
        samples.append({**base, **{k: v for k, v in row.items() if k in base}})
        signals.append({"key": f"k{number}", "clean.text": "words", "facts.width": 200, "facts.height": 200,
                        "facts.pixel_aspect": 1.0, "facts.duration": 1.0, "facts.fps": 8.0, "motion.score": 0.5,
                        **{k: v for k, v in row.items() if "." in k}})  # fmt: skip
    table = pa.Table.from_pylist(signals, schema=resolved.schema(resolved.steps))
    verdicts, unknown = judge_rows(
        resolved, pa.Table.from_pylist(samples, schema=tables.SAMPLES), table, frozenset(["free"])
    )
    return verdicts.to_pylist(), unknown.tolist()


def judge_sample(resolved: Resolved, **row: Any) -> tuple[Any, Any, Any, bool]:
    (verdict,), (unknown,) = judge_samples(resolved, [row])
    return verdict["outcome"], verdict["filter"], verdict["reason"], unknown


NOTHING = dict.fromkeys([f"facts.{name}" for name in ("width", "height", "pixel_aspect", "duration", "fps")])


def test_outcomes_with_their_step_and_reason(resolved: Resolved) -> None:
    none = {**NOTHING, "motion.score": None}
    assert judge_sample(resolved) == ("alive", None, None, False)
    assert judge_sample(resolved, error="missing medium: x", **none) == ("failed", "ingest", "missing medium: x", False)
    assert judge_sample(resolved, **{"clean.text": "", **none}) == ("dropped", "caption", "no_caption", False)
    assert judge_sample(resolved, **{"facts.width": 50, "motion.score": None}) == (
        "dropped",
        "facts",
        "too_small",
        False,
    )
    assert judge_sample(resolved, **{**none, "facts.error": "decode: x"}) == (
        "failed",
        "measure",
        "facts: decode: x",
        False,
    )
    assert judge_sample(resolved, **{"motion.score": math.nan}) == ("failed", "measure", "motion: missing value", False)
    assert judge_sample(resolved, **{"motion.score": None, "motion.error": "model: NaN"})[:2] == ("failed", "measure")
    # What this cascade reaches and nobody measured is not known, and is neither kept nor dropped.
    assert judge_sample(resolved, **{"motion.score": None}) == ("alive", None, None, True)
    assert judge_sample(resolved, **NOTHING) == ("alive", None, None, True)
    # An image has no motion to be asked for; a source may say that it needs no captions.
    assert judge_sample(resolved, modality="image", **{"motion.score": None}) == ("alive", None, None, False)
    assert judge_sample(resolved, source="free", text=" ", **{"clean.text": None}) == ("alive", None, None, False)
    assert judge_sample(resolved, source="free", text="x", **{"clean.text": ""})[:2] == ("dropped", "caption")


def test_the_first_filter_is_named_and_the_others_are_listed(resolved: Resolved) -> None:
    (verdict,), _ = judge_samples(resolved, [{"clean.text": "", "facts.width": 50, "motion.score": 0.01}])
    assert (verdict["filter"], verdict["value"], verdict["threshold"]) == ("caption", 0.0, 1.0)
    assert [(o["filter"], o["value"], o["threshold"]) for o in verdict["others"]] == [
        ("facts", 50.0, 100.0),
        ("motion", 0.01, 0.1),
    ]


@pytest.mark.parametrize("names", list(itertools.permutations(["caption", "facts", "motion"])))
def test_the_order_of_filters_changes_reasons_but_not_which_samples_remain(
    names: Sequence[str], make_run: Callable[..., Run]
) -> None:
    settings: dict[str, Any] = {"caption": None, "facts": {"min_side": 100}, "motion": {"min_score": 0.1}}
    sources = [{"name": "b", "path": ".", "modality": "video"}]
    resolved = resolve(make_run(sources, filters={name: settings[name] for name in names}))
    values = {
        "caption": ("clean.text", "", "x"),
        "facts": ("facts.width", 50, 200),
        "motion": ("motion.score", 0.01, 0.5),
    }
    faults = list(itertools.product([False, True], repeat=3))
    rows = [
        {values[name][0]: values[name][1 if bad else 2] for name, bad in zip(names, row, strict=True)} for row in faults
    ]
    verdicts, _ = judge_samples(resolved, rows)
    for row, bad in zip(verdicts, faults, strict=True):
        broken = [name for name, wrong in zip(names, bad, strict=True) if wrong]
        assert row["outcome"] == ("dropped" if broken else "alive")
        assert [row["filter"], *(further["filter"] for further in row["others"])] == (broken or [None])


def test_rows_that_lack_text() -> None:
    samples = pa.table({"text": ["a", "", None, " \n"], "source": ["free", "free", "strict", "free"]})
    assert lacks_text(samples, frozenset(["free"])).tolist() == [False, True, False, True]


VERDICT = st.tuples(
    st.sampled_from(["video", "image", "text"]),
    st.sampled_from(
        [
            ("kept", None),
            ("dropped", "facts"),
            ("dropped", "resample"),
            ("duplicate", "duplicates"),
            ("failed", "ingest"),
        ]
    ),
)


@given(
    st.lists(VERDICT, max_size=30),
    st.integers(0, 30),
    st.dictionaries(st.sampled_from(["video", "image"]), st.integers(1, 5)),
)
def test_ledgers_reconcile_and_add_up(rows: list[Any], cut: int, ignored: dict[str, int]) -> None:
    def table(subset: list[Any]) -> pa.Table:
        return pa.table({"modality": [m for m, _ in subset], "outcome": [o for _, (o, _) in subset],
                         "filter": pa.array([f for _, (_, f) in subset], pa.string())})  # fmt: skip

    whole = tally(table(rows), ignored)
    assert whole["all"]["inputs"] == len(rows)  # type: ignore[index]
    assert whole["all"]["ignored"] == sum(ignored.values())  # type: ignore[index]
    assert whole["all"]["kept"] == sum(o == "kept" for _, (o, _) in rows)  # type: ignore[index]
    parts = [tally(table(rows[:cut]), ignored), tally(table(rows[cut:]), {})]
    assert add_ledgers(parts) == whole  # type: ignore[arg-type]
    assert sum(whole[m]["inputs"] for m in whole if m != "all") == len(rows)  # type: ignore[index]


def test_a_ledger_that_does_not_reconcile_is_refused() -> None:
    good: dict[str, object] = {
        "inputs": 3,
        "kept": 1,
        "duplicates": 0,
        "dropped": {"facts": 1},
        "failed": {"ingest": 1},
    }
    assert check_ledger(good) is good
    with pytest.raises(ValueError, match="3 in, 2 out"):
        check_ledger({**good, "kept": 0})
    with pytest.raises(ValueError, match="outcome 'alive'"):
        tally(pa.table({"modality": ["text"], "outcome": ["alive"], "filter": pa.array([None], pa.string())}), {})
