"""Fixtures that tests of several packages share: a tiny corpus and one finished run over it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says something about the machine, nothing about the code. "fixed" draws the same examples
# each time; "explore" draws new ones and prints what reproduces a failure.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("REELMILL_EXAMPLES", "fixed"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With REELMILL_MAX_EXAMPLES, run every property test with so many examples, whatever its own settings say."""
    if count := os.environ.get("REELMILL_MAX_EXAMPLES"):
        for item in items:
            test = getattr(item, "obj", None)
            own = getattr(test, "_hypothesis_internal_use_settings", None)
            if getattr(test, "is_hypothesis_test", False):
                unhurried = [HealthCheck.too_slow, *(own or settings.default).suppress_health_check]
                more = settings(own, max_examples=int(count), suppress_health_check=unhurried)
                test._hypothesis_internal_use_settings = more  # what @settings sets, too


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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An S3 server on this machine; s3:// URIs lead to it. Tests are skipped where it has not been built."""
    from tests import remote

    with remote.serve_s3(tmp_path_factory.mktemp("s3")):
        yield


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """Opens a run over sources of the test's own making: make_run(sources, **other keys)."""

    from infra.beam import Runner
    from pipelines import stages
    from tests import corpus

    def make(sources: list[dict[str, Any]], name: str = "run", **changes: Any) -> Run:
        content = {"name": "own", "store": str(tmp_path / "store"), "out": str(tmp_path / name), "sources": sources}
        path = corpus.write_config(tmp_path / f"{name}.yaml", {**content, **changes})
        return stages.open_for_work(str(path), out=None, replace=False, runner=Runner(), quiet=True)

    return make
