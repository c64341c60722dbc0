"""Escape what a terminal would obey: names, captions and errors of strangers are shown, and never act on it."""

from __future__ import annotations

import re

#: Control characters (C0, DEL, C1), separators of lines and paragraphs, characters that turn the direction of text, and
#: halves of surrogate pairs, which cannot be printed at all.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def escape_controls(text: str, keep: str = "") -> str:
    r"""`text` with every character that a terminal might obey as \x1b or \u202e. keep: such characters that stay."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def escape_json(text: str) -> str:
    r"""JSON with the same characters as \u001b inside strings, which is the same JSON. Line breaks stay."""
    return _UNSAFE.sub(lambda match: match[0] if match[0] in "\n\t" else f"\\u{ord(match[0]):04x}", text)
