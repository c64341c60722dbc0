"""One tiny world and one set of tiny models for all tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.train import worlds


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return worlds.models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def tiny_mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 samples: a last step of a batch of 4 holds two."""
    folder = tmp_path_factory.mktemp("world") / "world"
    worlds.mixture(folder, images=10, videos=2, pairs=2, texts=4)
    return folder / "mix"


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six texts: no decoder has to be started for them."""
    folder = tmp_path_factory.mktemp("texts") / "world"
    worlds.mixture(folder, images=0, videos=0, pairs=0, texts=6)
    return folder / "mix"
