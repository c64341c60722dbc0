from __future__ import annotations

import io
import itertools
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import tables

SCHEMA = pa.schema([("key", pa.string()), ("n", pa.list_(pa.int32())), ("x", pa.float64())])
ROW = st.fixed_dictionaries(
    {
        "key": st.none() | st.text(max_size=5),
        "n": st.none() | st.lists(st.integers(0, 9), max_size=3),
        "x": st.none() | st.floats(allow_nan=False),
    }
)


@given(st.lists(ROW, max_size=12), st.lists(st.integers(0, 12), max_size=4))
def test_equal_rows_are_equal_bytes_however_they_were_chunked(rows: list[dict[str, object]], cuts: list[int]) -> None:
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    edges = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    content = tables.to_bytes(table, fingerprint="f")
    assert tables.to_bytes(pa.concat_tables(pieces), fingerprint="f") == content
    assert pq.read_table(io.BytesIO(content)).to_pylist() == rows


def test_what_a_table_was_made_from_decides_whether_it_is_done(tmp_path: Path) -> None:
    uri = str(tmp_path / "u.parquet")
    assert tables.read_footer(uri) is None and not tables.is_done(uri, "")
    table = pa.table({"a": [1, 2, 3]})
    tables.write(uri, table, fingerprint="one")
    assert tables.read_footer(uri) == ("one", 3, False)
    assert tables.is_done(uri, "one") and not tables.is_done(uri, "two")
    tables.write(uri, table, fingerprint="one", retry=True)
    assert tables.read_footer(uri) == ("one", 3, True) and not tables.is_done(uri, "one")
    tables.write(uri, tables.read(uri).replace_schema_metadata(None), fingerprint="one")
    assert tables.is_done(uri, "one")


def test_a_damaged_table_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "u.parquet"
    whole = tables.to_bytes(pa.table({"a": list(range(100))}), fingerprint="one")
    for damaged in (b"", b"PAR1", whole[:-1], whole[: len(whole) // 2], whole[:-8] + b"\xff" * 8, b"x" * 50,
                 whole[:-200] + b"\xff" * 180 + whole[-20:], whole[:-60] + b"\0" * 52 + whole[-8:]):  # fmt: skip
        path.write_bytes(damaged)
        assert not tables.is_done(str(path), "one")


def test_row_groups_are_read_alone(tmp_path: Path) -> None:
    uri = str(tmp_path / "g.parquet")
    tables.write(uri, pa.table({"a": [1, 2, 3, 4]}), groups=[1, 0, 3])
    assert [tables.read_group(uri, i)["a"].to_pylist() for i in range(3)] == [[1], [], [2, 3, 4]]
    assert tables.read(uri, ["a"])["a"].to_pylist() == [1, 2, 3, 4]


@pytest.mark.parametrize("name", sorted(tables.SCHEMAS))
def test_an_empty_table_of_every_schema_can_be_written_and_read(name: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "e.parquet")
    tables.write(uri, tables.empty(tables.SCHEMAS[name]), fingerprint="f")
    table = tables.read(uri)
    assert table.num_rows == 0 and table.schema.equals(tables.SCHEMAS[name])
    assert tables.SCHEMAS[name].names[0] == "key"
    assert table.schema.metadata[b"reelmill.version"] == str(tables.VERSION).encode()
