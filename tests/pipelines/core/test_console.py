"""Output for people is what was given, square brackets and colons included."""

from __future__ import annotations

import pytest

from pipelines.core.console import print_table, print_text


def test_brackets_paths_and_emoji_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("[lower, upper] of [/data/[bold]x] :smile:", "second [/]")
    assert capsys.readouterr().out == "[lower, upper] of [/data/[bold]x] :smile:\nsecond [/]\n"


def test_no_text_acts_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b[2J\x07\u202e\x9b\udcff"
    print_text(f"first {name}\nforged")
    print_table(name, (name, "count"), [(name, 1), ("two\nlines", name)])
    out = capsys.readouterr().out
    assert out.startswith(r"first a\x1b[2J\x07\u202e\x9b\udcff\nforged" + "\n") and out.count(r"\x1b[2J") == 5
    assert not any(char in out for char in "\x1b\x07\u202e\x9b\udcff") and "two" in out and r"two\n" not in out


def test_cells_of_tables_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[title]", ("path", "count"), [("/data/[red]/a", 12345), (None, 1.5), ("[/]", True)])
    out = capsys.readouterr().out
    assert "[title]" in out and "/data/[red]/a" in out and "12,345" in out and "1.5" in out and "[/]" in out
    assert "True" in out and "None" not in out
