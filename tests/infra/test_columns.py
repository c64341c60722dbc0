"""Columns as numpy arrays."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from infra import columns


@pytest.mark.parametrize("chunked", [False, True])
def test_nulls_have_one_meaning_each(chunked: bool) -> None:
    def column(values: list[object], kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
        array = pa.array(values, kind)
        return pa.chunked_array([array.slice(0, 1), array.slice(1)], kind) if chunked else array

    texts = column(["a", None, "b"], pa.string())
    assert columns.to_strings(texts).tolist() == ["a", None, "b"]
    assert columns.to_strings(texts).dtype == object
    assert columns.equals(texts, "a").tolist() == [True, False, False]
    assert columns.is_null(texts).tolist() == [False, True, False]
    assert columns.is_valid(texts).tolist() == [True, False, True]
    assert columns.to_mask(column([True, None, False], pa.bool_())).tolist() == [True, False, False]
    floats = columns.to_floats(column([1, None, 3], pa.int32()))
    assert floats[0] == 1 and math.isnan(floats[1]) and floats.dtype == np.float64
    assert columns.to_floats(column([1.5, None, 3.0], pa.float32()), 0.0).tolist() == [1.5, 0.0, 3.0]
    assert columns.to_ints(column([1, None, 3], pa.int64())).tolist() == [1, -1, 3]


def test_empty_columns() -> None:
    assert columns.to_strings(pa.array([], pa.string())).shape == (0,)
    assert columns.to_mask(pa.array([], pa.bool_())).shape == (0,)
    assert columns.equals(pa.array([], pa.string()), "a").dtype == bool


def test_nan_is_a_value() -> None:
    values = pa.array([float("nan"), None])
    assert columns.is_null(values).tolist() == [False, True]
    assert columns.is_valid(values).tolist() == [True, False]
