"""Names and errors are shown, and never act on a terminal."""

from __future__ import annotations

import ast
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from infra.terminal import escape_controls, escape_json, write_error
from tests.test_language import PACKAGES, parse

TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Lo", "So"])))
def test_what_is_escaped_is_one_line_without_controls_and_says_what_was_there(text: str) -> None:
    line = escape_controls(text)
    assert not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in line)
    assert not any(unicodedata.bidirectional(char) in TURNING for char in line)
    assert all(char in line for char in text if unicodedata.category(char) in ("Lo", "So"))
    assert line.encode()[:0] == b""


def test_escapes_can_be_read() -> None:
    name = "a\x1b[31mb\x07\u202egpj.exe\n\x9b2J\udcff\u0001 Ünï ❤\u200d🔥"
    assert escape_controls(name) == r"a\x1b[31mb\x07\u202egpj.exe\n\x9b2J\udcff\x01 Ünï ❤" + "\u200d🔥"
    assert escape_controls("a\nb\tc", "\n") == "a\nb\\tc"


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_escaped_json_is_the_same_json(content: object) -> None:
    text = json.dumps(content, ensure_ascii=False, indent=1)
    assert json.loads(escape_json(text)) == content
    assert escape_controls(escape_json(text), "\n") == escape_json(text)


def test_a_name_cannot_forge_a_line_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    error = ConfigError("no file 'x\nreelmill: done\x1b[2J'", where="a\rb.yaml:3", hint="look at \x07\n  and again")
    write_error(error)
    assert capsys.readouterr().err == (
        "reelmill: a\\rb.yaml:3: no file 'x\\nreelmill: done\\x1b[2J'\n  look at \\x07\n  and again\n"
    )


#: Modules that write to a terminal; all others print through them.
WRITERS = {
    "infra/terminal/stderr.py", "infra/progress.py", "pipelines/core/console.py", "pipelines/cli.py",
    "pipelines/tools/show.py",
}  # fmt: skip


def writes(node: ast.AST) -> bool:
    """Whether a call writes on stdout or stderr, or makes a console that does."""
    if not isinstance(node, ast.Call):
        return False
    name = ast.unparse(node.func)
    return name in ("print", "Console", "open_console", "typer.echo", "sys.stdout.write", "sys.stderr.write")


def test_only_modules_that_escape_write_to_the_terminal() -> None:
    assert {str(path) for path, tree in parse(PACKAGES) if any(map(writes, ast.walk(tree)))} == WRITERS
