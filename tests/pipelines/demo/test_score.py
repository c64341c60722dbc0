from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.demo.score import score


def _truth(i: int, **more: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("fault", "kind", "hard", "group", "resample", "form"), "")
    return {"source": "s", "container": "c", "position": str(i), "modality": "image", **empty, **more}


def _row(i: int, outcome: str = "kept", **more: Any) -> dict[str, Any]:
    return {
        **{"key": f"k{i}", "source": "s", "container": "c", "position": str(i), "modality": "image"},
        **{"outcome": outcome, "filter": None, "reason": None, "value": None, "threshold": None},
        **{"duplicate_of": None, "keep_probability": None},
        **more,
    }


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    schema = pa.schema(
        [
            (n, pa.string())
            for n in ("key", "source", "container", "position", "modality", "outcome", "filter", "reason")
        ]
        + [("value", pa.float64()), ("threshold", pa.float64()), ("duplicate_of", pa.string())]
        + [("keep_probability", pa.float64())]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def test_recall_and_precision_of_a_filter() -> None:
    truth = [_truth(i, fault="motion") for i in range(4)] + [
        _truth(4, hard="motion"),
        _truth(5),
        _truth(6, fault="quality"),
    ]
    rows = [_row(i, "dropped", filter="motion") for i in range(3)]
    rows += [_row(3), _row(4, "dropped", filter="motion"), _row(5), _row(6, "dropped", filter="quality")]
    report = score(truth, _table(rows), {"inputs": 7})["filters"]
    assert (report["motion"]["recall"], report["motion"]["precision"]) == (0.75, 0.75)
    assert (report["motion"]["hard_negatives"], report["motion"]["hard_dropped"]) == (1, 1)
    assert (report["quality"]["recall"], report["quality"]["precision"]) == (1.0, 1.0)
    assert [m["position"] for m in report["motion"]["missed"]] == ["3"]
    assert [m["position"] for m in report["motion"]["wrong"]] == ["4"]
    assert report["overlay"]["recall"] is None


def test_both_alignment_filters_count_as_alignment() -> None:
    truth = [_truth(0, fault="alignment"), _truth(1, fault="alignment")]
    rows = [_row(0, "dropped", filter="alignment"), _row(1, "dropped", filter="video_alignment")]
    assert score(truth, _table(rows), {})["filters"]["alignment"]["recall"] == 1.0


@pytest.mark.parametrize(
    ("outcomes", "caught", "right", "exact"),
    [
        ({0: None, 1: 0, 2: 0}, 2, 2, 1),  # the original stays
        ({0: 2, 1: 2, 2: None}, 2, 2, 1),  # a copy stays: as good
        ({0: None, 1: None, 2: 0}, 1, 1, 0),  # one is missed
        ({0: None, 1: 0, 2: 9}, 1, 1, 0),  # called a copy of a stranger
        ({0: 1, 1: 2, 2: 0}, 2, 3, 0),  # all gone
    ],
)
def test_a_group_keeps_exactly_one(outcomes: dict[int, int | None], caught: int, right: int, exact: int) -> None:
    truth = [_truth(i, group="g", fault="duplicates" if i else "") for i in range(3)] + [_truth(9)]
    rows = [
        _row(i) if original is None else _row(i, "duplicate", duplicate_of=f"k{original}")
        for i, original in {**outcomes, 9: None}.items()
    ]
    entry = score(truth, _table(rows), {})["filters"]["duplicates.image"]
    assert (entry["planted"], entry["caught"], entry["right"], entry["groups_with_one_left"]) == (
        2,
        caught,
        right,
        exact,
    )


def test_a_survivor_that_resampling_drops_is_still_the_one_that_stayed() -> None:
    truth = [_truth(0, group="g"), _truth(1, group="g", fault="duplicates")]
    rows = [_row(0, "dropped", filter="resample", keep_probability=0.1), _row(1, "duplicate", duplicate_of="k0")]
    entry = score(truth, _table(rows), {})["filters"]["duplicates.image"]
    assert (entry["recall"], entry["precision"], entry["groups_with_one_left"]) == (1.0, 1.0, 1)


def test_broken_files_are_failed_rows_and_no_others() -> None:
    truth = [_truth(0, fault="broken"), _truth(1, fault="broken"), _truth(2, hard="broken")]
    entry = score(truth, _table([_row(0, "failed"), _row(1), _row(2, "failed")]), {})["broken"]
    assert (entry["recall"], entry["precision"], entry["hard_dropped"]) == (0.5, 0.5, 1)


def test_resampling_is_scored_against_its_probabilities() -> None:
    rng = np.random.default_rng(1)
    probabilities = rng.uniform(0.2, 1.0, 2000)
    kept = rng.random(2000) < probabilities

    def report(kept_now: np.ndarray) -> dict[str, Any]:
        rows = [
            _row(i, "kept" if k else "dropped", filter=None if k else "resample", keep_probability=float(p))
            for i, (p, k) in enumerate(zip(probabilities, kept_now, strict=True))
        ]
        rows.append(_row(5000, keep_probability=1.0))
        truth = [_truth(i, resample="head") for i in range(2000)] + [_truth(5000, resample="tail")]
        resampling: dict[str, Any] = score(truth, _table(rows), {})["resample"]
        return resampling

    honest = report(kept)
    spread = np.sqrt((probabilities * (1 - probabilities)).sum())
    assert honest["all"]["z"] == pytest.approx((kept.sum() - probabilities.sum()) / spread, abs=1e-3)
    assert honest["fair"] and honest["tail"]["rare_kept"] == 1
    assert not report(np.ones(2000, dtype=bool))["fair"]
    assert not report(kept & (rng.random(2000) < 0.8))["fair"]


def test_dropping_a_caption_that_must_be_kept_is_counted_as_unfair() -> None:
    rows = [_row(0, "dropped", filter="resample", keep_probability=1.0)]
    assert not score([_truth(0)], _table(rows), {})["resample"]["fair"]


def test_samples_on_one_side_only_are_counted_and_nothing_planted_is_reported() -> None:
    report = score([_truth(0), _truth(1)], _table([_row(1, "dropped", filter="facts"), _row(2)]), {"inputs": 2})
    assert (report["unmatched"]["truth"], report["unmatched"]["verdicts"]) == (1, 1)
    assert report["other_drops"] == {"facts": 1}
    assert report["ledger"] == {"inputs": 2}


def test_a_missing_column_is_named() -> None:
    with pytest.raises(ValueError, match="duplicate_of"):
        score([], _table([]).drop_columns(["duplicate_of"]), {})
