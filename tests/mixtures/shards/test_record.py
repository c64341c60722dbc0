from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.hashing import canonical_json
from mixtures.shards.record import FIELDS, Record, RecordTurn, build_columns, parse_record, parse_records
from pipelines.core.run import Run

TEXT = st.text(max_size=20)
NUMBER = st.integers(0, 2**40)
FLOAT = st.floats(0, 1e9)
RECORDS = st.builds(
    Record,
    conversations=st.lists(st.builds(RecordTurn, speaker=TEXT, text=TEXT), max_size=3),
    **dict.fromkeys(("width", "height", "n_frames", "tokens"), NUMBER),
    **dict.fromkeys(("duration", "fps", "pixel_aspect"), FLOAT),
)


@given(st.lists(RECORDS, max_size=5))
def test_records_are_read_as_they_were_written(records: list[Record]) -> None:
    lines = [canonical_json(msgspec.to_builtins(record)) for record in records]
    assert [parse_record(line) for line in lines] == records
    joined = b"".join(lines)
    ends = [sum(map(len, lines[: n + 1])) for n in range(len(lines))]
    spans = [(end - len(line), end) for line, end in zip(lines, ends, strict=True)]
    assert parse_records(memoryview(joined), spans) == records
    columns = build_columns(records)
    assert columns["caption"] == [record.caption for record in records]
    assert columns["characters"] == [len("".join(turn.text for turn in record.conversations)) for record in records]


def test_fields_are_those_that_export_writes(cold: Run) -> None:
    import tarfile

    path = next(Path(cold.at("shards")).glob("*.tar"))
    with tarfile.open(path) as tar:
        line = next(tar.extractfile(info).read() for info in tar if info.name.endswith(".json"))  # type: ignore[union-attr]
    assert set(json.loads(line)) == {*FIELDS, "conversations"}
    assert canonical_json(msgspec.to_builtins(parse_record(line))) == line


def make_record() -> dict[str, Any]:
    values: dict[type, Any] = {str: "", int: 0, float: 0.0}
    record = {name: values.get(kind, "") for name, kind in Record.__annotations__.items() if isinstance(kind, type)}
    return {**dict.fromkeys(FIELDS, ""), **record, "conversations": [], "sha256": [""],
            **dict.fromkeys(("width", "height", "n_frames", "tokens"), 0), "duration": 0.0, "fps": 0.0,
            "pixel_aspect": 0.0}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": "640"}, "width"),
        ({"caption": None}, "caption"),
        ({"more": 1}, "more"),
        ({"conversations": [{"from": "human"}]}, "value"),
        ({"sha256": "ab"}, "sha256"),
    ],
)
def test_a_field_of_another_type_is_named(change: dict[str, Any], words: str) -> None:
    parse_record(canonical_json(make_record()))
    with pytest.raises(ValueError, match=words):
        parse_record(canonical_json({**make_record(), **change}))


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_record(line)
    assert parse_records(memoryview(line), [(0, len(line))]) is None
