"""The folder: complete, the same bytes each time, and never in place of something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.errors import ConfigError, MissingExtra, StageError
from pipelines import cli
from pipelines.core.finished_run import open_judged_run
from pipelines.core.run import Run
from pipelines.report import report
from pipelines.report.report_rows import read_rows
from pipelines.report.thumbnails import choose_rows
from tests.pipelines.report import world
from tests.pipelines.report.test_data_scripts import read_script


def read_data(folder: Path, name: str) -> object:
    return read_script((folder / "data" / f"{name}.js").read_bytes().replace(f'["{name}"]'.encode(), b'["x"]', 1))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_run_gives_the_same_bytes(run: Run, report_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    report.run(run.out, str(again), quiet=True, thumbs=9, clips=2)
    assert files(again) == files(report_folder)


def test_an_earlier_report_is_replaced_whole_and_anything_else_is_left_alone(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report.run(run.out, str(out), quiet=True, thumbs=0, clips=0)
    (out / "data" / "stale.js").write_text("1")
    report.run(run.out, str(out), quiet=True, thumbs=0, clips=0)
    assert not (out / "data" / "stale.js").exists() and not (out / "thumbs").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    unrelated = tmp_path / "other"
    unrelated.mkdir()
    (unrelated / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="something other than a report"):
        report.run(run.out, str(unrelated), quiet=True)
    assert files(unrelated) == {"thesis.txt": b"years of work"}


def test_without_a_run_there_is_no_report(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="no finished run"):
        report.run(str(tmp_path), str(tmp_path / "out"), quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_report_contains_no_local_path(run: Run, report_folder: Path) -> None:
    root = str(Path(run.out).parent).encode()
    for name, content in files(report_folder).items():
        assert root not in content, name


def test_pictures_are_bounded_and_the_page_says_so(run: Run, report_folder: Path) -> None:
    rows = read_rows(open_judged_run(run.out))
    meta = read_data(report_folder, "meta")
    assert isinstance(meta, dict)
    media = meta["media"]
    assert media["asked"] == int((rows.modality != "text").sum()) and media["clips"] == len(
        [*report_folder.glob("clips/*/*.mp4")]
    )
    shown = {path.stem.rpartition("-")[0] for path in report_folder.glob("thumbs/*/*.jpg")}
    assert media["shown"] == len(shown)
    for outcome in set(rows.outcome.tolist()):
        for by in set(rows.stopped_by.tolist()):
            keys = {
                k for k, o, b in zip(rows.keys, rows.outcome, rows.stopped_by, strict=True) if (o, b) == (outcome, by)
            }
            assert len(keys & shown) <= 9
    assert dict(media["missing"]).keys() == {"decode", "truncated"} & dict(media["missing"]).keys() != set()
    for path in report_folder.glob("thumbs/*/*.jpg"):
        with Image.open(path) as image:
            assert max(image.size) <= 320


def test_a_larger_selection_contains_the_smaller_one(run: Run) -> None:
    rows = read_rows(open_judged_run(run.out))
    able = rows.modality != "text"
    before = np.zeros(len(rows), dtype=bool)
    for most in (0, 1, 3, 100):
        now = choose_rows(rows, able, 1, "test", most)
        assert (now | ~before).all() and not (now & ~able).any()
        before = now
    np.testing.assert_array_equal(before, able)


def test_media_that_are_missing_or_changed_are_not_shown(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(run.out, folder)
    run_card = json.loads((folder / "run.json").read_bytes())
    raw = tmp_path / "raw"
    for source in run_card["config"]["sources"]:
        if source["name"] == "clips":
            shutil.copytree(source["path"], raw)
            shutil.copyfile(raw / "0.mp4", raw / "still.mp4")
            source["path"] = str(raw)
        else:
            source["path"] = str(tmp_path / "nowhere")
    (folder / "run.json").write_text(json.dumps(run_card))
    summary = report.run(str(folder), str(tmp_path / "out"), quiet=True, clips=0)
    why = summary["without_picture"]
    assert why["changed"] == 1 and why["not found"] >= 3
    rows = read_rows(open_judged_run(str(folder)))
    kept = [
        key for key, o, m in zip(rows.keys, rows.outcome, rows.modality, strict=True) if o == "kept" and m != "text"
    ]
    assert all((tmp_path / "out" / "thumbs" / key[:2] / f"{key}-0.jpg").is_file() for key in kept)


def test_a_mixture_against_its_recipe(run: Run, tmp_path: Path) -> None:
    mixture = world.mix(run, tmp_path / "mix")
    report.run(mixture.uri, str(tmp_path / "out"), quiet=True)
    meta = read_data(tmp_path / "out", "meta")
    assert isinstance(meta, dict)
    members, groups = mixture.members(), {group["name"]: group["samples"] for group in mixture.manifest["groups"]}
    n, repeated = members.num_rows, sum(repeat > 0 for repeat in members["repeat"].to_pylist())
    assert np.sum(meta["vshards"]["samples"]) == n and meta["repeated"] == repeated > 0
    for v in range(3):
        for name, counts in zip(meta["modalities"], meta["vshards"]["samples"], strict=True):
            group_index = [group["name"] for group in mixture.manifest["groups"]].index(name)
            rows = zip(members["vshard"].to_pylist(), members["group"].to_pylist(), strict=True)
            assert counts[v] == sum(row == (v, group_index) for row in rows)
    assert meta["ratios"][0]["achieved"]["samples"] == round(groups["text"] / groups["image"], 4)
    sources = next(rows for column, rows in meta["tables"] if column == "source")
    assert sum(row[1] for row in sources) == n and sum(row[2] for row in sources) == n - repeated


def test_without_the_chart_library_no_report_is_started(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_not_installed(name: str) -> None:
        raise report.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(report.metadata, "distribution", raise_not_installed)
    with pytest.raises(MissingExtra, match="uplot-python"):
        report.run(run.out, str(tmp_path / "report"), quiet=True)
    assert not (tmp_path / "report").exists()


def test_the_command_writes_pages_of_what_its_audit_found_sound_and_of_nothing_else(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(*arguments: str) -> tuple[object, str]:
        monkeypatch.setattr("sys.argv", ["reelmill", "audit", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().err

    assert command(run.out, "--html", str(tmp_path / "report"), "--json")[0] == 0
    assert (tmp_path / "report" / "index.html").is_file()
    copy = tmp_path / "copy"
    shutil.copytree(run.out, copy)
    ledger = copy / "ledger.json"
    ledger.write_bytes(ledger.read_bytes().replace(b"kept", b"kepf", 1))
    code, printed = command(str(copy), "--html", str(tmp_path / "other"), "--json")
    assert code == 1 and "no report was written" in printed and not (tmp_path / "other").exists()
    assert command(run.out, "--html", str(copy))[0] == 2
