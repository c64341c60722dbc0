from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import tables
from infra.hashing import canonical_json
from mixtures.cards import cards
from mixtures.shards.series import Series

VALUES = st.lists(st.floats(-1e6, 1e6) | st.just(math.nan) | st.just(math.inf), max_size=40)


@pytest.mark.parametrize("values", [[0.0, 5e-324], [1e6, np.nextafter(1e6, 2e6)], [1e300, 1e300], [-1e300], [3.0]])
def test_values_too_close_for_bins_are_still_counted(values: list[float]) -> None:
    histogram = cards.build_histogram(np.array(values))
    assert histogram is not None and sum(histogram["counts"]) == len(values)


@given(VALUES, st.randoms())
def test_a_histogram_counts_every_finite_value_whatever_the_order(values: list[float], random: Any) -> None:
    histogram = cards.build_histogram(np.array(values, dtype=np.float64))
    finite = [number for number in values if math.isfinite(number)]
    if not finite:
        assert histogram is None
        return
    assert histogram is not None
    assert sum(histogram["counts"]) == histogram["count"] == len(finite)
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1 == cards.BINS + 1
    assert histogram["min"] <= histogram["p05"] <= histogram["p50"] <= histogram["p95"] <= histogram["max"]
    random.shuffle(values)
    assert cards.build_histogram(np.array(values, dtype=np.float64)) == histogram
    canonical_json(histogram)


def test_a_card_sums_its_members() -> None:
    rows = [
        {"key": f"k{i}", "shard": "video-000000", "source": s, "licence": licence, "kind": "caption", "language": "en",
         "tokens": 100 + i, "seconds": 1.5, "bytes": 10, "modality": "video"}
        for i, (s, licence) in enumerate([("a", "CC0"), ("a", None), ("b", "CC0")])
    ]  # fmt: skip
    signals = pa.table(
        {"motion.score": [0.1, None, 0.3], "facts.width": pa.array([64, 64, 64], pa.int32()), "x": [1, 2, 3]}
    )
    card = cards.build_card(
        name="video-000000",
        tar={"sha256": "ab", "bytes": 9},
        series=Series.parse("video:json,mp4"),
        members=pa.Table.from_pylist(rows, schema=tables.MEMBERS),
        signals=signals,
        score_columns=["motion.score", "facts.width", "quality.words"],
        ledger={"inputs": 4},
        reasons={"motion: static": 1},
        unused_captions=2,
        made_by={"name": "x"},
    )
    assert (card["samples"], card["tokens"], card["seconds"], card["media_bytes"]) == (3, 303, 4.5, 30)
    assert card["sources"] == {"a": 2, "b": 1} and card["licences"] == {"": 1, "CC0": 2}
    assert card["unused_captions"] == 2
    assert card["modality"] == "video" and card["suffixes"] == ["json", "mp4"]
    assert sorted(card["scores"]) == ["facts.width", "motion.score"]
    assert card["scores"]["motion.score"]["count"] == 2


@given(st.lists(st.none() | st.sampled_from(["a", "b", ""]), max_size=30))
def test_arrow_columns_are_counted_like_lists(values: list[str | None]) -> None:
    assert cards.count_values(pa.chunked_array([pa.array(values, pa.string())])) == cards.count_values(values)
