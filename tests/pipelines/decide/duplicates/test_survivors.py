"""Who stays of a group: each criterion decides where those before it are equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from filters.dedup.components import choose_survivors
from pipelines.decide.duplicates.survivors import rank_media

PLAIN: dict[str, Any] = {
    "text": "a dog", "facts.duration": 10.0, "alignment.score": 0.30, "facts.width": 640, "facts.height": 480,
    "facts.bytes": 60_000, "fingerprint.chroma": 0.2, "fingerprint.border": 0.0, "overlay.area": 0.0,
}  # fmt: skip


def survivor(*members: dict[str, Any]) -> int:
    """The member that stays of a group in which each has these measurements; keys ascend."""
    table = pa.Table.from_pylist([{**PLAIN, **member} for member in members])
    ranks = rank_media(table.drop_columns(["text"]), table["text"])
    ids = np.arange(len(members), dtype=np.uint64)
    return int(choose_survivors(ids, np.zeros_like(ids), ranks, [f"k{i}" for i in range(len(members))])[0])


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
        {"overlay.area": 0.04},
    ],
    ids=str,
)
def test_the_worse_copy_goes_whatever_its_key(worse: dict[str, Any]) -> None:
    assert survivor(worse, {}) == 1 and survivor({}, worse) == 0


def test_criteria_decide_in_their_order() -> None:
    assert survivor({"text": None, "alignment.score": 0.4}, {}) == 1
    assert survivor({"alignment.score": 0.4, "facts.width": 320}, {"facts.width": 640}) == 0
    assert survivor({"fingerprint.chroma": 0.0, "facts.width": 1280}, {}) == 0
    assert survivor({"facts.bytes": 15_000, "overlay.area": 0.0}, {"overlay.area": 0.1}) == 1


def test_the_noise_of_a_copy_decides_nothing() -> None:
    assert survivor({"overlay.area": 0.02, "alignment.score": 0.305, "facts.bytes": 63_000}, {}) == 1


def test_equals_are_left_to_the_key_and_what_was_not_measured_is_skipped() -> None:
    assert survivor({}, {}) == 0
    table = pa.table({"facts.width": [10, 20], "facts.height": [10, 10], "facts.bytes": [5, 5]})
    ranks = rank_media(table, pa.chunked_array([["a", "b"]]))
    assert [int(rank[0] < rank[1]) for rank in ranks] == [0, 0, 0, 0, 1, 0, 0, 0, 0]
