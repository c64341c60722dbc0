"""Published JSON Schemas (2020-12) of the JSON files that Reelmill writes, and validation against them."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

NAMES = (
    "shard-card",
    "ledger",
    "checksums",
    "manifest",
    "ignored",
    "members",
    "croissant",
    "mixture",
    "mixture-card",
    "tar-card",
)


@functools.cache
def load_schema(name: str) -> dict[str, Any]:
    """Load the JSON Schema called `name`, one of NAMES. Never change it. Threads: safe, as long as nobody does."""
    text = importlib.resources.files("mixtures.cards.schemas").joinpath(f"{name}.json").read_text("utf-8")
    return dict(json.loads(text))


def find_errors(name: str, document: Any) -> list[tuple[str, str]]:
    """Return (dotted path, message) for each violation of the schema `name` in a JSON document, sorted by path."""
    errors = _validator(name).iter_errors(document)
    return sorted((".".join(map(str, error.instance_path)), error.message) for error in errors)


@functools.cache  # threads: safe, a validator is never changed
def _validator(name: str) -> Any:
    # An audit validates every card: a pure-Python validator would take longer than reading the tar's index.
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(load_schema(name))
