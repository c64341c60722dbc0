from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.run import Run
from tests.pipelines.report import world


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return world.make(tmp_path_factory.mktemp("pages"))


@pytest.fixture(scope="session")
def report_folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the run, with at most 9 pictures and 2 clips for each filter and outcome."""
    from pipelines.report import report

    out = tmp_path_factory.mktemp("report") / "html"
    report.run(run.out, str(out), quiet=True, thumbs=9, clips=2)
    return out
