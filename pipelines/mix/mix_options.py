"""Command-line options of `reelmill mix`: the recipe and the extra formats."""

from __future__ import annotations

from typing import Any

from infra.errors import ConfigError
from mixtures.plan.recipe import DEFAULT, Recipe, read_ratio, read_recipe
from mixtures.shards import emit


def resolve_recipe(recipe: str | None, ratio: str | None, **settings: Any) -> Recipe:
    """The recipe that a command line asks for; `settings` replace its keys where they are given.

    Raises ConfigError for any mistake in it.
    """
    if recipe is not None and ratio is not None:
        raise ConfigError("give --recipe or --ratio, not both", hint="shares of modalities can stand in the recipe")
    return read_ratio(ratio, **settings) if ratio is not None else read_recipe(recipe or DEFAULT, **settings)


def parse_formats(text: str | None) -> tuple[str, ...]:
    """Names of emit.FORMS from "energon,llava".

    Raises ConfigError for any other.
    """
    found = tuple(filter(None, (part.strip() for part in (text or "").split(","))))
    if unknown := [name for name in found if name not in emit.FORMATS]:
        raise ConfigError(f"{unknown[0]!r} cannot be written", where="--emit", hint=f"known: {', '.join(emit.FORMATS)}")
    return found
