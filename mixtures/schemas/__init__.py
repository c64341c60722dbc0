"""Published JSON Schemas of what Reelmill writes as JSON, and validators made from them."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

NAMES = ("shard-card", "ledger", "checksums", "manifest")


@functools.cache
def schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of one of NAMES."""
    text = importlib.resources.files("mixtures.schemas").joinpath(f"{name}.json").read_text("utf-8")
    return dict(json.loads(text))


@functools.cache
def validator(name: str) -> Any:
    """A jsonschema validator of it."""
    import jsonschema

    return jsonschema.Draft202012Validator(schema(name))
