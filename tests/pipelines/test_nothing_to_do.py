"""Every verb over runs with nothing to do: no inputs, one sample, everything dropped, everything failed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.errors import ReelmillError
from pipelines import cli
from tests import corpus

#: Everything that compares, counts or draws is switched on.
SETTINGS: dict[str, Any] = {
    "filters": {"caption": {}, "facts": {"min_side": 2}},
    "duplicates": {"image": {}, "video": {}, "text": {}},
    "resample": {"modalities": ["image", "video", "text"]},
    "annotate": {"ocr_questions": True},
}


def one_image(folder: Path) -> list[dict[str, Any]]:
    (folder / "a.jpg").write_bytes(corpus.image_bytes(corpus.picture(1)))
    (folder / "a.txt").write_text(corpus.caption(1))
    return [{"name": "a", "path": str(folder), "modality": "image"}]


def one_video(folder: Path) -> list[dict[str, Any]]:
    corpus.write_clip(folder / "a.mp4", 1)
    (folder / "a.txt").write_text(corpus.caption(1))
    return [{"name": "a", "path": str(folder), "modality": "video"}]


def one_text(folder: Path) -> list[dict[str, Any]]:
    (folder / "a.txt").write_text(corpus.caption(1))
    return [{"name": "a", "path": str(folder), "modality": "text"}]


def a_table_without_rows(folder: Path) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "a.parquet")
    return [{"name": "a", "path": str(folder), "modality": "text"}]


def one_dropped(folder: Path) -> list[dict[str, Any]]:
    (folder / "a.jpg").write_bytes(corpus.image_bytes(corpus.picture(1)))
    return [{"name": "a", "path": str(folder), "modality": "image"}]  # it has no caption


def one_failed(folder: Path) -> list[dict[str, Any]]:
    (folder / "a.mp4").write_bytes(b"no video")
    (folder / "a.txt").write_text(corpus.caption(1))
    return [{"name": "a", "path": str(folder), "modality": "video"}]


#: Scenario -> whether a sample is kept.
WORLDS = {one_image: 1, one_video: 1, one_text: 1, a_table_without_rows: 0, one_dropped: 0, one_failed: 0}


def invoke(*arguments: str) -> Any:
    """The result of a command. Errors explained to the user pass; any other is raised."""
    result = CliRunner().invoke(cli.app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit | ReelmillError):
        raise result.exception
    return result


@pytest.mark.parametrize("world", WORLDS)
def test_every_verb(world: Callable[[Path], list[dict[str, Any]]], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    kept = WORLDS[world]
    vocabulary = tmp_path / "vocabulary.json"
    vocabulary.write_text('["morning", "a wooden fence"]')
    measure = {"fingerprint": {"engine": "pdq"}, "ngrams": {"vocabulary": str(vocabulary)}}
    config = corpus.write_config(
        tmp_path / "config.yaml",
        {"name": "own", "store": str(tmp_path / "store"), "out": str(tmp_path / "run"),
         "sources": world(tmp_path / "in"), "measure": measure, **SETTINGS},
    )  # fmt: skip
    run, mix = str(tmp_path / "run"), str(tmp_path / "mix")
    assert invoke("run", str(config)).exit_code == 0
    for stage in ("ingest", "measure", "decide", "annotate", "export", "run"):
        assert invoke(stage, str(config)).exit_code == 0, stage
    report = str(tmp_path / "report")
    for arguments in (["audit", run], ["audit", run, "--deep"], ["audit", run, "--html", report]):
        result = invoke(*arguments)
        assert result.exit_code == 0, (arguments, result.output)
    assert (tmp_path / "report" / "index.html").is_file()
    assert invoke("plan", str(config)).exit_code == 0
    assert invoke("what-if", run, "--set", "filters.facts.min_side=1").exit_code == 0
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    assert invoke("diff", run, str(tmp_path / "copy")).exit_code == 0
    mixed = invoke("mix", "--from", run, "--ratio", "text=1" if world is one_text else "image=1", "--out", mix)
    modality = world in (one_image, one_text)
    assert (mixed.exception is None) == modality, mixed.output
    mixed = invoke("mix", "--from", run, "--recipe", str(corpus.write_config(tmp_path / "recipe.yaml", {"name": "m"})),
                   "--out", mix, "--materialize", "--replace", "--emit", "energon,llava")  # fmt: skip
    assert (mixed.exception is None) == bool(kept), mixed.output
    if kept:
        assert invoke("audit", mix, "--deep").exit_code == 0
        assert invoke("audit", mix, "--html", str(tmp_path / "mixture-report")).exit_code == 0
    else:
        assert "contain no samples" in str(mixed.exception)
