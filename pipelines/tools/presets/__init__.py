"""Configs to start from: commented YAML files beside this module, in the order in which the papers filter."""

from __future__ import annotations

import difflib
from importlib import resources

from infra.errors import ConfigError

#: As `reelmill init` takes them.
PRESETS = ("llama3-image", "llama3-video", "apollo")


def preset_text(name: str) -> str:
    """The YAML of a preset, as it is printed.

    Raises ConfigError for a name that is none, with the nearest that is.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(PRESETS)}"
        raise ConfigError(f"there is no preset {name!r}", hint=hint)
    return resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
