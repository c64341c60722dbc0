"""What an audit found: every mismatch by file, field, expected and found."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

#: Findings that are written out for one field of one file; the rest are counted (ours).
SHOWN = 10

#: Characters of a value that a finding shows.
WIDTH = 200

ABSENT = "nothing"


@dataclass(frozen=True)
class AuditFinding:
    """One mismatch. file: relative to what is audited; field: dotted; key: of the sample, "" where it is no one's."""

    file: str
    field: str
    expected: Any
    found: Any
    key: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


class AuditFindings:
    """Gathers findings, from any thread; of one field of one file at most SHOWN are kept and all are counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[AuditFinding] = []
        self._count: dict[tuple[str, str], int] = {}

    def add(self, file: str, field: str, expected: Any, found: Any, key: str = "", times: int = 1) -> None:
        """Book a mismatch; `times` says how many it stands for."""
        with self._lock:
            seen = self._count.get((file, field), 0)
            self._count[(file, field)] = seen + times
            if seen < SHOWN:
                self._kept.append(AuditFinding(file, field, _short(expected), _short(found), key))

    def same(self, file: str, field: str, expected: Any, found: Any, key: str = "") -> bool:
        """Book a mismatch unless both are the same."""
        if type(expected) is type(found) and expected == found:
            return True
        self.add(file, field, expected, found, key)
        return False

    def deep(self, file: str, field: str, expected: Any, found: Any) -> None:
        """The same for JSON values, named down to the key that differs."""
        if isinstance(expected, Mapping) and isinstance(found, Mapping):
            for name in sorted({*expected, *found}, key=str):
                self.deep(file, f"{field}.{name}".lstrip("."), expected.get(name, ABSENT), found.get(name, ABSENT))
        else:
            self.number(file, field, expected, found)

    def number(self, file: str, field: str, expected: Any, found: Any, key: str = "") -> None:
        """The same as `same`, but 1 and 1.0 are one number."""
        if isinstance(expected, float | int) and isinstance(found, float | int):
            if expected != found:
                self.add(file, field, expected, found, key)
        else:
            self.same(file, field, expected, found, key)

    def rows(self, file: str, field: str, keys: pa.Array, expected: pa.Array, found: pa.Array) -> None:
        """The same for columns; null equals null."""
        if expected.type != found.type:
            expected = expected.cast(found.type)
        if expected.equals(found):
            return
        equal = pc.fill_null(pc.equal(expected, found), False)
        both = pc.and_(pc.is_null(expected), pc.is_null(found))
        self.where(file, field, keys, pc.invert(pc.or_(equal, both)), expected, found)

    def where(self, file: str, field: str, keys: pa.Array, wrong: Any, expected: Any, found: Any) -> None:
        """Book the rows where `wrong` is true; expected, found: columns, or one value for all."""
        places = pc.indices_nonzero(wrong)
        total = len(places)
        for row in places[:SHOWN].to_pylist():
            self.add(file, field, _at(expected, row), _at(found, row), _at(keys, row))
        if total > SHOWN:
            with self._lock:
                self._count[(file, field)] += total - SHOWN

    @property
    def total(self) -> int:
        """All of them, written out or not."""
        return sum(self._count.values())

    def sorted(self) -> list[AuditFinding]:
        """Those written out, by file, field and key."""
        return sorted(self._kept, key=lambda f: (f.file, f.field, f.key, str(f.expected), str(f.found)))

    def counts(self) -> list[dict[str, Any]]:
        """How many there are of each field of each file."""
        return [{"file": file, "field": field, "count": n} for (file, field), n in sorted(self._count.items())]


def _at(column: Any, row: int) -> Any:
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column[row].as_py()
    if isinstance(column, Sequence) and not isinstance(column, str):
        return column[row]
    return column[row].item() if isinstance(column, np.ndarray) else column


def _short(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = value if isinstance(value, str) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode()  # lone surrogates have no bytes
    return text if len(text) <= WIDTH else text[:WIDTH] + "…"
