from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipelines.takedown import world as worlds
from tests.pipelines.takedown.world import World


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A finished run that no test changes."""
    return worlds.make(tmp_path_factory.mktemp("removal") / "world")


@pytest.fixture
def world(finished: World, tmp_path: Path) -> World:
    """A copy of it to change."""
    return finished.copy(tmp_path / "world")


@pytest.fixture
def another(finished: World, tmp_path: Path) -> Callable[[str], World]:
    """Further copies by name."""
    return lambda name: finished.copy(tmp_path / name)
