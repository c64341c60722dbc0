"""Presets: each is a config that passes every check, filters in the papers' order, and invents no number."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

from infra import tables
from infra.commit import Unit, write_manifest
from infra.errors import ConfigError
from infra.weights import models
from pipelines.core.resolve import Resolved, resolve
from pipelines.core.run import Run, open_run
from pipelines.core.signals import read_signals
from pipelines.tools.presets import PRESETS, preset_text

SHA256 = hashlib.sha256(b"weights").hexdigest()
VIDEO_ORDER = ["caption", "language", "quality", "overlay", "alignment", "video_alignment", "motion"]


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a preset asks the person to set, and a CLIP that needs neither network nor torch."""
    vocabulary = tmp_path / "vocabulary.json"
    vocabulary.write_text(json.dumps(["dog", "red car"]))
    for name in ("IMAGES", "VIDEOS", "TEXTS"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("VOCABULARY", str(vocabulary))
    monkeypatch.setenv("SSCD_SHA256", SHA256)
    monkeypatch.setattr(
        models, "clip_files", lambda source: models.ClipFiles(source.model, {}, tmp_path / "weights", SHA256)
    )
    monkeypatch.setattr(models, "check_script", lambda *pinned: None)

    def refuse_torch(purpose: str = "") -> None:
        raise AssertionError(f"resolving a config loads torch for {purpose}")

    monkeypatch.setattr(models, "import_torch", refuse_torch)


def open_preset(name: str, folder: Path) -> Run:
    config = folder / f"{name}.yaml"
    config.write_text(preset_text(name))
    return open_run(str(config))


@pytest.fixture
def presets(variables: None, tmp_path: Path) -> dict[str, Resolved]:
    return {name: resolve(open_preset(name, tmp_path)) for name in PRESETS}


def test_video_filters_are_in_the_papers_order(presets: dict[str, Resolved]) -> None:
    assert [f.name for f in presets["llama3-video"].filters] == VIDEO_ORDER
    own = ("facts", "blank")  # in no paper's order, and cheap: before those that read many frames
    assert [f.name for f in presets["apollo"].filters if f.name not in own] == VIDEO_ORDER


def test_image_steps_are_in_the_papers_order(presets: dict[str, Resolved]) -> None:
    image = presets["llama3-image"]
    assert [f.name for f in image.filters] == ["caption", "language", "quality", "alignment"]
    assert image.duplicates.image is not None and image.duplicates.image.threshold == 0.75
    assert image.resample.rule == "sqrt" and image.resample.modalities == ("image",)
    assert [step.annotators for step in image.late] == [("overlay",)]


@pytest.mark.parametrize("name", PRESETS)
def test_alignment_weights_come_with_the_published_threshold(presets: dict[str, Resolved], name: str) -> None:
    resolved = presets[name]
    maker = resolved.annotators["alignment"].fingerprint_inputs()
    assert (maker["model"], maker["weights"]) == ("ViT-B-32-quickgelu", "openai")
    settings = {f.name: f.settings for f in resolved.filters}
    assert settings["alignment"].min_score == 0.28  # type: ignore[attr-defined]
    assert resolved.annotators["fingerprint"].fingerprint_inputs()["weights_sha256"] == SHA256


def test_language_comes_before_quality_for_texts(presets: dict[str, Resolved]) -> None:
    asked = [f.name for f in presets["apollo"].filters if "text" in f.modalities]
    assert asked == ["language", "quality"]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_pins_no_hash_and_says_whose_each_threshold_is(name: str) -> None:
    text = preset_text(name)
    assert not re.search(r"\b[0-9a-f]{64}\b", text)
    for line in text.splitlines():
        if re.match(r"\s+(min_|max_|threshold|tail_share)\w*: ", line):
            _, _, comment = line.partition("#")
            assert len(comment.strip()) > 3, line


@pytest.mark.parametrize("name", PRESETS)
def test_unset_variables_are_named_with_their_line(
    name: str, tmp_path: Path, variables: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSCD_SHA256")
    with pytest.raises(ConfigError, match="SSCD_SHA256") as caught:
        open_preset(name, tmp_path)
    line = next(i for i, row in enumerate(preset_text(name).splitlines(), 1) if row.strip().startswith("sha256: "))
    assert caught.value.where == f"{tmp_path / name}.yaml:{line}"


def test_a_misspelt_preset_suggests_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        preset_text("llama3-vidoe")
    assert "llama3-video" in caught.value.hint
    assert caught.value.exit_code == 2


def test_an_annotator_in_the_cascade_of_videos_runs_late_for_images(
    variables: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In apollo, overlay text is measured of videos in the cascade and of images only when they are kept."""
    monkeypatch.chdir(tmp_path)
    run = open_preset("apollo", tmp_path)
    tables.write(
        run.at("signals", "u000000.parquet"), pa.table({"key": ["a", "b", "c"], "overlay.text": ["A", None, "C"]})
    )
    late = pa.table({"key": ["a", "b", "c"], "overlay.text": ["A", "B", None], "other.n": [1, 2, None]})
    tables.write(run.at("late", "u000000.parquet"), late)
    write_manifest(run.at("late"), "late", "", [Unit("u000000", 3, "")])
    signals = read_signals(run, "u000000")
    assert signals["overlay.text"].to_pylist() == ["A", "B", "C"]
    assert signals["other.n"].to_pylist() == [1, 2, None]
