"""Published JSON Schemas (2020-12) of what Reelmill writes as JSON, and what a value breaks of them."""

from __future__ import annotations

import functools
import importlib.resources
import json
from typing import Any

NAMES = ("shard-card", "ledger", "checksums", "manifest", "ignored", "croissant", "mixture", "mixture-card", "tar-card")


@functools.cache
def load_schema(name: str) -> dict[str, Any]:
    """The JSON Schema called `name`, one of NAMES."""
    text = importlib.resources.files("mixtures.cards.schemas").joinpath(f"{name}.json").read_text("utf-8")
    return dict(json.loads(text))


def find_errors(name: str, value: Any) -> list[tuple[str, str]]:
    """(dotted place, what is wrong there) for everything in a JSON value that breaks the schema `name`, by place."""
    found = [(".".join(map(str, e.instance_path)), e.message) for e in _validator(name).iter_errors(value)]
    return sorted(found)


@functools.cache
def _validator(name: str) -> Any:
    # An audit validates every card; a validator in pure Python would take longer over it than over the tar's index.
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(load_schema(name))
