"""Rows of JSON: lines, arrays and objects that follow each other, told apart by content and never read whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TextIO

from pipelines.ingest.tables import streams

#: Tokens that decide where an element ends. A string without its closing quote has an empty group.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+("?)|[\[{]|[\]}]', re.DOTALL)
_STRING_REST = re.compile(r'(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
_SEPARATORS = re.compile(r"[\s,\ufeff\x1e]*+")
_SCALAR = re.compile(r"[^\s,\]}]*+")

_BLOCK = 2**20

_MAX_OPENING_LINES = 100
_OPENING_SIZE = 2**20


def read_json(text: TextIO, name: str) -> Iterator[tuple[int, Any, str | None]]:
    """(number, row, error) of each row. name: of the file, in lower case.

    The number is that of the line, or of the element of an array. A JSON file that is empty is a fault, JSON lines are
    not.
    """
    opening = list(_read_opening(text))
    if not opening[0] and name.endswith(".json"):
        yield 0, None, "unreadable table: it is empty"
    elif _has_lines(opening, name):
        yield from _read_lines(chain(opening, iter(lambda: text.readline(streams.MAX_ROW_BYTES + 1), "")))
    else:
        yield from _read_elements(ElementReader(text, "".join(opening)))


def _read_opening(text: TextIO) -> Iterator[str]:
    """The first lines: at least two that are not blank, and one after the first that is no JSON by itself, unless that
    comes late or there are too many blank ones."""
    count, size, is_last = 0, 0, False
    for _ in range(_MAX_OPENING_LINES):
        line = text.readline(streams.MAX_ROW_BYTES + 1)
        yield line
        if not line:
            return
        if content := _strip(line):
            count, size = count + 1, size + len(line)
            if count > 1 and (is_last or size >= _OPENING_SIZE):
                return
            is_last = is_last or not _is_json(content)


def _strip(line: str) -> str:
    return line.strip().lstrip("\ufeff")


def _has_lines(opening: list[str], name: str) -> bool:
    """Whether a file has one row per line, judged by its first two lines with content, and by those where an object
    begins that goes on in the next line."""
    lines = [content for line in opening if (content := _strip(line))]
    if not lines:
        return True
    if len(lines[0]) > streams.MAX_ROW_BYTES:
        return not lines[0].startswith("[")
    is_json = [_is_json(line) for line in lines]
    if len(lines) > 2 and lines[-2] == "{" and lines[-1].startswith(('"', "}")) and not is_json[-1]:
        return False
    if lines[0].startswith("["):
        return is_json[0] and len(lines) > 1
    if not lines[0].startswith("{") and name.endswith(".json"):
        return is_json[0]
    return is_json[0] or lines[0].endswith("}") or len(lines) == 1 or (is_json[1] and lines[1].startswith("{"))


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    except RecursionError:
        return True
    return True


def _read_lines(pieces: Iterable[str]) -> Iterator[tuple[int, Any, str | None]]:
    """The rows of lines. pieces: lines, of which those that are too large come in several pieces."""
    number, is_rest = 0, False
    for piece in filter(None, pieces):
        is_end = piece.endswith(("\n", "\r"))
        if not is_rest:
            fault = streams.find_fault(piece)
            if not fault and (line := piece.strip("\ufeff\x1e \t\r\n")):
                for row, problem in _parse_line(line):
                    yield number, row, problem and f"{problem} (line {number + 1})"
            elif fault:
                yield number, None, f"{fault} (line {number + 1})"
        is_rest = not is_end
        number += is_end


def _parse_line(line: str) -> list[tuple[Any, str | None]]:
    """(row, error) of a line, or of each of several objects that follow each other in it."""
    rows: list[tuple[Any, str | None]] = []
    position = 0
    try:
        while position < len(line):
            row, position = json.JSONDecoder().raw_decode(line, position)
            position = _SEPARATORS.match(line, position).end()  # type: ignore[union-attr]
            rows.append((row, None))
        if len(rows) > 1 and not all(isinstance(row, dict) for row, _ in rows):
            return [(None, "broken row: several JSON values in a line")]
    except json.JSONDecodeError as error:
        return [(None, f"broken row: {error.msg} at column {error.colno}")]
    except (ValueError, RecursionError) as error:
        return [(None, f"broken row: {error}")]
    return rows


def _read_elements(reader: ElementReader) -> Iterator[tuple[int, Any, str | None]]:
    """The elements of arrays, and objects that follow each other."""
    number, depth = 0, 0
    while character := reader.skip_separators():
        if character == "[" and depth == 0:
            reader.position += 1
            depth = 1
        elif character == "]" and depth == 1:
            reader.position += 1
            depth = 0
        elif depth == 0 and character != "{":
            yield number, None, f"unreadable table: not JSON (line {reader.line})"
            return
        else:
            line = reader.line
            row, error = reader.read_element()
            yield number, row, error and f"{error} (line {line})"
            number += 1
    if depth:
        yield number, None, f"unreadable table: the array has no end (line {reader.line})"


@dataclass
class ElementReader:
    """Reads elements of JSON from a window of the text. position: in the buffer; line: at this position, from 1."""

    text: TextIO
    buffer: str
    position: int = 0
    line: int = 1

    def skip_separators(self) -> str:
        """The next character that is neither blank nor a comma, "" at the end of the text."""
        while True:
            self._advance(_SEPARATORS.match(self.buffer, self.position).end())  # type: ignore[union-attr]
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._read_more():
                return ""

    def read_element(self) -> tuple[Any, str | None]:
        """(row, error) of the next element, which is then passed."""
        while True:
            try:
                row, end = json.JSONDecoder().raw_decode(self.buffer, self.position)
                problem = None
            except (ValueError, RecursionError) as error:
                row, end, problem = None, self._find_end(), f"broken row: {getattr(error, 'msg', error)}"
            if 0 <= end < len(self.buffer) or (end >= 0 and self.buffer[end - 1] in "]}"):
                break
            if len(self.buffer) - self.position > streams.MAX_ROW_BYTES:
                self._skip_element()
                return None, f"too_large: the row has more than {streams.MAX_ROW_BYTES} bytes"
            if not self._read_more():
                end = len(self.buffer) if end < 0 else end
                problem = problem and f"unreadable table: it ends within a row ({problem})"
                break
        raw = self.buffer[self.position : end]
        self._advance(max(end, self.position + 1))
        problem = problem or streams.find_fault(raw)
        return (None, problem) if problem else (row, None)

    def _find_end(self) -> int:
        """Where the element at the position ends, by its brackets; -1 if not in the buffer."""
        if self.buffer[self.position] not in '[{"':
            return _SCALAR.match(self.buffer, self.position).end()  # type: ignore[union-attr]
        depth = 0
        for token in _TOKEN.finditer(self.buffer, self.position):
            if token.group().startswith('"'):
                if not token.group(1):
                    return -1
            else:
                depth += 1 if token.group() in "[{" else -1
            if depth <= 0:
                return token.end()
        return -1

    def _skip_element(self) -> None:
        """Pass an element of any size."""
        depth, in_string = 0, False
        while True:
            position = self.position
            if in_string:
                rest = _STRING_REST.match(self.buffer, position)
                position, in_string = rest.end(), not rest.group(1)  # type: ignore[union-attr]
                if depth <= 0 and not in_string:
                    self._advance(position)
                    return
            for token in () if in_string else _TOKEN.finditer(self.buffer, position):
                if token.group().startswith('"'):
                    in_string = not token.group(1)
                else:
                    depth += 1 if token.group() in "[{" else -1
                if depth <= 0 and not in_string:
                    self._advance(token.end())
                    return
            # A backslash at the end belongs to what follows.
            self._advance(len(self.buffer) - self.buffer.endswith("\\"))
            if not self._read_more():
                self._advance(len(self.buffer))
                return

    def _advance(self, position: int) -> None:
        self.line += self.buffer.count("\n", self.position, position)
        self.position = position

    def _read_more(self) -> bool:
        """Extend the buffer by at least as much as is pending in it."""
        pending = self.buffer[self.position :]
        block = self.text.read(max(_BLOCK, len(pending)))
        self.buffer, self.position = pending + block, 0
        return bool(block)
