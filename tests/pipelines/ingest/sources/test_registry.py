from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.config import Source
from infra.errors import ConfigError
from pipelines.core.run import Run
from pipelines.ingest import ingest
from pipelines.ingest.sources.registry import READERS
from tests.tiny import rows

READER = """
from pipelines.ingest.sources.interface import SourceItem, SourceReader

class LinesReader(SourceReader):
    suffixes = (".lines",)

    def scan(self, source, container):
        with open(f"{source.path}/{container.path}") as file:
            for number, line in enumerate(file):
                yield SourceItem(container.path, str(number), "text", text=line.strip())
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages, of which "reelmill-lines" brings the readers `lines` and `broken`."""
    folder = tmp_path / "site"
    (folder / "reelmill_lines-1.0.dist-info").mkdir(parents=True)
    (folder / "reelmill_lines.py").write_text(READER)
    info = folder / "reelmill_lines-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: reelmill-lines\nVersion: 1.0\n")
    entry_points = "lines = reelmill_lines:LinesReader\nbroken = reelmill_lines:NoReader\n"
    (info / "entry_points.txt").write_text(f"[reelmill.sources]\n{entry_points}")
    monkeypatch.syspath_prepend(str(folder))
    READERS.__dict__.pop("plugins", None)
    yield folder
    READERS.__dict__.pop("plugins", None)


def sources(root: Path, reader: str) -> list[dict[str, str]]:
    (root / "in").mkdir()
    (root / "in" / "a.lines").write_text("one\ntwo\n")
    (root / "in" / "b.txt").write_text("ignored")
    return [{"name": "a", "path": str(root / "in"), "modality": "text", "reader": reader}]


def test_a_package_brings_a_reader(tmp_path: Path, site: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(sources(tmp_path, "lines"))
    ingest.run(run)
    assert [(row["container"], row["position"], row["text"]) for row in rows(run, "samples")] == [
        ("a.lines", "0", "one"),
        ("a.lines", "1", "two"),
    ]
    assert run.read_ignored() == {"text": 1}


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ("nothing", r"run.yaml:\d+: sources\[0\].reader: no installed package has a reader 'nothing'"),
        ("table", r"run.yaml:\d+: sources\[0\].reader: no installed package has a reader 'table'"),
        ("broken", r"run.yaml:\d+: reelmill.sources: 'broken', declared by reelmill-lines 1.0"),
    ],
)
def test_a_reader_that_cannot_be_used_is_a_config_error(
    tmp_path: Path, site: Path, make_run: Callable[..., Run], reader: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_run(sources(tmp_path, reader))


def test_a_reader_replaces_the_format() -> None:
    fields = {"name": "a", "path": "a", "modality": "text"}
    with pytest.raises(ValueError, match="give one of them"):
        Source.model_validate({**fields, "reader": "lines", "format": "table"})
    assert Source.model_validate({**fields, "reader": "lines"}).model_dump()["reader"] == "lines"
    assert "reader" not in Source.model_validate(fields).model_dump()  # as in the fingerprints of older runs
