"""What lives as long as a process says how threads share it: engines run several tasks in threads of one process.

The statement is a comment or a docstring with "Threads: …", at the place itself, or in the docstring of its function,
class or module.
"""

from __future__ import annotations

import ast
import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("annotators", "filters", "infra", "mixtures", "pipelines")

#: Decorators and calls whose results outlive the call.
CACHES = {"cache", "lru_cache", "cached_property", "_once"}
SHARED = {"Lock", "RLock", "local", "Semaphore", "BoundedSemaphore", "Event", "Condition", "Pool"}
CONTAINERS = {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict", "WeakValueDictionary"}
SCOPES = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
#: Calls that change the whole process.
SETTERS = {
    *("chdir", "umask", "putenv", "setdefault", "signal", "setitimer", "setrlimit", "field_size_limit"),
    *("setNumThreads", "omp_set_num_threads", "set_num_threads", "simplefilter", "filterwarnings", "setLevel"),
    *("setlocale", "register", "setrecursionlimit", "setswitchinterval", "setdefaulttimeout", "manual_seed", "seed"),
}
#: Modules and objects of the process, whose attributes and items anybody may set.
PROCESS_WIDE = {"os", "environ", "sys", "signal", "csv", "cv2", "faiss", "torch", "library", "module", "warnings",
                "logging", "locale", "atexit", "socket", "random", "resource", "Image", "backends", "cudnn",
                "matmul"}  # fmt: skip


def name_of(node: ast.expr) -> str:
    """The last name of a dotted name or of a call's function, "" for others."""
    if isinstance(node, ast.Call):
        return name_of(node.func)
    if isinstance(node, ast.Subscript):
        return name_of(node.value)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def base_of(node: ast.expr) -> str:
    """The name before the last one: `cudnn` of torch.backends.cudnn.benchmark, of a call's function, of an item."""
    if isinstance(node, ast.Call):
        return base_of(node.func)
    if isinstance(node, ast.Subscript):
        return name_of(node.value)
    return name_of(node.value) if isinstance(node, ast.Attribute) else ""


def outlives_its_call(node: ast.AST, at_module: bool) -> bool:
    if isinstance(node, ast.FunctionDef):
        return bool({name_of(decorator) for decorator in node.decorator_list} & CACHES)
    if isinstance(node, ast.Global):
        return True
    if isinstance(node, ast.Call):
        return name_of(node) in SETTERS and base_of(node) in PROCESS_WIDE
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(base_of(target) in PROCESS_WIDE for target in targets):
            return True
        assigned = node.value
        is_empty = isinstance(assigned, ast.Dict | ast.List | ast.Set) and not list(ast.iter_child_nodes(assigned))[:1]
        return at_module and (is_empty or (isinstance(assigned, ast.Call) and name_of(assigned) in SHARED | CONTAINERS))
    return False


def find_places(tree: ast.Module) -> Iterator[tuple[ast.AST, list[ast.AST]]]:
    """Each place that outlives a call, with the nodes around it, the module first."""

    def visit(node: ast.AST, around: list[ast.AST]) -> Iterator[tuple[ast.AST, list[ast.AST]]]:
        for child in ast.iter_child_nodes(node):
            if outlives_its_call(child, at_module=around == [tree]):
                yield child, around
            yield from visit(child, [*around, child] if isinstance(child, SCOPES) else around)

    return visit(tree, [tree])


def says_how(state: ast.AST, around: list[ast.AST], lines: list[str]) -> bool:
    documented = [node for node in (*around, state) if isinstance(node, ast.Module | SCOPES)]
    texts = [ast.get_docstring(node) or "" for node in documented]
    first = min([state.lineno, *(d.lineno for d in getattr(state, "decorator_list", ()))])  # type: ignore[attr-defined]
    above = first - 1
    while above > 0 and lines[above - 1].lstrip().startswith("#"):
        above -= 1
    texts += lines[above : state.end_lineno]  # type: ignore[attr-defined]
    return any(re.search(r"\bthreads: ", text, re.IGNORECASE) for text in texts)


def missing_statements(source: str) -> list[int]:
    """Line numbers of the places without a statement."""
    lines = source.splitlines()
    gc.disable()  # CPython 3.11.7 fails where a finaliser parses too, as a logged traceback does
    try:
        tree = ast.parse(source)
    finally:
        gc.enable()
    places = find_places(tree)
    return sorted({state.lineno for state, around in places if not says_how(state, around, lines)})  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", PACKAGES)
def test_what_lives_as_long_as_a_process_says_how_threads_share_it(package: str) -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line in missing_statements(path.read_text("utf-8"))
    ]
    assert missing == []


@pytest.mark.parametrize(
    "source",
    [
        "@functools.cache\ndef load(): ...",
        "class A:\n    @cached_property\n    def size(self): ...",
        "_seen = {}",
        "_seen: set[str] = set()",
        "_local = threading.local()",
        "def f():\n    global x",
        "def f():\n    os.environ['A'] = '1'",
        "def f():\n    os.environ.setdefault('A', '1')",
        "def f():\n    os.chdir('/')",
        "def f():\n    Image.MAX_IMAGE_PIXELS = 3",
        "def f():\n    torch.backends.cudnn.benchmark = False",
        "atexit.register(f)",
    ],
)
def test_places_without_a_statement_are_found(source: str) -> None:
    assert missing_statements(source)
    assert not missing_statements(f'"""Threads: safe."""\n{source}')
    assert not missing_statements(source + "  # threads: safe")


def test_ordinary_code_needs_no_statement() -> None:
    source = "NAMES = {'a': 1}\nLIMIT = int(3)\n\ndef f(settings):\n    settings.update(a=1)\n    names = {}"
    assert missing_statements(source) == []
