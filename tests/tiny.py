"""Runs over the tiny corpus, and their tables and JSON files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra import tables
from infra.beam import Runner
from pipelines import stages
from pipelines.core.run import Run
from tests import corpus


@dataclass(frozen=True)
class Tiny:
    """The corpus, the store of the first run over it, and a way to run again."""

    root: Path
    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def open(self, name: str, *, store: Path | str | None = None, workers: int = 1, **changes: Any) -> Run:
        """The run called `name`, its config written and checked. `changes` replace top-level keys."""
        content = corpus.config(self.root, store or self.store, self.folder / name) | changes
        path = corpus.write_config(self.folder / f"{name}.yaml", content)
        return stages.open_for_work(str(path), out=None, replace=False, runner=Runner(workers=workers), quiet=True)

    def run(self, name: str, **how: Any) -> Run:
        """The same, finished."""
        run = self.open(name, **how)
        stages.run_all(run)
        return run


def rows(run: Run, stage: str) -> list[dict[str, Any]]:
    """All rows of a stage, in order."""
    paths = sorted(Path(run.at(stage)).glob("*.parquet"))
    units = [tables.read(str(path)).replace_schema_metadata(None) for path in paths]
    return list(pa.concat_tables(units).to_pylist())


def read_json_of(run: Run, name: str) -> Any:
    """A JSON file of a run."""
    return json.loads(Path(run.at(name)).read_bytes())
