"""Data files: what comes out of them is what went in, and no byte of it means anything to a browser."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.report.data_scripts import build_script, pack_codes, pack_numbers

TEXTS = st.text(st.characters(codec=None), max_size=30) | st.sampled_from(
    ["</script><script>alert(1)</script>", "<!--", "\u2028\u2029", "__proto__", "\ud800", '"\\', "]]>", "&lt;"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def read_script(script: bytes) -> Any:
    """The value in a script, read by the JSON rules that a browser has."""
    text = script.decode("utf-8")
    match = re.fullmatch(r'\(window\.REELMILL=window\.REELMILL\|\|\{\}\)\["x"\]=JSON\.parse\((.*)\);\n', text, re.S)
    assert match is not None
    return json.loads(json.loads(match[1]))


@settings(max_examples=50)
@given(VALUES)
def test_a_script_evaluates_to_its_value(document: Any) -> None:
    assert read_script(build_script("x", document)) == document


@settings(max_examples=50)
@given(VALUES)
def test_a_script_contains_no_tag_and_no_line_separator(document: Any) -> None:
    text = build_script("x", document).decode("utf-8")
    assert not set(text) & set("<>\u2028\u2029") and text.count("\n") == 1


def unpack(packed: dict[str, Any]) -> np.ndarray:
    """As base.js does it."""
    kinds = {"u8": "u1", "u16": "<u2", "u32": "<u4", "i32": "<i4", "f64": "<f8"}
    stored = np.frombuffer(base64.b64decode(packed["data"]), dtype=kinds[packed["kind"]])
    if packed["kind"] == "f64":
        return stored
    numbers = stored.astype(np.float64) / packed["scale"]
    return numbers if packed["null"] is None else np.where(stored == packed["null"], np.nan, numbers)


SCORES = st.floats(-3000, 3000).map(lambda x: round(x, 6))
WHOLE = st.integers(-(2**40), 2**40).map(float)


@given(st.lists(st.none() | SCORES | WHOLE | st.floats(allow_nan=False), max_size=20))
def test_numbers_are_unpacked_to_identical_doubles(values: list[float | None]) -> None:
    column = np.array([np.nan if number is None else number for number in values], dtype=np.float64)
    np.testing.assert_array_equal(unpack(pack_numbers(column)), column)


@given(st.lists(st.none() | SCORES, min_size=1, max_size=20))
def test_scores_take_four_bytes_at_most(values: list[float | None]) -> None:
    column = np.array([np.nan if number is None else number for number in values], dtype=np.float64)
    in_range = np.abs(np.nan_to_num(column)).max() < 2147
    assert not in_range or pack_numbers(column)["kind"] in ("u8", "u16", "i32")


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_codes_are_unpacked_unchanged(values: list[int]) -> None:
    assert unpack(pack_codes(np.array(values, dtype=np.int64))).tolist() == values
