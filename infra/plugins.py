"""Registries of classes by name: those that ship with Reelmill, and those that installed packages add by entry points.

A package adds a class with an entry point in the registry's group:

    [project.entry-points."reelmill.filters"]
    sharpness = "my_package.sharpness:Sharpness"
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Generic, TypeVar

from infra.errors import ConfigError

Registered = TypeVar("Registered")

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Registry(Mapping[str, type[Registered]], Generic[Registered]):
    """Name -> class. Iterating gives the names, the built-in ones first, and imports nothing; `registry[name]` imports.

    group: the entry points' group; base: the class that every entry must extend; built_in: name -> "module:class".
    Entry points are read once, at the first use. Raises ConfigError, naming package and distribution, for a name that
    is malformed or taken, and for an entry that cannot be imported or is no subclass of `base`.
    Threads: safe; at worst, several read the entry points.
    """

    def __init__(self, group: str, base: type[Registered], built_in: Mapping[str, str]) -> None:
        self.group = group
        self.base = base
        self.built_in = built_in

    @functools.cached_property
    def plugins(self) -> Mapping[str, metadata.EntryPoint]:
        """The installed packages' entries by name, in alphabetical order."""
        entries: dict[str, metadata.EntryPoint] = {}
        for entry in sorted(metadata.entry_points(group=self.group), key=lambda entry: (entry.name, entry.value)):
            if not _NAME.fullmatch(entry.name):
                raise self._error(entry, "is not a name of lower-case letters, digits and underscores")
            if entry.name in self.built_in:
                raise self._error(entry, "is a name of Reelmill's own")
            first = entries.setdefault(entry.name, entry)
            if first.value != entry.value:
                raise self._error(entry, f"is also declared by {_describe(first)}")
        return entries

    def __getitem__(self, name: str) -> type[Registered]:
        if name in self.built_in:
            module, _, attribute = self.built_in[name].partition(":")
            built_in: type[Registered] = getattr(importlib.import_module(module), attribute)
            return built_in
        entry = self.plugins[name]
        try:
            loaded = entry.load()
        except (ImportError, AttributeError, SyntaxError) as error:
            raise self._error(entry, f"cannot be imported: {type(error).__name__}: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, self.base)):
            raise self._error(entry, f"is no subclass of {self.base.__module__}.{self.base.__qualname__}")
        own_name = getattr(loaded, "name", name)
        if own_name != name:
            raise self._error(entry, f"names a class whose own name is {own_name!r}")
        return loaded

    def __iter__(self) -> Iterator[str]:
        yield from self.built_in
        yield from self.plugins

    def __len__(self) -> int:
        return len(self.built_in) + len(self.plugins)

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self.plugins

    def distributions(self, names: Iterable[str]) -> dict[str, str]:
        """Distribution -> version of the packages that bring the registry entries `names`."""
        brought = [self.plugins[name].dist for name in names if name in self.plugins]
        return {dist.name: dist.version for dist in brought if dist is not None}

    def _error(self, entry: metadata.EntryPoint, problem: str) -> ConfigError:
        return ConfigError(
            f"{self.group}: {entry.name!r}, declared by {_describe(entry)}, {problem}",
            hint="mend or uninstall that package",
        )


def _describe(entry: metadata.EntryPoint) -> str:
    distribution = "an unknown distribution" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return f"{distribution} ({entry.value})"
