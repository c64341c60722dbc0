"""How the code reads: names from the field, one meaning per class name, small functions, small folders, no circles."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("infra", "annotators", "filters", "mixtures", "pipelines")
FOLDERS = (*PACKAGES, "demo_weights", "benchmarks", "examples")

#: Words that stand for anything and therefore say nothing.
VAGUE = frozenset(
    {"found", "held", "told", "said", "mine", "other", "place", "gone", "one", "it", "known", "wanted", "chosen",
     "made", "left", "given", "part", "piece", "thing", "value", "data", "result"}
)  # fmt: skip
MAX_VAGUE_SHARE = 0.003
MAX_FUNCTION_LINES = 60
MAX_CLASS_LINES = 250
MAX_MODULES = 15

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parse(folders: tuple[str, ...]) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text("utf-8"))


def bound_names(tree: ast.AST) -> Iterator[str]:
    """Every name that a module gives to something: variables, parameters, attributes, functions, classes, aliases."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.arg):
            if node.annotation is None or ast.unparse(node.annotation) != "st.DataObject":  # hypothesis calls it data
                yield node.arg
        elif isinstance(node, Definition | ast.ExceptHandler) and node.name:
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname for alias in node.names if alias.asname)


def is_vague(name: str) -> bool:
    return name.strip("_").lower() in VAGUE


def test_vague_names_are_found() -> None:
    tree = ast.parse(
        "def _told(part, data: st.DataObject, x):\n    found = x\n    self.held = found\n    for one in x: pass"
    )
    assert sorted(filter(is_vague, bound_names(tree))) == ["_told", "found", "held", "one", "part"]


@pytest.mark.parametrize("folders", [FOLDERS, ("tests",)], ids=["source", "tests"])
def test_names_are_nouns_of_the_field(folders: tuple[str, ...]) -> None:
    names: Counter[str] = Counter()
    vague: Counter[str] = Counter()
    for path, tree in parse(folders):
        names.update(bound := list(bound_names(tree)))
        vague.update(f"{path}: {name}" for name in bound if is_vague(name))
    share = vague.total() / names.total()
    assert share <= MAX_VAGUE_SHARE, f"{share:.2%} of names say nothing: {vague.most_common(20)}"


def test_no_two_classes_have_one_name() -> None:
    paths_of: defaultdict[str, list[str]] = defaultdict(list)
    for path, tree in parse(FOLDERS):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                paths_of[node.name].append(str(path))
    assert {name: paths for name, paths in paths_of.items() if len(paths) > 1} == {}


def test_docstrings_begin_with_a_verb_or_a_noun() -> None:
    wrong = [
        f"{path}: {getattr(node, 'name', 'module')}"
        for path, tree in parse(FOLDERS)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | Definition) and (ast.get_docstring(node) or "").startswith("What")
    ]
    assert wrong == []


def test_functions_and_classes_are_small() -> None:
    wrong = []
    for path, tree in parse(FOLDERS):
        for node in ast.walk(tree):
            if isinstance(node, Definition):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > (MAX_CLASS_LINES if isinstance(node, ast.ClassDef) else MAX_FUNCTION_LINES):
                    wrong.append(f"{path}: {node.name} has {lines} lines")
    assert wrong == []


def test_folders_are_small_and_main_modules_have_a_function_run() -> None:
    for folder in {path.parent for path, _ in parse(FOLDERS)}:
        modules = [path for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MAX_MODULES, f"{folder} has {len(modules)} modules"
    verbs = [path for path in (ROOT / "pipelines").iterdir() if (path / f"{path.name}.py").is_file()]
    assert len(verbs) >= 11
    for verb in verbs:
        tree = ast.parse((verb / f"{verb.name}.py").read_text("utf-8"))
        assert "run" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, verb.name


def imports_of(tree: ast.Module, modules: set[str]) -> set[str]:
    """Modules of ours that a module imports, inside functions and for type checking too."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                imported.add(full if full in modules else node.module)
    return imported & modules


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Some modules that import each other in a circle, or an empty list."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return []
        for neighbour in sorted(graph[module]):
            if circle := visit(neighbour, [*path, module]):
                return circle
        finished.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := visit(module, []))), [])


def module_name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    trees = {module_name(path): tree for path, tree in parse(PACKAGES)}
    assert find_circle({name: imports_of(tree, set(trees)) - {name} for name, tree in trees.items()}) == []


@pytest.mark.parametrize("folder", ["tests"])
def test_tests_mirror_the_source(folder: str) -> None:
    """A test module tests the module of its name, or a folder that it lies in."""
    sources = {module_name(path) for path, _ in parse(FOLDERS)}
    for path, _ in parse((folder,)):
        if path.name.startswith("test_") and len(path.parts) > 2:
            package = ".".join(path.parts[1:-1])
            assert any(name == package or name.startswith(f"{package}.") for name in sources), path
