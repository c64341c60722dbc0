"""Evidence sheets for tests, in short."""

from __future__ import annotations

from typing import Any

from annotators.dialogues.evidence import KINDS, Item, Sheet


def sheet(*items: tuple[Any, ...], seconds: float | None = 20.0) -> Sheet:
    """(kind, text) or (kind, text, start, end): items, numbered in their order."""
    made: list[Item] = []
    for name, text, *span in items:
        number = 1 + sum(item.kind == name for item in made)
        start, end = span if span else (None, None)
        made.append(Item(f"{KINDS[name]}{number}", name, start, end, text))
    return Sheet(tuple(made), seconds)
