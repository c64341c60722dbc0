"""Findings of an audit: each mismatch with its file, field, expected and actual value."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

#: Findings listed for one field of one file; the rest are only counted (ours).
MAX_LISTED = 10

#: Characters of a value shown in a finding.
MAX_CHARACTERS = 200

ABSENT = "nothing"

Column: TypeAlias = pa.Array | pa.ChunkedArray


@dataclass(frozen=True)
class AuditFinding:
    """One mismatch. file: relative to the audited folder; field: dotted; key: of the sample, "" if it concerns none."""

    file: str
    field: str
    expected: Any
    actual: Any
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "field": self.field,
            "expected": self.expected,
            "found": self.actual,
            "key": self.key,
        }


class AuditFindings:
    """Collects findings from any thread: all are counted, MAX_LISTED of each field of each file are listed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listed: list[AuditFinding] = []
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, file: str, field: str, expected: Any, actual: Any, key: str = "") -> None:
        """Add one mismatch."""
        with self._lock:
            count = self._counts.get((file, field), 0)
            self._counts[(file, field)] = count + 1
            if count < MAX_LISTED:
                self._listed.append(AuditFinding(file, field, _shorten(expected), _shorten(actual), key))

    def compare(self, file: str, field: str, expected: Any, actual: Any, key: str = "") -> bool:
        """Compare two values, types included; returns whether they are equal."""
        if type(expected) is type(actual) and expected == actual:
            return True
        self.add(file, field, expected, actual, key)
        return False

    def compare_json(self, file: str, field: str, expected: Any, actual: Any) -> None:
        """Compare two JSON values; a finding names the innermost key that differs."""
        if isinstance(expected, Mapping) and isinstance(actual, Mapping):
            for name in sorted({*expected, *actual}, key=str):
                path = f"{field}.{name}".lstrip(".")
                self.compare_json(file, path, expected.get(name, ABSENT), actual.get(name, ABSENT))
        else:
            self.compare_numbers(file, field, expected, actual)

    def compare_numbers(self, file: str, field: str, expected: Any, actual: Any, key: str = "") -> None:
        """Compare two values; 1 and 1.0 are equal."""
        are_numbers = isinstance(expected, float | int) and isinstance(actual, float | int)
        if not (are_numbers and expected == actual):
            self.compare(file, field, expected, actual, key)

    def compare_columns(self, file: str, field: str, keys: Column, expected: Column, actual: Column) -> None:
        """Compare two columns row by row; null equals null. keys: (n,), the sample of each row."""
        keys, expected, actual = _combine(keys), _combine(expected), _combine(actual)
        if expected.type != actual.type:
            expected = expected.cast(actual.type)
        if expected.equals(actual):
            return
        equal = pc.fill_null(pc.equal(expected, actual), False)
        both_null = pc.and_(pc.is_null(expected), pc.is_null(actual))
        self.add_rows(file, field, keys, pc.invert(pc.or_(equal, both_null)), expected, actual)

    def compare_arrays(self, file: str, field: str, keys: Column, expected: NDArray[Any], actual: NDArray[Any]) -> None:
        """Compare two numpy arrays (n,) row by row."""
        self.add_rows(file, field, keys, expected != actual, expected, actual)

    def add_rows(self, file: str, field: str, keys: Column, wrong: Any, expected: Any, actual: Any) -> None:
        """Add the rows where `wrong`, bool (n,), is true. expected, actual: columns (n,), or one value for all rows."""
        rows = np.flatnonzero(
            np.asarray(pc.fill_null(wrong, False) if isinstance(wrong, pa.Array | pa.ChunkedArray) else wrong)
        )
        for row in rows[:MAX_LISTED].tolist():
            self.add(file, field, _get_cell(expected, row), _get_cell(actual, row), _get_cell(keys, row))
        if len(rows) > MAX_LISTED:
            with self._lock:
                self._counts[(file, field)] += len(rows) - MAX_LISTED

    @property
    def total(self) -> int:
        """Number of findings, listed or not."""
        return sum(self._counts.values())

    def sorted(self) -> list[AuditFinding]:
        """The listed findings by file, field and key."""
        return sorted(self._listed, key=lambda f: (f.file, f.field, f.key, str(f.expected), str(f.actual)))

    def counts(self) -> list[dict[str, Any]]:
        """Number of findings of each field of each file."""
        return [{"file": file, "field": field, "count": n} for (file, field), n in sorted(self._counts.items())]


def _combine(column: Column) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _get_cell(column: Any, row: int) -> Any:
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column[row].as_py()
    if isinstance(column, np.ndarray):
        return column[row].item()
    return column[row] if isinstance(column, Sequence) and not isinstance(column, str) else column


def _shorten(content: Any) -> Any:
    if isinstance(content, bytes):
        content = content.decode("utf-8", "backslashreplace")
    if content is None or isinstance(content, bool | int) or (isinstance(content, float) and math.isfinite(content)):
        return content
    text = str(content).encode("utf-8", "backslashreplace").decode()  # lone surrogates cannot be encoded
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "…"
