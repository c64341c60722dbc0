from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.tables import streams
from pipelines.ingest.tables.delimited import read_delimited


def read(text: str, name: str = "a.csv", column: str = "text") -> list[tuple[Any, str | None]]:
    return [(row, error) for _, row, error in read_delimited(io.StringIO(text, newline=""), name, column)]


def texts(text: str, name: str = "a.csv", column: str = "text") -> list[str | None]:
    """The text of each row, None where it failed."""
    return [None if row is None else row[column] for row, _ in read(text, name, column)]


CELLS = st.text(alphabet="ab\",\n\r;\t 'é\\|", max_size=8)


@given(st.lists(st.tuples(CELLS, CELLS), max_size=6), st.sampled_from(["a.csv", "a.tsv"]), st.booleans())
def test_whatever_a_writer_quotes_is_read_back(cells: list[tuple[str, str]], name: str, quote_all: bool) -> None:
    buffer = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL
    writer = csv.writer(buffer, delimiter="\t" if name.endswith("tsv") else ",", quoting=quoting)
    writer.writerows([("file", "text"), *cells])
    rows = [row for row, _ in read(buffer.getvalue(), name)]
    # In TSV a quoted cell whose every line is like a row is read as rows; a line of blanks is no row.
    if not name.endswith("tsv") or not any("\t" in cell for row in cells for cell in row):
        assert rows == [{"file": file, "text": text} for file, text in cells]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_rows_after_a_quote_that_is_not_closed_are_read(kinds: list[tuple[bool, bool]]) -> None:
    lines, expected = ["file,text"], []
    for number, (is_broken, is_quoted) in enumerate(kinds):
        quote = '"' if is_quoted else ""
        lines.append(f'{number}.jpg,"torn {number}' if is_broken else f"{number}.jpg,{quote}sound {number}{quote}")
        expected.append(None if is_broken else f"sound {number}")
    assert texts("\n".join(lines) + "\n") == expected


def test_a_broken_row_is_named_by_its_line() -> None:
    rows = read('file,text\n1,"two\nlines"\n\n2,"not closed\n3,fine\n')
    assert rows[1] == (None, "broken row: a quote is not closed (line 5)")
    assert [row and row["file"] for row, _ in rows] == ["1", None, "3"]


def test_commas_without_quotes_belong_to_a_text_that_is_the_last_column() -> None:
    assert texts("file,text\n1,a , b,, c,\n") == ["a , b,, c,"]
    assert texts("file, text\n1, a, b\n") == ["a, b"]
    assert texts("text\na, b\n") == ["a, b"]
    assert texts('file,text\n"x,y",a, b\n') == ["a, b"]


@pytest.mark.parametrize("line", ['1,"a", b', '1,a, "b"', '1,a,"b, c",d'])
def test_quotes_among_commas_without_quotes_fail(line: str) -> None:
    ((row, error),) = read(f"file,text\n{line}\n")
    # Either the row fails or its text is all that the line has.
    assert (row is None and "fields where the header has 2" in str(error)) or row["text"] == line.split(",", 1)[1]


@pytest.mark.parametrize("line", ["1", "1,a,b,c"])
def test_too_few_or_too_many_fields_fail(line: str) -> None:
    ((row, error),) = read(f"file,text,licence\n{line}\n")
    assert row is None and "fields where the header has 3" in str(error)


def test_tsv_may_have_quotes_that_mean_nothing() -> None:
    text = 'text\turl\n"a\tu1\nb "c"\tu2\n"d" e\tu3\n"f ""g"""\tu4\n'
    assert texts(text, "a.tsv") == ['"a', 'b "c"', '"d" e', 'f "g"']
    assert texts('text\turl\n"a\tu1\nb"\tu2\nc\tu3\n', "a.tsv") == ['"a', 'b"', "c"]
    assert texts('text\turl\n"a\nb"\tu1\n', "a.tsv") == ["a\nb"]


def test_backslashes_may_escape_quotes() -> None:
    assert texts('file,text\n1,"She said \\"hi\\", then left"\n2,"a\\"\n') == ['She said "hi", then left', "a\\"]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_the_delimiter_comes_from_the_header(delimiter: str) -> None:
    assert texts(f"file{delimiter}text\n1{delimiter}a, b\n") == ["a, b"]
    assert texts(f"sep={delimiter}\nfile{delimiter}text\n1{delimiter}a\n") == ["a"]


def test_columns_of_one_name_are_numbered() -> None:
    assert read("text,text,text\na,b,c\n") == [({"text": "a", "text.1": "b", "text.2": "c"}, None)]


@pytest.mark.parametrize(
    "cell", ["x" * 3000, '"' + "x" * 3000 + '"', '"' + "x\n" * 1500 + '"', '"' + 'x""\n' * 900 + '"']
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_rows_after_one_that_is_too_large_are_read(cell: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_ROW_BYTES", 1000)
    rows = read(f"file,text\n1,small\n2,{cell}\n3,next\n".replace(",", "\t" if name == "a.tsv" else ","), name)
    if name == "a.csv" or "\n" not in cell:
        assert [row and row["text"] for row, _ in rows] == ["small", None, "next"]
        assert str(rows[1][1]).startswith("too_large") and str(rows[1][1]).endswith("(line 3)")
    assert rows[-1][0] == {"file": "3", "text": "next"}


def test_nul_bytes_and_line_ends_of_every_system() -> None:
    assert texts("file,text\r1,a\x00b\r2,c\r\n3,d\n") == ["a\x00b", "c", "d"]


def test_no_rows() -> None:
    assert read("") == read("\n\n") == read("file,text\n") == []
