from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.ingest.tables import streams
from tests.pipelines.ingest.sources.items import fates, make_source, read_items


def jsonl(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_rows_of_every_kind_of_table(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]
    jsonl(tmp_path / "1.jsonl", [json.dumps(row).encode() for row in rows])
    (tmp_path / "2.csv").write_text("id,text\na,one\nb,two\n")
    (tmp_path / "3.tsv").write_text("id\ttext\na\tone\nb\ttwo\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "4.parquet")
    items = read_items(make_source(tmp_path, "text", id_column="id"))
    assert [(item.container[0], item.position, item.text) for item in items] == [
        (str(file), row["id"], row["text"]) for file in (1, 2, 3, 4) for row in rows
    ]
    by_row = read_items(make_source(tmp_path, "text"))
    assert [item.position for item in by_row] == ["row=0", "row=1"] * 4
    assert all(item.error is None for item in by_row)


def test_bad_rows_are_failed_rows_and_their_neighbours_are_read(tmp_path: Path) -> None:
    deep = b'{"id": "deep", "text": "x", "extra": ' + b"[" * 400 + b"]" * 400 + b"}"
    deeper = b'{"id": "deeper", "text": "x", "extra": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    jsonl(tmp_path / "a.jsonl", [
        b'{"id": "good", "text": "x"}', b"{", b"[1, 2]", b'{"id": "none"}', b'{"id": "number", "text": 3}',
        b'{"id": "good", "text": "again"}', b'{"id": "good", "text": "again"}', b'{"id": "row=9", "text": "x"}', b"",
        b'{"text": "x"}', b'{"id": "lone \\ud800", "text": "\\udfff", "n": NaN, "big": 1e999}', b'\xff{"id": 1}', deep,
        deeper, b'{"id": "last", "text": "x"}',
    ])  # fmt: skip
    items = read_items(make_source(tmp_path, "text", id_column="id"))
    assert fates(items) == {
        "good": None, "row=1": "broken row", "row=2": "broken row", "none": "broken row", "number": "broken row",
        "good@row=5": "duplicate member", "good@row=6": "duplicate member", "row=9": None, "row=9@row=9": None,
        "lone \ufffd": None, "row=11": "broken row", "deep": None, "row=13": "broken row", "last": None,
    }  # fmt: skip
    extra = {item.position: item.to_row()["extra"] for item in items}
    assert json.loads(extra["lone \ufffd"]) == {"id": "lone \ufffd", "n": "nan", "big": "inf"}
    assert "nested too deeply" in extra["deep"]


def test_a_row_without_end_is_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_ROW_BYTES", 1000)
    jsonl(tmp_path / "a.jsonl", [b'{"text": "' + b"x" * 5000 + b'"}', b'{"text": "next"}'])
    items = read_items(make_source(tmp_path, "text"))
    assert [(item.text, item.error and item.error[:9]) for item in items] == [(None, "too_large"), ("next", None)]


def test_a_long_document_in_a_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text\n{'x' * 300_000}\nnext\n")
    assert [len(item.text or "") for item in read_items(make_source(tmp_path, "text"))] == [300_000, 4]


def test_a_damaged_parquet_is_one_failed_row(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), sink)
    whole = sink.getvalue()
    (tmp_path / "torn.parquet").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "other.parquet").write_bytes(b"PAR1" + b"\xff" * 60 + b"PAR1")
    items = read_items(make_source(tmp_path, "text"))
    assert len(items) == 3 and all((item.error or "").startswith("unreadable table") for item in items)


def test_conversations_give_the_text_that_will_be_trained_on(tmp_path: Path) -> None:
    speeches = [("system", "s"), ("user", "What?"), ("assistant", "a")]
    messages = [{"role": role, "content": text} for role, text in speeches]
    greeting, last = {"from": "gpt", "value": "Hello"}, {"from": "human", "value": "Thanks"}
    question, reply = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}
    conversations = [[question, reply], [greeting, question, reply], [question, reply, last], [question, reply, reply],
                     [question, {"from": "robot", "value": "x"}], [greeting], [question, 3], [last]]  # fmt: skip
    rows = [{"messages": messages}, *({"conversations": turns} for turns in conversations)]
    jsonl(tmp_path / "a.jsonl", [json.dumps(row).encode() for row in rows])
    items = read_items(make_source(tmp_path, "text"))
    assert [item.text for item in items] == ["What?\na", "Why?\nSo.", "Why?\nSo.", "Why?\nSo.", *[None] * 5]
    assert all((item.error or "").startswith("broken conversation") for item in items[4:])


@pytest.mark.parametrize("many", ["first", "join", "random", "all"])
def test_a_list_of_texts_is_used_as_the_config_says_and_never_cut_in_silence(tmp_path: Path, many: str) -> None:
    jsonl(tmp_path / "a.jsonl", [b'{"id": 1, "text": ["a", "b"]}', b'{"id": 2, "text": ["c"]}'])
    broken, single = read_items(make_source(tmp_path, "text"))
    assert "set captions.many" in (broken.error or "") and single.text == "c"
    texts = [item.text for item in read_items(make_source(tmp_path, "text", captions={"many": many}))]
    expected = {
        "first": [["a", "c"]],
        "join": [["a\nb", "c"]],
        "all": [["a", "b", "c"]],
        "random": [["a", "c"], ["b", "c"]],
    }
    assert texts in expected[many]


def test_a_row_without_text_names_its_columns(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [b'{"content": "x", "id": 3}', b'{"text": 3}'])
    first, second = read_items(make_source(tmp_path, "text"))
    assert first.error == "broken row: there is no text in the column 'text'; the row has 'content', 'id'"
    assert second.error == "broken row: the column 'text' has something that is no text"
