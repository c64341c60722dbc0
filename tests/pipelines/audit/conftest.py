"""A finished run to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.core.run import Run


@pytest.fixture
def copy(cold: Run, tmp_path: Path) -> Path:
    """A finished run to damage."""
    folder = tmp_path / "run"
    shutil.copytree(cold.out, folder, ignore=shutil.ignore_patterns("work", ".lock"))
    return folder
