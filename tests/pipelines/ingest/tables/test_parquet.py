from __future__ import annotations

import datetime
import signal
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import StageError
from pipelines.ingest.tables import parquet, streams
from pipelines.ingest.tables.parquet import read_parquet


def read(path: Path, media: tuple[str, ...] = ()) -> list[tuple[Any, str | None]]:
    return [(row, error) for _, row, error in read_parquet(str(path), "text", media)]


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_text_of_every_type(tmp_path: Path) -> None:
    kinds = [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string()),
             pa.string_view()]  # fmt: skip
    for kind in kinds:
        array = pa.array(["one", None, "drei é"], pa.string()).cast(kind)
        path = write(tmp_path / "a.parquet", text=array, n=pa.array([1, 2, 3]))
        assert [row["text"] for row, _ in read(path)] == ["one", None, "drei é"], kind
    path = write(tmp_path / "a.parquet", text=pa.array([["a", "b"], None, [None]]), s=pa.array([{"x": [b"y"]}] * 3))
    assert [row for row, _ in read(path)] == [{"text": text, "s": {"x": ["y"]}} for text in (["a", "b"], None, [None])]


def test_columns_of_one_name_are_numbered(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["one"]), pa.array(["two"]), pa.array([3])], names=["text", "text", "n"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == [({"text": "one", "text.1": "two", "n": 3}, None)]
    assert parquet.list_columns(str(tmp_path / "a.parquet")) == {"text": "string", "text.1": "string", "n": "int64"}


def test_bytes_that_are_no_text_fail_as_text_and_are_described_elsewhere(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", text=pa.array([b"a", b"\xff"]), blob=pa.array([b"\xff\xfe", b"b"]))
    assert read(path) == [
        ({"text": "a", "blob": "(2 bytes)"}, None),
        (None, "broken row: the column 'text' is not UTF-8"),
    ]
    invalid = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"text": invalid}), tmp_path / "a.parquet", use_dictionary=False)
    assert [error for _, error in read(tmp_path / "a.parquet")] == [None, "broken row: the column 'text' is not UTF-8"]


def test_values_that_python_cannot_represent_do_not_fail_their_rows(tmp_path: Path) -> None:
    columns = {
        "zone": pa.array([0, None], pa.timestamp("us", tz="Mars/Phobos")),
        "date": pa.array([2**30, 1], pa.int32()).cast(pa.date32()),
        "span": pa.array([2**62, 1], pa.duration("s")),
        "nested": pa.array([[{"d": 2**30}], []], pa.list_(pa.struct([("d", pa.int32())]))).cast(
            pa.list_(pa.struct([("d", pa.date32())]))
        ),
        "usual": pa.array([datetime.date(2020, 1, 2), None]),
        "ratio": pa.array([float("nan"), 0.5]),
    }
    rows = [row for row, _ in read(write(tmp_path / "a.parquet", text=pa.array(["a", "b"]), **columns))]
    assert [row["text"] for row in rows] == ["a", "b"]
    assert rows[0]["zone"] == "0 (timestamp[us, tz=Mars/Phobos])" and rows[1]["zone"] is None
    assert rows[0]["date"] == f"{2**30} (date32[day])" and rows[1]["date"] == "1970-01-02"
    assert rows[0]["span"].startswith(str(2**62)) and rows[0]["nested"] == [{"d": f"{2**30} (date32[day])"}]
    assert rows[0]["usual"] == "2020-01-02" and rows[1]["ratio"] == 0.5


def test_media_keep_their_bytes(tmp_path: Path) -> None:
    images = [{"bytes": b"\xff\xd8\x00", "path": "a.jpg"}, {"bytes": b"", "path": "b.jpg"}, None]
    path = write(tmp_path / "a.parquet", image=pa.array(images), text=pa.array(["a", "b", "c"]))
    assert [row["image"] for row, _ in read(path, ("image",))] == images


def test_a_dictionary_that_describes_gigabytes_is_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "ADDRESS_SPACE", 2**29)
    bomb = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array(["x" * 2**22]))
    pq.write_table(pa.table({"text": bomb}), tmp_path / "a.parquet", compression="zstd", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    ((row, error),) = read(tmp_path / "a.parquet")
    assert row is None and str(error).startswith("too_large: the table needs more than 0.5 GiB")


def test_rows_after_a_cell_that_is_too_large_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_ROW_BYTES", 1000)
    path = write(tmp_path / "a.parquet", text=pa.array(["x" * 1001, "é" * 501, "next"]), s=pa.array([None] * 3))
    assert [error and error.split(":")[0] for _, error in read(path)] == ["too_large", "too_large", None]
    nested = pa.array([["x" * 900] * 9, ["y"]])
    assert [error is None for _, error in read(write(path, text=nested))] == [False, True]


def test_what_a_table_unpacks_to_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 10_000)
    monkeypatch.setattr(streams, "MAX_RATIO", 1)
    rows = read(write(tmp_path / "a.parquet", text=pa.array(["x" * 1000] * 1000)))
    assert len(rows) < 30 and str(rows[-1][1]).startswith("too_large")


def test_a_remote_table_is_read_from_a_copy() -> None:
    with fsspec.open("memory://bucket/a.parquet", "wb") as file:
        pq.write_table(pa.table({"text": ["a"]}), file)
    assert list(read_parquet("memory://bucket/a.parquet", "text")) == [(0, {"text": "a"}, None)]


@pytest.mark.parametrize(("ending", "kind"), [(signal.SIGKILL, OSError), (signal.SIGSEGV, None), (None, StageError)])
def test_who_is_at_fault_when_the_child_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: int | None, kind: type[Exception] | None
) -> None:
    action = "1/0" if ending is None else f"os.kill(os.getpid(), {int(ending)})"
    module = tmp_path / "dying_child.py"
    module.write_text(f"import os\n{action}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(parquet, "CHILD_MODULE", "dying_child")
    path = write(tmp_path / "a.parquet", text=pa.array(["a"]))
    if kind is None:
        ((row, error),) = read(path)
        assert row is None and str(error).startswith("unreadable table: the library that reads it crashes")
    else:
        with pytest.raises(kind):
            read(path)


def test_a_silent_child_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "silent_child.py").write_text("import time\ntime.sleep(1000)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(parquet, "CHILD_MODULE", "silent_child")
    monkeypatch.setattr(parquet, "WATCHDOG_S", 0.2)
    with pytest.raises(OSError, match="gave nothing"):
        read(write(tmp_path / "a.parquet", text=pa.array(["a"])))
