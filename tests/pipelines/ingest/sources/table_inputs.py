"""Generated tables of every format and compression, with the true number of their rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}

TEXT_FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")

#: Names of tables, with and without compression; Parquet has its own.
TABLE_NAMES = [f"t{suffix}{packed}" for suffix in TEXT_FORMATS for packed in COMPRESSIONS] + ["t.parquet"]

#: Rows that cannot be used, by format. JSON in an array has whole elements only.
BROKEN = {
    ".csv": ("one", 'x,"not closed', "\udcff,b"),
    ".tsv": ("one", "\udcff\tb"),
    ".jsonl": ("{", "[1]", "3", '{"text": }', "\udcff", '{"text": "x" "y"}', "not JSON"),
    ".json": ("[1]", "3", '{"text": }', '"x"', '{"text": "x" "y"}', "null"),
}
BROKEN[".ndjson"] = BROKEN[".jsonl"]

#: A row is its name and its captions: one, or a list of which some are missing.
COUNTS = st.sampled_from([1, 1, 1, 1, 0, 2, 3])
ROWS = st.lists(st.tuples(st.sampled_from("abcd"), COUNTS, st.integers(0, 9)), max_size=8)


def build_rows(drawn: Sequence[tuple[str, int, int]], name: str, named: str) -> list[dict[str, Any]]:
    """Rows with unique captions, as lists where they are not one; CSV has no lists. named: column of the name."""
    rows = []
    for number, (medium, count, _) in enumerate(drawn):
        captions: list[str | None] = [f"c{number}.{caption}" for caption in range(count)]
        has_lists = not name.startswith(("t.csv", "t.tsv"))
        text = captions[0] if count == 1 else [*captions, None] if has_lists else "".join(map(str, captions[:1]))
        rows.append({named: f"{medium}.jpg", "text": text})
    return rows


def encode(name: str, rows: Sequence[Mapping[str, Any]], broken: Sequence[int]) -> tuple[bytes, int]:
    """(content, number of rows) of a table of sound rows, a broken row and a blank line after some of them.

    broken: for each row, which broken row follows; beyond their number, none.
    """
    suffix = "." + name.split(".")[1]
    if suffix == ".parquet":
        return encode_parquet([dict(row) for row in rows]), len(rows)
    lines = [_encode_row(suffix, list(row.values()) if suffix in (".csv", ".tsv") else dict(row)) for row in rows]
    _check(suffix, lines, len(rows))
    elements, count = [], 0
    for line, choice in zip(lines, broken, strict=True):
        elements += [line, *BROKEN[suffix][choice : choice + 1]]
        count += 1 + (choice < len(BROKEN[suffix]))
        if choice % 2 and suffix != ".json":
            elements.append("")
    if suffix == ".json":
        text = "[\n" + ",\n\n".join(elements) + "\n]\n"
    else:
        header = [_encode_row(suffix, list(rows[0]))] if suffix in (".csv", ".tsv") else []
        text = "\n".join([*header, *elements, ""])
    return COMPRESSIONS[name.removeprefix(f"t{suffix}")](text.encode("utf-8", "surrogateescape")), count


def encode_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Parquet in which texts are lists where one of them is, in row groups of three."""
    has_list = any(isinstance(row["text"], list) for row in rows)
    cells = [row["text"] if isinstance(row["text"], list) or not has_list else [row["text"]] for row in rows]
    table = pa.Table.from_pylist([{**row, "text": cell} for row, cell in zip(rows, cells, strict=True)])
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=3)
    assert pq.read_metadata(io.BytesIO(sink.getvalue())).num_rows == len(rows)
    return sink.getvalue()


def _encode_row(suffix: str, row: Any) -> str:
    if suffix not in (".csv", ".tsv"):
        return json.dumps(row)
    buffer = io.StringIO()
    csv.writer(buffer, delimiter="," if suffix == ".csv" else "\t", quoting=csv.QUOTE_ALL).writerow(row)
    return buffer.getvalue().removesuffix("\r\n")


def _check(suffix: str, lines: Sequence[str], count: int) -> None:
    """The standard library reads as many rows."""
    if suffix in (".csv", ".tsv"):
        assert len(list(csv.reader(lines, delimiter="," if suffix == ".csv" else "\t"))) == count
    else:
        assert len([json.loads(line) for line in lines]) == count
