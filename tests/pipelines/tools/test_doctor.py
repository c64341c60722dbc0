"""doctor finds what is missing, says how to install it, and downloads nothing."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError, MissingExtra
from infra.weights import models
from pipelines.core.run import open_run
from pipelines.ingest import ingest
from pipelines.tools import doctor
from tests.infra.weights.test_model_files import make_script

WEIGHTS = make_script()
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
CONFIG = """
name: test
store: {folder}/store
out: {folder}/out
sources:
  - {{name: images, path: "{folder}/images", modality: image}}
"""


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_network(*arguments: Any, **options: Any) -> None:
        raise AssertionError("doctor asks the network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse_network)
    monkeypatch.setattr(models, "_hub_folder", refuse_network)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    (tmp_path / "vocabulary.json").write_text(json.dumps(["dog"]))
    (tmp_path / "copy.pt").write_bytes(WEIGHTS)
    return tmp_path


def run_doctor(folder: Path, more: str = "") -> dict[str, dict[str, Any]]:
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(folder=folder) + more)
    return {finding["name"]: finding for finding in doctor.run(str(config))["findings"]}


def sscd_config(folder: Path, weights: str, sha256: str = SHA256) -> str:
    settings = f"engine: sscd, weights: '{weights}', sha256: '{sha256}', cache: '{folder}/cache'"
    return f"measure: {{fingerprint: {{{settings}}}}}\nduplicates: {{image: {{threshold: 0.75}}}}\n"


def test_this_machine_can_run_the_tests() -> None:
    findings = {finding["name"]: finding for finding in doctor.run()["findings"]}
    assert findings["packages"]["ok"] or "other versions" in findings["packages"]["detail"]
    assert all(findings[f"codec {name}"]["ok"] for name in doctor.DECODERS)
    assert "in use: CPU" in findings["faiss"]["detail"]
    assert findings["language model"]["ok"]
    assert all(bool(finding["fix"]) <= (not finding["ok"]) for finding in findings.values())
    assert not any(finding["needed"] and not finding["ok"] for finding in findings.values())


def test_a_plain_config_is_well(folder: Path) -> None:
    findings = run_doctor(folder, "filters: {caption: {}, quality: {}}\nduplicates: {image: {}}\n")
    assert all(finding["ok"] for finding in findings.values() if finding["needed"])
    assert findings["measure.fingerprint"]["detail"] == "PDQ, built in"
    assert "every section is checked" in findings["config"]["detail"]


def test_wrong_versions_and_absent_packages_are_named_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"av": "1.0", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(doctor, "requirements", lambda: {"": ["av", "Pillow"], "models": ["torch", "open_clip_torch"]})
    monkeypatch.setattr(doctor, "_installed_version", versions.get)
    monkeypatch.setattr(doctor, "pins", lambda: {"av": "2.0", "torch": "2.13.0"})
    core, extra = doctor._check_packages(doctor.Requirements())
    assert (core.ok, core.needed) == (False, True)
    assert "absent: Pillow" in core.detail and "av 1.0 (pinned: 2.0)" in core.detail
    assert (extra.ok, extra.needed) == (False, False)
    assert "open_clip_torch" in extra.detail and "torch 2.13.0+cpu" not in extra.detail
    assert '".[models]"' in extra.fix
    versions["Pillow"] = "12"
    core = doctor._check_packages(doctor.Requirements())[0]
    assert (core.ok, core.needed) == (False, False), "another version is worth knowing and no reason to stop"
    versions["av"] = "2.0"
    core = doctor._check_packages(doctor.Requirements())[0]
    assert (core.ok, core.needed) == (True, True)


def test_an_extra_is_needed_when_the_config_needs_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_missing_torch(purpose: str = "") -> None:
        raise MissingExtra("torch", "models", purpose)

    monkeypatch.setattr(models, "import_torch", raise_missing_torch)
    assert not run_doctor(folder)["torch"]["needed"]
    finding = run_doctor(folder, sscd_config(folder, f"{folder}/copy.pt"))["torch"]
    assert finding["needed"] and not finding["ok"] and "[models]" in finding["fix"]


def test_the_pins_are_those_of_the_repository(tmp_path: Path) -> None:
    file = tmp_path / "constraints.txt"
    file.write_text("# pins\nOpen_Clip.Torch==3.3.0  # why\nnumpy==2.4.6; python_version > '3'\nloose>=1\n")
    assert doctor.pins(file) == {"open-clip-torch": "3.3.0", "numpy": "2.4.6"}
    assert doctor.pins(tmp_path / "none") == {}
    required = doctor.requirements()
    assert "pyarrow" in required[""] and "torch" in required["models"] and "rapidocr" in required["ocr"]


def test_weights_must_have_their_hash(folder: Path) -> None:
    good = run_doctor(folder, sscd_config(folder, f"{folder}/copy.pt"))["measure.fingerprint.weights"]
    assert good["ok"]
    bad = run_doctor(folder, sscd_config(folder, f"{folder}/copy.pt", "0" * 64))
    assert bad["measure.fingerprint.weights"]["needed"] and SHA256 in bad["measure.fingerprint.weights"]["detail"]
    (folder / "page.pt").write_bytes(b"<html>")
    page = run_doctor(folder, sscd_config(folder, f"{folder}/page.pt", hashlib.sha256(b"<html>").hexdigest()))
    assert "not a TorchScript module" in page["measure.fingerprint.weights"]["detail"]
    missing = run_doctor(folder, sscd_config(folder, f"{folder}/none.pt"))["measure.fingerprint.weights"]
    assert not missing["ok"] and missing["needed"]


def test_weights_by_url_are_looked_for_and_not_fetched(folder: Path) -> None:
    url = "https://example.org/copy.pt"
    finding = run_doctor(folder, sscd_config(folder, url))["measure.fingerprint.weights"]
    assert (finding["ok"], finding["needed"]) == (False, False) and url in finding["fix"]
    (folder / "cache").mkdir()
    (folder / "cache" / SHA256).write_bytes(WEIGHTS)
    assert run_doctor(folder, sscd_config(folder, url))["measure.fingerprint.weights"]["ok"]


def test_a_clip_by_tag_is_looked_for_and_not_fetched(folder: Path) -> None:
    pytest.importorskip("torch")
    text = "measure: {{alignment: {{model: ViT-B-32-quickgelu, pretrained: {}, cache: '{}'}}}}\n"
    text += "filters: {{alignment: {{min_score: 0.2}}}}\n"
    finding = run_doctor(folder, text.format("openai", folder / "cache"))["measure.alignment.model"]
    assert (finding["ok"], finding["needed"]) == (False, False) and "downloaded at first use" in finding["fix"]
    wrong = run_doctor(folder, text.format("opneai", folder / "cache"))["measure.alignment.model"]
    assert wrong["needed"] and not wrong["ok"] and "openai" in wrong["fix"]
    missing = "measure: {alignment: {model: 'local-dir:/nowhere'}}\nfilters: {alignment: {min_score: 0.2}}\n"
    assert run_doctor(folder, missing)["measure.alignment.model"]["needed"]


def test_missing_files_and_folders_are_named(folder: Path) -> None:
    (folder / "store").write_text("in the way")
    more = "measure: {ngrams: {vocabulary: /nowhere.json}, quality: {bad_words: /nowhere.txt}}\n"
    more += "filters: {quality: {}}\nresample: {}\n"
    findings = run_doctor(folder, more)
    wrong = {name for name, finding in findings.items() if finding["needed"] and not finding["ok"]}
    assert wrong == {"store", "measure.ngrams.vocabulary", "measure.quality.bad_words"}
    assert "reelmill vocab" in findings["measure.ngrams.vocabulary"]["fix"]
    (folder / "images" / "a.png").unlink()
    empty = run_doctor(folder)["source images"]
    assert empty["needed"] and not empty["ok"] and "there are no files" in empty["detail"]
    (folder / "images" / "a.doc").write_bytes(b"x")
    run_doctor(folder)
    with pytest.raises(ConfigError, match=r"is recognised: 1 × no known format, \.doc") as error:
        ingest.run(open_run(str(folder / "config.yaml"), overrides={"out": str(folder / "out")}))
    assert run_doctor(folder)["source images"]["detail"] == error.value.what
    (folder / "images" / "a.doc").unlink()
    (folder / "images").rmdir()
    missing = run_doctor(folder)["source images"]
    assert missing["needed"] and not missing["ok"]


def test_a_wrong_config_is_an_error_with_its_line(folder: Path) -> None:
    for more, line, word in (
        ("filters: {motoin: {}}\n", 7, "motion"),
        ("filters:\n  quality:\n    min_wrods: 3\n", 9, "min_words"),
        ("measure:\n  overlya: {}\n", 8, "overlay"),
        ("duplicates: {imgae: {}}\n", 7, "image"),
        ("resample: {rule: cubic}\n", 7, "sqrt"),
    ):
        with pytest.raises(ConfigError) as caught:
            run_doctor(folder, more)
        assert caught.value.where.endswith(f"config.yaml:{line}")
        assert word in str(caught.value)


def test_the_console_shows_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(folder=folder) + "measure: {ngrams: {vocabulary: /nowhere.json}}\nresample: {}\n")
    doctor.show(doctor.run(str(config)))
    shown = capsys.readouterr().out
    assert "MISSING" in shown and "reelmill vocab" in shown and "required and missing: 1" in shown


@pytest.mark.parametrize(
    ("version", "ok"),
    [((3, 11, 13), False), ((3, 11, 14), True), ((3, 12, 3), False), ((3, 13, 6), True), ((3, 14, 0), True)],
)
def test_a_python_with_published_holes_in_tarfile_is_reported(version: tuple[int, int, int], ok: bool) -> None:
    finding = doctor._check_tarfile(version)
    assert finding.ok is ok and not finding.needed and ("CVE-2025-8194" in finding.detail) is not ok
