"""The package of docs/extending.md, installed and run in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")


def code(language: str) -> str:
    (block,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.S | re.M)
    return str(block)


def install(folder: Path) -> None:
    """The page's package as pip installs it: its module, and its metadata with the entry points."""
    project = tomllib.loads(code("toml"))["project"]
    folder.mkdir()
    (folder / "reelmill_exclaim.py").write_text(code("python"))
    metadata = folder / f"reelmill_exclaim-{project['version']}.dist-info"
    metadata.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}"]
    (metadata / "METADATA").write_text("\n".join(lines) + "\n")
    groups = project["entry-points"]
    (metadata / "entry_points.txt").write_text(
        "".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in groups[group].items()) for group in groups)
    )


def reelmill(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(folder / "site")])
    return subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extending")
    install(folder / "site")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.lines").write_text("A quiet note.\nNow!!!\nTwo dogs run on a beach!\n")
    (folder / "run.yaml").write_text(code("yaml"))
    done = reelmill(folder, "run", "run.yaml", "--json")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_pages_package_reads_measures_and_judges(world: Path) -> None:
    (name,) = (path.name for path in (world / "run" / "verdicts").glob("*.parquet"))
    samples, signals, verdicts = (
        pq.read_table(world / "run" / stage / name).to_pylist() for stage in ("samples", "signals", "verdicts")
    )
    assert [row["position"] for row in samples] == ["row=0", "row=1", "row=2"]
    by_text = {
        sample["text"]: (signal["exclaim.share"], verdict["outcome"], verdict["reason"])
        for sample, signal, verdict in zip(samples, signals, verdicts, strict=True)
    }
    assert by_text == {
        "A quiet note.": (0.0, "kept", None),
        "Now!!!": (0.5, "dropped", "exclaims"),
        "Two dogs run on a beach!": (0.041667, "kept", None),
    }


def test_its_column_is_on_cards_and_its_threshold_is_explained(world: Path) -> None:
    card = json.loads((world / "run" / "shards" / "text-000000.card.json").read_text())
    assert card["scores"]["exclaim.share"]["count"] == 2
    description = json.loads((world / "run" / "run.json").read_text())
    assert description["explain"] == [{"asks": ["text"], "filter": "exclaim", "settings": {"max_share": 0.1}}]
    project = tomllib.loads(code("toml"))["project"]
    assert description["versions"][project["name"]] == project["version"]


def test_the_run_audits_and_an_unknown_name_is_an_error_without_the_package(world: Path) -> None:
    assert reelmill(world, "audit", "run").returncode == 0
    failed = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "run", "run.yaml"],
        cwd=world, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert failed.returncode == 2 and "run.yaml:" in failed.stderr
