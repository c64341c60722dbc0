"""The published schemas are sound themselves, and what a run writes is as they have it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mixtures.cards import schemas
from pipelines.core.run import Run

#: Files of a run by the schema that they are under.
WRITTEN: dict[str, Callable[[Path], list[Path]]] = {
    "shard-card": lambda run: sorted(run.glob("shards/*.card.json")),
    "ledger": lambda run: [run / "ledger.json"],
    "checksums": lambda run: [run / "checksums.json"],
    "manifest": lambda run: sorted(run.glob("*/_manifest.json")),
    "ignored": lambda run: [run / "samples" / "_ignored.json"],
    "members": lambda run: [run / "samples" / "_members.json"],
    "croissant": lambda run: [run / "croissant.json"],
}


@pytest.mark.parametrize("name", schemas.NAMES)
def test_every_schema_is_valid(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schemas.load_schema(name))
    assert schemas.load_schema(name)["title"]
    assert schemas.find_errors(name, [])  # none of them is a list


def test_every_schema_file_is_listed(tmp_path: Path) -> None:
    folder = Path(str(schemas.__file__)).parent
    assert {path.stem for path in folder.glob("*.json")} == set(schemas.NAMES)


@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_a_run_match_their_schemas(cold: Run, name: str) -> None:
    files = WRITTEN[name](Path(cold.out))
    assert files
    for path in files:
        assert schemas.find_errors(name, json.loads(path.read_bytes())) == []


def leaves(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Places of a JSON value at which a key of an object can be left out."""
    paths = []
    if isinstance(node, dict):
        for name, child in node.items():
            paths += [(*path, name), *leaves(child, (*path, name))]
    return paths


def test_two_validators_agree_on_cards_with_a_field_left_out(cold: Run) -> None:
    """jsonschema is the reference; what audit uses is the faster one."""
    slow = jsonschema.Draft202012Validator(schemas.load_schema("shard-card"))
    card = json.loads(WRITTEN["shard-card"](Path(cold.out))[0].read_bytes())
    wrong = 0
    for path in leaves(card)[::7]:
        changed = json.loads(json.dumps(card))
        at = changed
        for name in path[:-1]:
            at = at[name]
        del at[path[-1]]
        bad = bool(schemas.find_errors("shard-card", changed))
        assert bad == (not slow.is_valid(changed)), path
        wrong += bad
    assert wrong > 3
