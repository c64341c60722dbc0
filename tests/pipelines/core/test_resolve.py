from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError
from pipelines.core import resolve as resolving
from pipelines.core.resolve import ordered, resolve
from pipelines.core.run import Run
from pipelines.decide.duplicates.settings import PDQ_THRESHOLD
from tests.infra.weights.test_model_files import make_archive, make_script
from tests.tiny import Tiny

SOURCES = [{"name": "a", "path": ".", "modality": "image"}]


@pytest.mark.parametrize(
    ("changes", "what", "hint"),
    [
        ({"filters": {"motoin": {}}}, "filters.motoin: there is no such key", "did you mean 'motion'?"),
        ({"filters": {"facts": {"min_sides": 3}}}, "filters.facts.min_sides", "did you mean 'min_side'?"),
        ({"filters": {"facts": {"min_side": "wide"}}}, "filters.facts.min_side", ""),
        ({"measure": {"fingerprnt": {}}}, "measure.fingerprnt", "did you mean 'fingerprint'?"),
        ({"measure": {"late": ["ocr"]}}, "there is no annotator 'ocr'", "overlay"),
        ({"measure": {"motion": {}}}, "measure.motion: nothing needs this annotator", "add a filter"),
        ({"duplicates": {"image": {"treshold": 1}}}, "duplicates.image.treshold", "did you mean 'threshold'?"),
        ({"duplicates": {"image": {"threshold": 1.5}}}, "duplicates.image.threshold", ""),
        ({"sourcs": []}, "sourcs: there is no such key", "did you mean 'sources'?"),
        ({"seed": -1}, "seed", ""),
        ({"filters": {"facts": {"min_side": float("nan")}}}, "filters.facts.min_side", ""),
    ],
)
def test_config_errors_name_their_line(
    make_run: Callable[..., Run], changes: dict[str, Any], what: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_run(SOURCES, **changes)
    assert what in caught.value.what and hint in caught.value.hint
    file, _, line = caught.value.where.rpartition(":")
    assert file.endswith("run.yaml") and int(line) > 0
    name = next(iter(changes))
    text = Path(file).read_text().splitlines()
    assert int(line) >= next(i for i, row in enumerate(text, 1) if row.startswith(name))
    assert not (tmp_path / "run").exists() and not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("annotator", "key", "name"),
    [("overlay", "det_model", "m.onnx"), ("overlay", "rec_model", "m.onnx"), ("language", "model", "lid.bin"),
     ("alignment", "pretrained", "w.safetensors"), ("alignment", "pretrained", "w.pt")],
)  # fmt: skip
def test_a_file_without_a_model_is_refused_before_any_work(
    make_run: Callable[..., Run], annotator: str, key: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"<!DOCTYPE html>" + bytes(3000))
    settings = {key: str(tmp_path / name), **({"model": "ViT-B-32"} if annotator == "alignment" else {})}
    with pytest.raises(ConfigError, match=rf"measure\.{annotator}\.{key}: .*{name}: this is not ") as caught:
        make_run(SOURCES, measure={annotator: settings, "late": [annotator]}, filters={"facts": {}})
    file, _, line = caught.value.where.rpartition(":")
    assert file.endswith("run.yaml") and int(line) > 0
    assert not (tmp_path / "run").exists() and not (tmp_path / "store").exists()


def test_a_folder_of_a_model_without_weights_is_named_by_its_key(make_run: Callable[..., Run], tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(Path(__file__).parents[3] / "pipelines" / "demo" / "weights" / "clip", folder)
    (folder / "open_clip_model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ConfigError, match=r"measure\.alignment\.model: .*this is not a file of safetensors"):
        make_run(SOURCES, measure={"alignment": {"model": f"local-dir:{folder}"}, "late": ["alignment"]})


SCRIPTS = {
    "a page": (b"<!DOCTYPE html>" + bytes(3000), "not a TorchScript module (3,015 bytes)"),
    "cut short": (make_script(("forward", "encode_video", "encode_text"))[:-30], "not a TorchScript module"),
    "weights": (make_archive(), "PyTorch weights without the code of a module"),
    "another model": (make_script(("other",)), "has no method"),
    "another file": (None, "not the pinned file"),
    "no file": (None, "No such file or directory"),
}


@pytest.mark.parametrize("case", SCRIPTS)
@pytest.mark.parametrize(
    "keys", [("fingerprint", "weights"), ("video_alignment", "video_text", "weights")], ids=".".join
)
def test_a_script_is_checked_before_any_work(
    make_run: Callable[..., Run], keys: tuple[str, ...], case: str, tmp_path: Path
) -> None:
    content, words = SCRIPTS[case]
    path = tmp_path / "copy.pt"
    if case != "no file":
        path.write_bytes(content or b"x")
    pinned = {"weights": str(path), "sha256": hashlib.sha256(content or b"").hexdigest()}
    settings = {"fingerprint": {"engine": "sscd", **pinned},
                "video_alignment": {"engine": "video_text", "video_text": pinned}}[keys[0]]  # fmt: skip
    with pytest.raises(ConfigError, match=rf"measure\.{'.'.join(keys)}: .*{re.escape(words)}") as caught:
        make_run(SOURCES, measure={keys[0]: settings, "late": [keys[0]]}, filters={"facts": {}})
    file, _, line = caught.value.where.rpartition(":")
    named = Path(file).read_text().splitlines()[int(line) - 1]
    assert named.strip() == f"weights: {path}"
    assert not (tmp_path / "run").exists() and not (tmp_path / "store").exists()


def test_resampling_needs_a_vocabulary(make_run: Callable[..., Run]) -> None:
    with pytest.raises(ConfigError, match=r"measure\.ngrams\.vocabulary: this key is required"):
        make_run(SOURCES, resample={"t": 1})


def test_the_cascade_follows_the_config_and_adds_the_annotators_it_needs(make_run: Callable[..., Run]) -> None:
    resolved = resolve(make_run(SOURCES, filters={"quality": None, "language": None, "facts": None},
                                duplicates={"image": {}, "text": {}}))  # fmt: skip
    assert [step.filter.name for step in resolved.steps if step.filter] == ["quality", "language", "facts"]
    assert ordered(resolved.steps) == ["clean", "quality", "language", "facts", "fingerprint", "minhash"]
    assert resolved.steps[1].annotators == ("clean", "quality")
    assert resolved.duplicates.image and resolved.duplicates.image.threshold == PDQ_THRESHOLD
    schema = resolved.schema(resolved.steps)
    assert schema.names[0] == "key" and "quality.error" in schema.names
    assert not any(name.startswith("fingerprint.vectors") for name in schema.names)  # vectors stay in the store


def test_fingerprints_of_annotators_do_not_depend_on_filters(make_run: Callable[..., Run]) -> None:
    def makers(name: str, **changes: Any) -> dict[str, str]:
        changes.setdefault("filters", {"language": None})
        return dict(resolve(make_run(SOURCES, name, **{"duplicates": {"image": {}}, **changes})).makers)

    base = makers("base")
    assert makers("judges", filters={"language": {"allowed": ["de"]}}, duplicates={"image": {"threshold": 0.9}}) == base
    assert makers("moves", seed=9, units={"target_rows": 3}) == base
    read = makers("reads", measure={"language": {"max_chars": 5}})
    assert {name for name in base if base[name] != read[name]} == {"language"}
    fps = makers("fps", measure={"fingerprint": {"fps": 2.0}})
    assert {name for name in base if base[name] != fps[name]} == {"fingerprint"}


def test_a_threshold_belongs_to_its_model(make_run: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(make_script())
    sha256 = hashlib.sha256(make_script()).hexdigest()
    sscd = {"fingerprint": {"engine": "sscd", "weights": str(tmp_path / "w.pt"), "sha256": sha256}}
    with pytest.raises(ConfigError, match="threshold is required"):
        make_run(SOURCES, measure=sscd, duplicates={"image": {}})
    resolved = resolve(make_run(SOURCES, measure=sscd, duplicates={"image": {"threshold": 0.7}}))
    assert resolved.duplicates.image and resolved.duplicates.image.threshold == 0.7


def test_the_config_of_the_tests_resolves(tiny: Tiny) -> None:
    resolved = resolve(tiny.open("resolved"))
    assert [f.name for f in resolved.filters] == ["caption", "language", "quality", "facts", "motion"]


def test_every_maker_depends_on_the_version_of_all_cells(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells of earlier versions may be of another sample, whichever annotator measured them."""
    run = make_run(SOURCES, filters={"caption": {}, "language": {}, "motion": {}})
    makers = resolve(run).makers
    monkeypatch.setattr(resolving, "CELLS_VERSION", 1)
    resolving._resolve.cache_clear()
    before = resolve(run).makers
    resolving._resolve.cache_clear()
    assert makers.keys() == before.keys() and not set(makers.values()) & set(before.values())
