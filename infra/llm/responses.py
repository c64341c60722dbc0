"""Parse responses of OpenAI-compatible servers: completions, permanent errors, and faults that may pass."""

from __future__ import annotations

import json
import re
from typing import Any

from infra.llm.requests import Completion

# The wordings of vLLM (several versions), OpenAI and others.
_TOO_LONG = re.compile(
    r"context.?(?:length|window)|maximum (?:model|input) length|max_model_len|too long|tokens\W.{0,20}too large"
    r"|must be at least 1, got -",
    re.IGNORECASE,
)


class TransientFault(Exception):
    """A failed attempt that may succeed later. overload: the server asks for fewer requests; silent: nothing came back;
    pause_s: seconds that the server asks to wait."""

    def __init__(self, text: str, *, overload: bool = False, silent: bool = False, pause_s: float = 0.0) -> None:
        super().__init__(text)
        self.text = text
        self.overload = overload
        self.silent = silent
        self.pause_s = pause_s


def parse_completion(raw: bytes, n: int) -> Completion:
    """Parse a chat completion with `n` choices; halves of surrogate pairs in texts become U+FFFD. Raises TransientFault
    for anything else."""
    try:
        body = json.loads(raw)
        choices = sorted(body["choices"], key=lambda choice: int(choice["index"]))
        texts = tuple(_to_unicode(choice["message"]["content"]) for choice in choices)
        finish = tuple(str(choice.get("finish_reason") or "") for choice in choices)
        model = _to_unicode(str(body["model"]))
    except (ValueError, OverflowError, RecursionError):
        raise TransientFault(f"not JSON: {to_plain_line(raw[:80].decode('utf-8', 'replace'))!r}") from None
    except (KeyError, TypeError, AttributeError):
        text = to_plain_line(raw[:80].decode("utf-8", "replace"))
        raise TransientFault(f"not a chat completion: {text!r}") from None
    if not {"abort", "error"}.isdisjoint(finish):  # a server that shuts down still answers 200
        raise TransientFault("stopped in the middle of an answer")
    if len(choices) != n:
        raise TransientFault(f"{len(choices)} choices where {n} were asked for")
    usage = body.get("usage")
    return Completion(
        texts,
        finish,
        model,
        _get_count(usage, "prompt_tokens"),
        _get_count(usage, "completion_tokens"),
        _get_count(_get(usage, "prompt_tokens_details"), "cached_tokens"),
    )


def permanent_error(status: int, raw: bytes) -> str | None:
    """Return a Completion's error, "too_long: …" or "refused: …", for a response that the same request would get again;
    else None. `raw`: the body that came with `status`."""
    message, is_api_error = parse_error(raw)
    if status != 413 and not (status in (400, 422) and is_api_error):
        return None
    kind = "too_long" if status == 413 or _TOO_LONG.search(message) else "refused"
    return f"{kind}: {format_status(status, message)}"


def format_status(status: int, message: str) -> str:
    return f"{status}: {message}" if message else f"status {status}"


def parse_error(raw: bytes) -> tuple[str, bool]:
    """Return (error message, whether it came as the JSON of an OpenAI-compatible server)."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return to_plain_line(re.sub(r"<[^>]*>", " ", raw[:2000].decode("utf-8", "replace"))), False
    error = _get(body, "error") or body
    for key in ("message", "detail"):
        message = _get(error, key)
        if message:
            return to_plain_line(str(message)), True
    return to_plain_line(str(error)), False


def to_plain_line(text: str, limit: int = 300) -> str:
    """Make foreign text fit for a terminal and a table: one line, no control characters, at most `limit` long."""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _get(mapping: Any, key: str) -> Any:
    return mapping.get(key) if isinstance(mapping, dict) else None


def _get_count(mapping: Any, key: str) -> int:
    count = _get(mapping, key)
    return count if isinstance(count, int) and 0 < count < 2**31 else 0


def _to_unicode(content: Any) -> str:
    """A choice's content; servers send null for an empty one."""
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError("content is not text")
    return content if content.isascii() else content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
