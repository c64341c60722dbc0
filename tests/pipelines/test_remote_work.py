"""Mixtures, audits, take-downs and loaders of a run on remote storage give what they give on a disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra import storage
from infra.errors import ConfigError
from mixtures.loader import Loader
from pipelines import stages
from pipelines.audit import audit
from pipelines.core.run import Run
from pipelines.diff import diff
from pipelines.mix import mix, mix_options
from pipelines.report import report
from pipelines.takedown import takedown
from pipelines.takedown.request import build_request
from tests import corpus, remote


def write_sources(folder: Path) -> list[dict[str, Any]]:
    for modality in ("image", "text"):
        (folder / modality).mkdir(parents=True)
    for number in range(5):
        (folder / "image" / f"{number}.jpg").write_bytes(corpus.image_bytes(corpus.picture(number)))
        (folder / "image" / f"{number}.txt").write_text(corpus.caption(number))
        (folder / "text" / f"{number}.txt").write_text(corpus.document(number))
    return [{"name": m, "path": str(folder / m), "modality": m} for m in ("image", "text")]


def read_files(uri: str) -> dict[str, str]:
    """sha256 of every file of a run or mixture, without what describes the machine."""
    paths = [entry.path for entry in storage.list_files(uri)]
    return {p: storage.sha256(storage.join(uri, p)) for p in paths if not p.startswith((".", "work/", "run.json"))}


def work(root: str, run: Run, reports: Path) -> dict[str, Any]:
    """Everything that reads or changes a finished run, with the folder `root` for mixtures; returns what came of it."""
    stages.run_all(run)
    recipe = mix_options.resolve_recipe(None, "text=0.5,image=0.5", size=6, seed=1)
    folders = [run.out, f"{root}/plan", f"{root}/tars"]
    for folder, materialize in zip(folders[1:], (False, True), strict=True):
        mix.run([run.out], recipe, folder, materialize=materialize, quiet=True)
    came: dict[str, Any] = {"files": [read_files(folder) for folder in folders]}
    came["samples"] = [[sample["__key__"] for sample in Loader(folder, verify=True)] for folder in folders[1:]]
    keys = run.read("members", "image-000000", ["key"])["key"].to_pylist()[:1]
    summary = takedown.run([root], build_request(keys=keys), quiet=True)
    came["taken"] = [entry["samples"] for entry in summary["runs"]], [entry["samples"] for entry in summary["mixtures"]]
    stages.run_all(run)  # finished work is kept, the sample does not come back
    came["files after"] = [read_files(folder) for folder in folders]
    came["samples after"] = [[sample["__key__"] for sample in Loader(folder, verify=True)] for folder in folders[1:]]
    assert keys[0] not in {key for of_folder in came["samples after"] for key in of_folder}
    for number, folder in enumerate(folders):
        (audited,) = audit.run(folder, quiet=True)
        assert audited.ok, audited.findings
        came.setdefault("reports", []).append(report.run(folder, str(reports / str(number)), quiet=True)["samples"])
    assert diff.run(run.out, run.out)["same"]
    return came


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_everything_after_a_run_is_the_same_on_remote_storage(
    kind: str, tmp_path: Path, make_run: Callable[..., Run], request: pytest.FixtureRequest
) -> None:
    if kind == "s3":
        request.getfixturevalue("s3")
    sources = write_sources(tmp_path / "sources")
    how: dict[str, Any] = {"filters": {"caption": None}, "duplicates": {"image": {}, "text": {}}}
    local = make_run(sources, "here", out=str(tmp_path / "local" / "run"), store=str(tmp_path / "a"), **how)
    expected = work(str(tmp_path / "local"), local, tmp_path / "reports-a")
    (tmp_path / "nothing").mkdir()
    with remote.publish(kind, tmp_path / "nothing", request) as uri:
        distant = make_run(sources, "distant", out=f"{uri}/run", store=f"{uri}/store", **how)
        assert work(uri, distant, tmp_path / "reports-b") == expected
        with pytest.raises(ConfigError, match="a folder on this machine"):
            report.run(distant.out, f"{uri}/report", quiet=True)


def test_readers_of_one_file_in_memory_have_positions_of_their_own() -> None:
    storage.write_bytes("memory://positions/a", b"0123456789")
    with storage.open_read("memory://positions/a") as first, storage.open_read("memory://positions/a") as second:
        first.seek(4)
        assert second.read(2) == b"01" and first.read(2) == b"45"
