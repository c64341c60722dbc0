"""Discover runs, mixtures and stores at or below folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra import storage
from infra.errors import StageError
from mixtures.shards.manifest import is_mixture


@dataclass(frozen=True)
class DiscoveredRuns:
    """Folders of runs, mixtures and stores, each sorted and unique."""

    runs: tuple[str, ...]
    mixtures: tuple[str, ...]
    stores: tuple[str, ...]


def discover(folders: Sequence[str]) -> DiscoveredRuns:
    """Find every run (a folder with samples), mixture and store at or below `folders`, not following links.

    Raises StageError if a folder does not exist or contains none of them.
    """
    runs: set[str] = set()
    mixtures: set[str] = set()
    stores: set[str] = set()
    for top in folders:
        if not storage.exists(top):
            raise StageError("there is no such folder", where=top)
        before = len(runs) + len(mixtures) + len(stores)
        stack = [normalise(top)]
        while stack:
            folder = stack.pop()
            if storage.is_file(storage.join(folder, "samples", "_manifest.json")):
                runs.add(folder)
            elif is_mixture(folder):
                mixtures.add(folder)
            elif "cells" in (names := storage.list_folders(folder)):
                stores.add(folder)
            else:
                stack += [storage.join(folder, name) for name in names if name[0] != "." and not _is_link(folder, name)]
        if before == len(runs) + len(mixtures) + len(stores):
            raise StageError(
                "there is no run, mixture or store at or below this folder",
                where=top,
                hint="give runs, mixtures, or a folder that contains some",
            )
    return DiscoveredRuns(tuple(sorted(runs)), tuple(sorted(mixtures)), tuple(sorted(stores)))


def normalise(uri: str) -> str:
    """One name per folder, however it was written."""
    return str(storage.local_path(uri).resolve()) if storage.is_local(uri) else uri.rstrip("/")


def _is_link(folder: str, name: str) -> bool:
    return storage.is_local(folder) and (storage.local_path(folder) / name).is_symlink()
