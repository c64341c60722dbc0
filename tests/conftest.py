"""What several rooms' tests share: one tiny corpus, and one finished run over it that many tests look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("reelmill", deadline=None)
settings.load_profile("reelmill")

if TYPE_CHECKING:  # tests that need none of it import none of it
    from pipelines.core.run import Run
    from tests.tiny import Tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from tests import corpus
    from tests.tiny import Tiny

    folder = tmp_path_factory.mktemp("tiny")
    return Tiny(corpus.write_corpus(folder / "corpus"), folder)


@pytest.fixture(scope="session")
def cold(tiny: Tiny) -> Run:
    """A finished run that found an empty store."""
    return tiny.run("cold")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Opens a run over sources of the test's own making: make_run(sources, **other keys)."""

    from infra.beam import Runner
    from pipelines import stages
    from tests import corpus

    def make(sources: list[dict[str, Any]], name: str = "run", **changes: Any) -> Run:
        value = {"name": "own", "store": str(tmp_path / "store"), "out": str(tmp_path / name), "sources": sources}
        path = corpus.write_config(tmp_path / f"{name}.yaml", {**value, **changes})
        return stages.open_for_work(str(path), out=None, replace=False, runner=Runner(), quiet=True)

    return make
