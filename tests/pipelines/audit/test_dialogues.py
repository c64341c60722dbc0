"""Dialogues of a run that has some, and runs that do not lie on this disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from infra import storage
from pipelines import stages
from pipelines.audit import audit
from pipelines.core.run import Run
from tests import corpus
from tests.pipelines.audit.damage import edit_json, edit_rows, list_findings, reissue


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over four clips, its dialogues written by rule."""
    folder = tmp_path_factory.mktemp("dialogues")
    videos = folder / "videos"
    videos.mkdir()
    read_first_record = corpus.write_clip(videos / "v0.mp4", 1)
    for number in range(4):
        if number:
            shutil.copyfile(read_first_record, videos / f"v{number}.mp4")
        sidecar: dict[str, Any] = {"text": f"{corpus.caption(number)} Beside it a painter mixes green colours."}
        sidecar["dense_captions"] = [
            {"start": 0.2, "end": 0.5, "text": "A tall man opens the heavy door slowly."},
            {"start": 0.6, "end": 1.2, "text": "Two children run through the garden."},
        ]
        (videos / f"v{number}.json").write_text(json.dumps(sidecar))
    run = corpus.open_videos(folder, "run", videos, {})
    stages.run_all(run)
    return folder / "run"


def test_cards_agree_with_the_table_of_dialogues(original: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("work", ".lock"))
    assert list_findings(copy) == set()
    card = json.loads((copy / "shards" / "video-000000.card.json").read_bytes())
    assert card["dialogues"]["accepted"] > 0
    edit_rows(copy / "dialogues" / "u000000.parquet", lambda rows: rows[0].update(tokens_in=rows[0]["tokens_in"] + 1))
    reissue(copy)
    assert list_findings(copy) == {("shards/video-000000.card.json", "dialogues.tokens_in")}
    edit_json(copy / "shards" / "video-000000.card.json", lambda card: card.update(dialogues=None))
    reissue(copy)
    assert ("shards/video-000000.card.json", "dialogues") in list_findings(copy)


def test_a_run_behind_a_uri_is_audited_like_a_local_one(cold: Run) -> None:
    import fsspec

    uri = "memory://audited/run"
    files = fsspec.filesystem("memory")
    try:
        for entry in storage.list_files(cold.out):
            if not entry.path.startswith("work/"):
                storage.write_bytes(storage.join(uri, entry.path), Path(cold.out, entry.path).read_bytes())
        (report,) = audit.run(uri, quiet=True)
        assert report.ok, report.findings
        tar = bytearray(Path(cold.at("shards", "text-000000.tar")).read_bytes())
        tar[600] ^= 1
        storage.write_bytes(storage.join(uri, "shards/text-000000.tar"), bytes(tar))
        (report,) = audit.run(uri, quiet=True)
        assert ("shards/text-000000.tar", "sha256") in {(f.file, f.field) for f in report.findings}
    finally:
        files.rm("/audited", recursive=True)
