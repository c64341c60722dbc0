from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.ingest.tables import json_rows, streams
from pipelines.ingest.tables.json_rows import read_json


def read(text: str, name: str = "a.json") -> list[tuple[Any, str | None]]:
    return [(row, error and error.split(":")[0]) for _, row, error in read_json(io.StringIO(text, newline=""), name)]


ROWS = st.lists(
    st.dictionaries(
        st.text('ab{}[]"\\,', max_size=4),
        st.recursive(
            st.none() | st.integers() | st.text('ab{}[]"\\,\n é', max_size=6), lambda inner: st.lists(inner, max_size=3)
        ),
        max_size=3,
    ),
    max_size=5,
)
LAYOUTS = ["array", "pretty array", "lines", "pretty objects", "objects without a break", "lines of arrays"]


@example([{}, {"": None}], "pretty objects", "a.json", 1)
@example([{}, {}, {"a": 1}, {"b": 2}], "pretty objects", "a.jsonl", 7)
@given(ROWS, st.sampled_from(LAYOUTS), st.sampled_from(["a.json", "a.jsonl"]), st.integers(1, 40))
def test_every_layout_of_json_gives_its_rows(rows: list[Any], layout: str, name: str, block: int) -> None:
    text = {
        "array": json.dumps(rows),
        "pretty array": json.dumps(rows, indent=1),
        "lines": "\n".join(map(json.dumps, rows)),
        "pretty objects": "\n".join(json.dumps(row, indent=1) for row in rows),
        "objects without a break": "".join(map(json.dumps, rows)),
        "lines of arrays": "\n".join(json.dumps([row]) for row in rows),
    }[layout]
    if not text and name == "a.json":
        assert read(text, name) == [(None, "unreadable table")]
        return
    usual, json_rows._BLOCK = json_rows._BLOCK, block
    try:
        answer = [row for row, _ in read(text, name)]
    finally:
        json_rows._BLOCK = usual
    is_line_of_arrays = layout == "lines of arrays" and len(rows) > 1
    assert answer == ([[row] for row in rows] if is_line_of_arrays else rows)


def test_a_broken_line_is_a_failed_row_with_its_line() -> None:
    text = '{"a": 1}\n\n{"a": "x "y" z"}\n{"a": 3}\n'
    assert [(number, row, error) for number, row, error in read_json(io.StringIO(text), "a.jsonl")] == [
        (0, {"a": 1}, None),
        (2, None, "broken row: Expecting ',' delimiter at column 11 (line 3)"),
        (3, {"a": 3}, None),
    ]
    for name in ("a.json", "a.jsonl"):
        assert read('{"a": "x "y" z"}\n{"a": 3}\n', name) == [(None, "broken row"), ({"a": 3}, None)]
        assert read('{"a": 1}\n{"a": "to', name) == [({"a": 1}, None), (None, "broken row")]


def test_a_broken_element_of_an_array_is_a_failed_row() -> None:
    assert read('[{"a": 1}, {"a": tru}, {"a" 2, "b": []}, {"a": "]"},\n\n nope, 7, {"a": 4}]') == [
        ({"a": 1}, None),
        (None, "broken row"),
        (None, "broken row"),
        ({"a": "]"}, None),
        (None, "broken row"),
        (7, None),
        ({"a": 4}, None),
    ]


@pytest.mark.parametrize("cut", range(2, 21))
def test_a_torn_array_gives_its_rows_and_a_failed_row(cut: int) -> None:
    text = '[{"a": 1}, {"a": "]"}]'[:cut]
    rows = read(text)
    assert rows[-1] == (None, "unreadable table")
    assert [row for row, _ in rows if row] == [{"a": 1}][: cut >= 9] + [{"a": "]"}][: cut >= 21]


@pytest.mark.parametrize("layout", ["[{}, {}, {}]", "{}\n{}\n{}\n", "[\n{},\n{},\n{}]", "{}{}\n{}"])
@pytest.mark.parametrize("filler", ["x" * 5000, '\\"' * 2500, "{[" * 2000])
def test_rows_after_one_that_is_too_large_are_read(layout: str, filler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(json_rows, "_BLOCK", 100)
    first, second, third = layout.split("{}")[0], '{"a": "' + filler + '"}', '{"a": 3}'
    rows = read(layout.replace("{}", '{"a": 1}', 1).replace("{}", second, 1).replace("{}", third, 1), "a.json")
    assert rows[-1] == ({"a": 3}, None) and (None, "too_large") in rows, first


def test_a_file_that_is_no_json_is_one_failed_row() -> None:
    assert read("\x00\x01 nothing\n of this\n") == [(None, "unreadable table")]
    assert read("", "a.jsonl") == read("\n\n", "a.jsonl") == read("[]") == []
    deep = "[" * 100_000 + "]" * 100_000
    assert [error for _, error in read(f'[{{"a": {deep}}}, {{"a": 1}}]')] == ["broken row", None]
