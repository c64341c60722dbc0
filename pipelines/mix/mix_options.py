"""Command-line options of `reelmill mix`: the recipe and the extra formats."""

from __future__ import annotations

from typing import Any

from infra.errors import ConfigError
from mixtures.plan.recipe import DEFAULT, Recipe, read_ratio, read_recipe
from mixtures.shards import emit


def resolve_recipe(recipe: str | None, ratio: str | None, **settings: Any) -> Recipe:
    """Resolve the recipe of a command line; `settings` that are given replace its keys.

    Raises ConfigError for an invalid recipe.
    """
    if recipe is not None and ratio is not None:
        raise ConfigError("give --recipe or --ratio, not both", hint="a recipe can contain the shares of modalities")
    return read_ratio(ratio, **settings) if ratio is not None else read_recipe(recipe or DEFAULT, **settings)


def parse_formats(text: str | None) -> tuple[str, ...]:
    """Parse names of emit.FORMATS from "energon,llava".

    Raises ConfigError for an unknown name.
    """
    names = tuple(filter(None, (name.strip() for name in (text or "").split(","))))
    if unknown := [name for name in names if name not in emit.FORMATS]:
        raise ConfigError(f"{unknown[0]!r} cannot be written", where="--emit", hint=f"known: {', '.join(emit.FORMATS)}")
    return names
