"""Who stays of a group: each criterion decides where those before it are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from filters.dedup.components import choose_survivors
from pipelines.decide.duplicates.survivors import TOLERANCES, rank_media

PLAIN: dict[str, Any] = {
    "text": "a dog", "facts.duration": 10.0, "alignment.score": 0.30, "facts.width": 640, "facts.height": 480,
    "facts.bytes": 60_000, "fingerprint.chroma": 0.2, "fingerprint.border": 0.0, "overlay.text_area": 0.0,
}  # fmt: skip


def survivor(*members: dict[str, Any]) -> int:
    """The member that stays of a group in which each has these measurements; keys ascend."""
    table = pa.Table.from_pylist([{**PLAIN, **member} for member in members])
    ranks = rank_media(table.drop_columns(["text"]), table["text"])
    ids = np.arange(len(members), dtype=np.uint64)
    keys = [f"k{i}" for i in range(len(members))]
    return int(choose_survivors(ids, np.zeros_like(ids), [*ranks.values()], [*TOLERANCES.values()], keys)[0])


@pytest.mark.parametrize(
    "worse",
    [
        {"text": None},
        {"text": "  "},
        {"facts.duration": 4.0},
        {"alignment.score": 0.2},
        {"alignment.score": None},
        {"facts.width": 320, "facts.height": 240, "facts.bytes": 15_000},
        {"fingerprint.chroma": 0.003},
        {"facts.bytes": 15_000},
        {"facts.height": 640, "fingerprint.border": 0.25},
        {"overlay.text_area": 0.04},
    ],
    ids=str,
)
def test_the_worse_copy_goes_whatever_its_key(worse: dict[str, Any]) -> None:
    assert survivor(worse, {}) == 1 and survivor({}, worse) == 0


def test_criteria_decide_in_their_order() -> None:
    assert survivor({"text": None, "alignment.score": 0.4}, {}) == 1
    assert survivor({"alignment.score": 0.4, "facts.width": 320}, {"facts.width": 640}) == 0
    assert survivor({"fingerprint.chroma": 0.0, "facts.width": 1280}, {}) == 0
    assert survivor({"facts.bytes": 15_000, "overlay.text_area": 0.0}, {"overlay.text_area": 0.1}) == 1


@pytest.mark.parametrize("column", ["facts.bytes", "facts.width", "alignment.score", "facts.duration",
                                    "fingerprint.chroma", "fingerprint.border", "overlay.text_area"])  # fmt: skip
def test_the_noise_of_a_copy_decides_nothing_wherever_it_lies(column: str) -> None:
    """Two values near each other on a grid of 40 places: rounded to steps, some of the pairs would be told apart."""
    shift = {"facts.duration": 0.04, "alignment.score": 0.02, "fingerprint.chroma": 0.01, "fingerprint.border": 0.01,
             "overlay.text_area": 0.005}  # fmt: skip
    for place in np.linspace(0.1, 0.9, 40):
        place *= {"facts.duration": 10, "fingerprint.border": 0.3}.get(column, 1)
        low = {**PLAIN, column: place if column in shift else int(60_000 * 2**place)}
        high = {**low, column: place + shift[column] if column in shift else int(low[column] * 1.05)}
        if column == "facts.width":
            low["facts.bytes"], high["facts.bytes"] = low[column] * 99, high[column] * 99
        assert survivor(low, high) == 0 and survivor(high, low) == 0, place


def test_a_real_difference_decides_wherever_it_lies() -> None:
    for place in np.linspace(0.1, 0.9, 40):
        assert survivor({"alignment.score": place}, {"alignment.score": place + 0.06}) == 1
        assert survivor({"facts.bytes": int(2**15 * 2**place)}, {"facts.bytes": int(2**15.6 * 2**place)}) == 1


def test_equals_are_left_to_the_key_and_what_was_not_measured_is_skipped() -> None:
    assert survivor({}, {}) == 0
    table = pa.table({"facts.width": [10, 20], "facts.height": [10, 10], "facts.bytes": [5, 5]})
    ranks = rank_media(table, pa.chunked_array([["a", "b"]]))
    assert [name for name, rank in ranks.items() if rank[0] < rank[1]] == ["pixels"]
    assert list(ranks) == list(TOLERANCES)
