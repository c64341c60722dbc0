"""The house's rules: imports run one way, Beam stays in its rooms, importing does nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("infra", "annotators", "filters", "mixtures", "pipelines")
#: What each room may import, beside itself.
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


def sources(room: str) -> list[Path]:
    paths = sorted((ROOT / room).rglob("*.py"))
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


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    allowed = BELOW[room] | {room}
    for path in sources(room):
        wrong = {name for name in imported(path) if name.split(".")[0] in set(ROOMS) - allowed}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_nothing_imports_tests_or_benchmarks() -> None:
    for room in ROOMS:
        for path in sources(room):
            assert not {name.split(".")[0] for name in imported(path)} & {"tests", "benchmarks"}, path


def test_beam_is_imported_only_where_pipelines_are_built() -> None:
    for room in ROOMS:
        for path in sources(room):
            if any(name.split(".")[0] == "apache_beam" for name in imported(path)):
                assert room == "pipelines" or path == ROOT / "infra" / "beam.py", path


def test_importing_every_module_loads_nothing_heavy_and_says_nothing() -> None:
    # infra.media.decoder_child and what it runs live in a process of their own and may import what they like there.
    modules = []
    for room in ROOMS:
        for path in sources(room):
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


def test_the_wheel_holds_the_five_rooms_and_nothing_else() -> None:
    from setuptools import find_packages

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    where = project["tool"]["setuptools"]["packages"]["find"]
    packages = find_packages(str(ROOT), include=where["include"], exclude=where.get("exclude", ()))
    assert {name.split(".")[0] for name in packages} == set(ROOMS)
    for room in ROOMS:
        for path in sources(room):
            assert ".".join(path.parent.relative_to(ROOT).parts) in packages, f"{path} would not be in the wheel"
