"""Text, names and JSON fields from outside, in a form that can be stored as UTF-8."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from infra.hashing import canonical_json

#: Maximum nesting of a row's further fields, far below Python's recursion limit (ours).
MAX_DEPTH = 64


def to_storable_text(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD and each surrogate pair by its character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def decode_text(raw: bytes, encoding: str | None) -> tuple[str | None, str | None]:
    """(text, error) of the bytes of a caption or document: in `encoding`, else UTF-8, UTF-16 or UTF-32 by its first
    bytes."""
    try:
        return raw.decode(encoding or json.detect_encoding(raw)), None
    except UnicodeDecodeError as error:
        where = f"byte 0x{raw[error.start]:02x} at {error.start}"
        return None, f"unreadable text: not {error.encoding} ({where}), give `encoding` of the source"


def to_storable_name(raw: str) -> str:
    """The name of a file or tar member; each byte that is not Unicode becomes U+FFFD and its hex number, which keeps
    different names different."""
    escaped = re.sub("[\udc80-\udcff]", lambda match: f"\ufffd{ord(match.group()) - 0xDC00:02x}", raw)
    return to_storable_text(escaped)


def to_storable_json(field: Any, depth: int = 0) -> Any:
    """`field` in types that JSON has, everything else as text; cut off below MAX_DEPTH levels."""
    if depth > MAX_DEPTH:
        return "nested too deeply"
    if isinstance(field, Mapping):
        return {to_storable_text(str(k)): to_storable_json(v, depth + 1) for k, v in field.items()}
    if isinstance(field, list | tuple):
        return [to_storable_json(v, depth + 1) for v in field]
    if isinstance(field, float) and field - field != 0:  # infinite or NaN
        return str(field)
    if field is None or isinstance(field, int | float | bool):
        return field
    return to_storable_text(str(field))


def dump_fields(fields: Mapping[str, Any]) -> str:
    """A row's further fields as canonical JSON, the form of samples.extra."""
    return canonical_json(to_storable_json(fields)).decode().strip()


def get_field(row: Mapping[str, Any], column: str | None) -> str | None:
    """A column's value as text; None if there is no such column or value."""
    cell = row.get(column) if column else None
    return None if cell is None else to_storable_text(str(cell))
