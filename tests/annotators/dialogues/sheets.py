"""Evidence sheets for tests, in short."""

from __future__ import annotations

from typing import Any

from annotators.dialogues.evidence import KINDS, EvidenceItem, EvidenceSheet


def sheet(*items: tuple[Any, ...], seconds: float | None = 20.0) -> EvidenceSheet:
    """(kind, text) or (kind, text, start, end): items, numbered in their order."""
    items_: list[EvidenceItem] = []
    for name, text, *span in items:
        number = 1 + sum(item.kind == name for item in items_)
        start, end = span if span else (None, None)
        items_.append(EvidenceItem(f"{KINDS[name]}{number}", name, start, end, text))
    return EvidenceSheet(tuple(items_), seconds)
