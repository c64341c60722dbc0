"""A damaged file of a run is made again, bit by bit, and never signed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.errors import ConfigError, ReelmillError, StageError
from pipelines import stages
from pipelines.audit import audit
from pipelines.core.finished_run import read_run_json
from pipelines.core.integrity import COVERED
from pipelines.core.run import Run
from tests import corpus

#: Files that describe this machine or the work, and not the result.
NOT_COMPARED = ("run.json",)


def read_covered_files(folder: Path) -> dict[str, bytes]:
    """The files that audit covers, by path."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {str(path.relative_to(folder)): path for path in paths}
    return {
        name: path.read_bytes()
        for name, path in sorted(names.items())
        if not name.startswith(("work/", ".")) and name not in NOT_COMPARED
    }


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.fixture
def texts(tmp_path: Path, make_run: Callable[..., Run]) -> Run:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.txt").write_text(corpus.document(number))
    run = make_run([{"name": "t", "path": str(tmp_path / "in"), "modality": "text"}], duplicates={"text": {}})
    stages.run_all(run)
    return run


def test_a_flipped_bit_in_any_file_of_a_finished_run_is_mended(texts: Run, tmp_path: Path) -> None:
    folder = Path(texts.out)
    expected = read_covered_files(folder)
    assert {name.split("/")[0] for name in expected} >= {"samples", "signals", "verdicts", "duplicates", "members"}
    for name, content in expected.items():
        flip_bit(folder / name, len(content) // 2)
        stages.run_all(texts)
        assert read_covered_files(folder) == expected, name
    assert all(report.ok for report in audit.run(str(folder), quiet=True))
    # Of each file that was damaged a copy is kept.
    assert len(list((folder / "work" / "damaged").iterdir())) >= len(expected) - 1


@pytest.fixture
def complete_run(tmp_path: Path, make_run: Callable[..., Run]) -> Run:
    """A run with every stage and modality: shards of images, videos and texts, dialogues, late signals, resampling."""
    for modality in ("image", "video", "text"):
        (tmp_path / modality).mkdir()
    for number in range(2):
        (tmp_path / "image" / f"{number}.jpg").write_bytes(corpus.image_bytes(corpus.picture(number)))
        corpus.write_clip(tmp_path / "video" / f"{number}.mp4", number, frames=8)
        for modality in ("image", "video"):
            (tmp_path / modality / f"{number}.txt").write_text(corpus.caption(number))
        (tmp_path / "text" / f"{number}.txt").write_text(corpus.document(number))
    (tmp_path / "vocabulary.json").write_text(json.dumps([*corpus.THINGS, *corpus.PLACES]))
    run = make_run(
        [{"name": modality, "path": str(tmp_path / modality), "modality": modality} for modality in
         ("image", "video", "text")],
        filters={"caption": None, "facts": {"min_side": 32}},
        measure={"ngrams": {"vocabulary": str(tmp_path / "vocabulary.json")}, "late": ["shots"]},
        duplicates={"image": {}, "video": {}, "text": {}},
        resample={"t": 1, "modalities": ["image"]},
        annotate={},
    )  # fmt: skip
    stages.run_all(run)
    (report,) = audit.run(run.out, quiet=True)
    assert report.ok, report.findings
    return run


def test_a_flipped_bit_in_any_kind_of_file_of_a_whole_run_is_mended(complete_run: Run) -> None:
    """One file of each kind: its folder, its suffix, and the modality of a shard."""
    folder = Path(complete_run.out)
    expected = read_covered_files(folder)
    kinds = {re.sub(r"\d+", "N", name): name for name in expected if not name.startswith("samples/u")}
    assert {name.split("/")[0] for name in kinds.values()} >= {*COVERED} - {"samples"}
    assert {"shards/image-N.tar", "shards/video-N.tar", "dialogues/uN.parquet", "late/uN.parquet",
            "resample/image.parquet", "resample/image.json", "duplicates/video-pN.parquet"} <= set(kinds)  # fmt: skip
    names = sorted(kinds.values())
    for number in range(4):  # files of four stages at a time
        for name in names[number::4]:
            flip_bit(folder / name, len(expected[name]) // 2)
        stages.run_all(complete_run)
        assert read_covered_files(folder) == expected, names[number::4]
    (report,) = audit.run(str(folder), quiet=True)
    assert report.ok, report.findings


def test_a_stage_by_itself_names_damage_and_the_whole_run_mends_it(texts: Run) -> None:
    folder = Path(texts.out)
    expected = read_covered_files(folder)
    flip_bit(folder / "signals" / "u000000.parquet", 40)
    with pytest.raises(ReelmillError, match=r"signals/u000000\.parquet"):
        stages.run_stage(texts, "export")
    stages.run_all(texts)
    assert read_covered_files(folder) == expected


def test_damage_is_seen_before_a_run_was_finished_too(texts: Run) -> None:
    folder = Path(texts.out)
    expected = read_covered_files(folder)
    for name in ("signals/u000000.parquet", "verdicts/_manifest.json", "shards/text-000000.tar"):
        (folder / "checksums.json").unlink()
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])
        stages.run_all(texts)
        assert read_covered_files(folder) == expected, name


GARBLED = (b"", b"{", b"[]", b"{}\n", b"null", b'{"config":{}}\n', b"\xff\xfe", b"[" * 100_000)
JSON_FILES = (
    "samples/_ignored.json",
    "samples/_members.json",
    "ledger.json",
    "croissant.json",
    "checksums.json",
    ".lock",
)


@pytest.mark.parametrize("name", [*JSON_FILES, "README.md", "run.json"])
def test_a_garbled_file_is_written_again(name: str, texts: Run) -> None:
    folder = Path(texts.out)
    expected = read_covered_files(folder)
    for content in (b"{", b"[]"):
        (folder / name).write_bytes(content)
        stages.run_all(texts)
        assert read_covered_files(folder) == expected, content
    assert json.loads((folder / "run.json").read_bytes())["config_fingerprint"]


def test_a_garbled_run_json_is_written_again_on_request_only(texts: Run) -> None:
    folder, config = Path(texts.out), texts.document.path
    expected = read_covered_files(folder)
    for content in GARBLED:
        (folder / "run.json").write_bytes(content)
        with pytest.raises(ConfigError, match=r"run\.json: the description of this run is damaged") as caught:
            stages.open_for_work(config)
        assert "--replace" in caught.value.hint
        with pytest.raises(StageError, match="damaged"):
            read_run_json(str(folder))
    stages.run_all(stages.open_for_work(config, replace=True, quiet=True))
    assert read_covered_files(folder) == expected
    stages.open_for_work(config)


@pytest.mark.parametrize("name", [*JSON_FILES, "run.json", "samples/u000000.parquet"])
def test_a_folder_in_place_of_a_file_is_named(name: str, texts: Run) -> None:
    path = Path(texts.out) / name
    path.unlink(missing_ok=True)
    path.mkdir()
    with pytest.raises(ReelmillError, match=re.escape(str(path))) as caught:
        stages.run_all(texts)
    assert "remove" in caught.value.hint


def test_folders_that_were_removed_are_made_again(texts: Run) -> None:
    folder = Path(texts.out)
    expected = read_covered_files(folder)
    for name in ("signals", "duplicates", "shards", "work"):
        shutil.rmtree(folder / name)
        stages.run_all(texts)
        assert read_covered_files(folder) == expected, name
