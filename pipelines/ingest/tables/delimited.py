"""Rows of CSV and TSV. A row that breaks the rules of quoting is a failed row, and the rows after it are read.

Tables of strangers are often written without quotes. What can be read in one way only is read: more fields than the
header has, where the text is the last column; quotes escaped by backslashes; quotes that mean nothing, in TSV. All else
fails with its line, so that no text is cut in silence.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from pipelines.ingest.tables import streams
from pipelines.ingest.tables.column_names import unique_names

_DELIMITERS = (",", "\t", ";", "|")


class OversizeRecord(Exception):
    """A record has more than MAX_ROW_BYTES characters."""


@dataclass
class LineReader:
    """Physical lines of a table, for one record after the other; lines can be put back.

    record: lines of the current record; first: number of its first line, from 1.
    """

    text: TextIO
    record: list[str] = field(default_factory=list)
    first: int = 1
    _returned: deque[str] = field(default_factory=deque)
    _size: int = 0

    def __iter__(self) -> LineReader:
        return self

    def __next__(self) -> str:
        line = self._read()
        if not line:
            raise StopIteration
        self.record.append(line)
        self._size += len(line)
        if self._size > streams.MAX_ROW_BYTES:
            raise OversizeRecord
        return line

    def begin(self) -> None:
        """Begin the next record."""
        self.first += len(self.record)
        self.record, self._size = [], 0

    def peek(self) -> str:
        """The next line, which stays the next one."""
        line = self._read()
        if line:
            self._returned.appendleft(line)
        return line

    def keep_first_line(self) -> None:
        """Put back the lines of the record after its first."""
        self._returned.extendleft(reversed(self.record[1:]))
        del self.record[1:]

    def skip_record(self, quotes: bool) -> None:
        """Read over the rest of a record that is too large: to the end of its line, and of its quotes."""
        line = self.record[-1]
        count = sum(text.count('"') for text in self.record)
        while line and (not line.endswith(("\n", "\r")) or (quotes and count % 2)):
            is_whole = line.endswith(("\n", "\r"))
            line = self._read()
            count += line.count('"')
            if is_whole and line:
                self.record.append("")  # counts lines

    def _read(self) -> str:
        return self._returned.popleft() if self._returned else self.text.readline(streams.MAX_ROW_BYTES + 1)


def read_delimited(text: TextIO, name: str, text_column: str | None) -> Iterator[tuple[int, Any, str | None]]:
    """(number, row, error) of each row after the header. name: of the file, in lower case."""
    # The library's own 128 KiB would end the table at a long document. Threads: always the same number.
    csv.field_size_limit(streams.MAX_ROW_BYTES + 1)
    lines = LineReader(text)
    if lines.peek().lower().startswith("sep="):  # a hint for spreadsheets
        next(lines)
    while lines.peek() and not lines.peek().strip():
        next(lines)
    lines.begin()
    dialect = choose_dialect(lines.peek(), name, text_column)
    records = _read_records(lines, dialect)
    header, error = next(records, ([], None))
    if error:
        yield 0, None, f"unreadable table: the header is a {error} (line {lines.first})"
        return
    names = unique_names([name.strip() for name in header])
    dialect.columns = len(names)
    for number, (fields, error) in enumerate(records):
        if error is None and len(fields) != len(names):
            fields, error = _fit_fields(fields, names, lines, dialect, text_column)
        if error is None:
            yield number, dict(zip(names, fields, strict=True)), None
        else:
            yield number, None, f"{error} (line {lines.first})"


@dataclass
class TableDialect:
    """How a table is written. columns: of its header, 0 before it is read. skip_spaces: a space follows the
    delimiter."""

    delimiter: str
    skip_spaces: bool = False
    columns: int = 0

    def parse(self, lines: Any, **options: Any) -> list[str]:
        """The fields of the next record of `lines`. Raises csv.Error where quoting is broken."""
        skip = {"skipinitialspace": self.skip_spaces, **options}
        return next(csv.reader(lines, delimiter=self.delimiter, strict=True, **skip))


def choose_dialect(header: str, name: str, text_column: str | None) -> TableDialect:
    """The delimiter under which the header has the text column, otherwise the most columns."""
    usual = "\t" if name.endswith(".tsv") else ","
    candidates = sorted(_DELIMITERS, key=lambda delimiter: delimiter != usual)
    columns = {delimiter: [name.strip().strip('"') for name in header.split(delimiter)] for delimiter in candidates}
    fitting = [delimiter for delimiter in candidates if text_column in columns[delimiter]]
    delimiter = max(fitting or candidates, key=lambda delimiter: len(columns[delimiter]))
    following = header.split(delimiter)[1:]
    return TableDialect(delimiter, bool(following) and all(column.startswith(" ") for column in following))


def _read_records(lines: LineReader, dialect: TableDialect) -> Iterator[tuple[list[str], str | None]]:
    """(fields, error) of each record that is not blank."""
    is_tsv = dialect.delimiter == "\t"
    while True:
        lines.begin()
        error = None
        try:
            fields = dialect.parse(lines)
            if is_tsv and len(lines.record) > 1 and _are_rows(lines.record, dialect.columns):
                raise csv.Error("the quotes mean nothing")
        except StopIteration:
            return
        except OversizeRecord:
            lines.skip_record(quotes=not is_tsv)
            fields, error = [], f"too_large: the row has more than {streams.MAX_ROW_BYTES} bytes"
        except csv.Error as broken:
            lines.keep_first_line()
            fields, error = _reread(lines.record[0], dialect, str(broken))
        is_blank = not error and not "".join(lines.record).strip(" \r\n")
        if not is_blank:
            yield fields, error or streams.find_fault("".join(lines.record))


def _are_rows(record: Sequence[str], columns: int) -> bool:
    """Whether each line of a quoted record in TSV is a row of its own: tabs within quotes are rare, loose quotes are
    not."""
    return columns > 1 and all(line.count("\t") == columns - 1 for line in record)


def _reread(line: str, dialect: TableDialect, problem: str) -> tuple[list[str], str | None]:
    """(fields, error) of a line with broken quotes: in TSV they mean nothing, in CSV backslashes may escape them."""
    fields: list[str] = []
    if dialect.delimiter == "\t":
        fields = line.rstrip("\r\n").split("\t")
    elif '\\"' in line:
        try:
            fields = dialect.parse([line], escapechar="\\", doublequote=False)
        except csv.Error:
            fields = []
    if fields and dialect.columns in (0, len(fields)):
        return fields, None
    if "end of data" in problem:
        problem = "a quote is not closed"
    return [], f"broken row: {problem}"


def _fit_fields(
    fields: list[str], names: Sequence[str], lines: LineReader, dialect: TableDialect, text_column: str | None
) -> tuple[list[str], str | None]:
    """(fields, error) of a record with another number of fields than the header: more are joined to the text if it is
    the last column and none of them is quoted."""
    columns = len(names)
    if len(fields) > columns and names[-1] == text_column:
        raw = "".join(lines.record).rstrip("\r\n")
        unstripped = dialect.parse(iter(lines.record), skipinitialspace=False)
        tail = dialect.delimiter.join(unstripped[columns - 1 :])
        if raw.endswith(dialect.delimiter + tail) or raw == tail:
            return [*fields[: columns - 1], tail.lstrip(" ") if dialect.skip_spaces else tail], None
    hint = f"; quote texts that contain {dialect.delimiter!r}" if len(fields) > columns else ""
    return [], f"broken row: {len(fields)} fields where the header has {columns}{hint}"
