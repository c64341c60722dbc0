"""Captions beside media, in JSON objects and in conversations."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from infra import storage
from pipelines.ingest.sources.interface import MAX_TEXT_BYTES
from pipelines.ingest.sources.storable import decode_text

_CAPTION_KEYS = ("caption", "text", "description", "title")


def pick_caption(fields: Mapping[str, Any]) -> str | None:
    """The caption in a JSON object: the first of its usual keys with a string."""
    return next((fields[key] for key in _CAPTION_KEYS if isinstance(fields.get(key), str)), None)


def has_caption(fields: Mapping[str, Any]) -> bool:
    """Whether a JSON object has anything under a usual key of captions or conversations."""
    return any(fields.get(key) for key in (*_CAPTION_KEYS, "captions", "conversations", "messages"))


def join_turns(turns: Sequence[Any]) -> str | None:
    """The text of a conversation, one line per turn, without media placeholders; None if there is none."""
    lines = []
    for turn in turns:
        text = turn.get("value", turn.get("content")) if isinstance(turn, dict) else None
        if isinstance(text, str):
            lines.append(re.sub(r"<(image|video)>\n?", "", text).strip())
    return "\n".join(line for line in lines if line) or None


def parse_object(raw: bytes) -> dict[str, Any] | None:
    """A JSON object; None if the bytes are anything else."""
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def describe_read_error(fault: str, error: OSError) -> str:
    """The error of a sample of which a file cannot be read. fault: "unreadable WHAT", if it is one of the file itself;
    one of the environment, which the next run tries again, begins with "unavailable WHAT"."""
    if storage.is_environment_error(error):
        fault = fault.replace("unreadable", "unavailable")
    return f"{fault} {error.strerror or error}"


def read_sidecars(root: str, paths: Sequence[str]) -> tuple[str | None, dict[str, Any], str | None]:
    """(caption, further fields, error) from the caption files of one medium; .txt takes precedence over .json."""
    text: str | None = None
    fields: dict[str, Any] = {}
    for path in sorted(paths, key=lambda p: not p.lower().endswith(".json")):
        try:
            read = functools.partial(storage.read_bytes, storage.join(root, path), 0, MAX_TEXT_BYTES + 1)
            raw = storage.retry(read)
        except OSError as error:
            return None, {}, describe_read_error("unreadable caption:", error)
        if len(raw) > MAX_TEXT_BYTES:
            return None, {}, f"too_large: {path} has over {MAX_TEXT_BYTES} bytes"
        if not path.lower().endswith(".json"):
            text = decode_text(raw)
            continue
        parsed = parse_object(raw)
        if parsed is None:
            return None, {}, f"unreadable caption: {path} is not a JSON object"
        fields = parsed
        text = pick_caption(fields)
        if text is None and isinstance(fields.get("conversations"), list):
            text = join_turns(fields["conversations"])
    return text, fields, None
