"""Packages import in one direction, few modules import Beam, and importing loads no heavy library."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("infra", "annotators", "filters", "mixtures", "pipelines")
#: What each package may import, beside itself.
BELOW = {
    "infra": set(),
    "annotators": {"infra"},
    "filters": {"infra"},
    "mixtures": {"infra"},
    "pipelines": {"infra", "annotators", "filters", "mixtures"},
}
#: Imported only inside the functions that use them.
HEAVY = ("apache_beam", "torch", "torchvision", "open_clip", "cv2", "faiss", "av", "onnxruntime", "rapidocr",
         "fasttext", "transformers", "datasets", "webdataset", "skimage", "matplotlib")  # fmt: skip


def sources(package: str) -> list[Path]:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    return paths


def imported(path: Path, *, top_level: bool = False) -> set[str]:
    """Full names of the modules that a file imports; only those outside functions when `top_level`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if top_level and id(node) in inside:
            continue
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module))
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_in_one_direction(package: str) -> None:
    allowed = BELOW[package] | {package}
    for path in sources(package):
        wrong = {name for name in imported(path) if name.split(".")[0] in set(PACKAGES) - allowed}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_nothing_imports_tests_or_benchmarks() -> None:
    for package in PACKAGES:
        for path in sources(package):
            assert not {name.split(".")[0] for name in imported(path)} & {"tests", "benchmarks"}, path


def test_beam_is_imported_only_where_pipelines_are_built() -> None:
    for package in PACKAGES:
        for path in sources(package):
            if any(name.split(".")[0] == "apache_beam" for name in imported(path)):
                in_infra = path == ROOT / "infra" / "beam.py" or path.parent == ROOT / "infra" / "engines"
                assert package == "pipelines" or in_infra, path


def test_importing_every_module_loads_no_heavy_library_and_prints_nothing() -> None:
    # infra.media.decoder_child and what it runs live in a process of their own and may import what they like there.
    modules = []
    for package in PACKAGES:
        for path in sources(package):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            modules.append(name.removesuffix(".__init__"))
    program = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert process.stdout == "[]\n"
    assert process.stderr == ""


def test_the_wheel_contains_the_five_packages_and_nothing_else() -> None:
    from setuptools import find_packages

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    where = project["tool"]["setuptools"]["packages"]["find"]
    packages = find_packages(str(ROOT), include=where["include"], exclude=where.get("exclude", ()))
    assert {name.split(".")[0] for name in packages} == set(PACKAGES)
    for package in PACKAGES:
        for path in sources(package):
            assert ".".join(path.parent.relative_to(ROOT).parts) in packages, f"{path} would not be in the wheel"
