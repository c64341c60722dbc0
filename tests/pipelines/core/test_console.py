"""Output for people is what was given, square brackets and colons included."""

from __future__ import annotations

import pytest

from pipelines.core.console import print_table, print_text


def test_brackets_paths_and_emoji_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_text("[lower, upper] of [/data/[bold]x] :smile:", "second [/]")
    assert capsys.readouterr().out == "[lower, upper] of [/data/[bold]x] :smile:\nsecond [/]\n"


def test_cells_of_tables_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[title]", ("path", "count"), [("/data/[red]/a", 12345), (None, 1.5), ("[/]", True)])
    out = capsys.readouterr().out
    assert "[title]" in out and "/data/[red]/a" in out and "12,345" in out and "1.5" in out and "[/]" in out
    assert "True" in out and "None" not in out
