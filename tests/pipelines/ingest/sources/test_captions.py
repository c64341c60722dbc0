from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.ingest.sources.captions import CaptionFiles, draw_caption, read_sidecars
from pipelines.ingest.sources.interface import MAX_TEXT_BYTES
from tests.pipelines.ingest.sources.items import make_source

CaptionText = tuple[str | None, Any, str | None]


def read_files(folder: Path, *paths: str, **settings: Any) -> CaptionFiles:
    return read_sidecars(make_source(folder, **settings), str(folder), "a.jpg", paths)


def read(folder: Path, *paths: str, **settings: Any) -> CaptionText:
    """(the first text, fields, error) of the caption files of a medium."""
    files = read_files(folder, *paths, **settings)
    return next(iter(files.texts), None), files.fields, files.error


def test_sidecars(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhi \xc3\xa9")
    (tmp_path / "a.json").write_text('{"caption": "json", "licence": "CC0"}')
    (tmp_path / "b.json").write_text("[1]")
    assert read(tmp_path, "a.json", "a.txt") == ("hi é", {"caption": "json", "licence": "CC0"}, None)
    assert read(tmp_path, "a.json")[0] == "json"
    assert read(tmp_path, "b.json")[2] == "unreadable caption: b.json is not a JSON object"
    assert (read(tmp_path, "gone.txt")[2] or "").startswith("unavailable caption")


def test_the_encoding_of_a_text_is_recognised_or_named_and_never_guessed(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "a.txt").write_text("café", encoding)
        assert read(tmp_path, "a.txt")[0] == "café"
    (tmp_path / "a.txt").write_text("café", "cp1252")
    text, _, error = read(tmp_path, "a.txt")
    assert text is None and error == "unreadable text: not utf-8 (byte 0xe9 at 3), give `encoding` of the source"
    assert read(tmp_path, "a.txt", encoding="cp1252")[0] == "café"


def test_a_text_that_is_too_large_is_not_cut(tmp_path: Path) -> None:
    for name, content in (("a.txt", "x" * (MAX_TEXT_BYTES + 1)), ("a.json", '{"caption": "' + "x" * MAX_TEXT_BYTES)):
        (tmp_path / name).write_text(content)
        text, _, error = read(tmp_path, name)
        assert text is None and (error or "").startswith("too_large")


@pytest.mark.parametrize(
    ("many", "texts", "unused"),
    [
        ("first", [["one"]], 1),
        ("join", [["one\ntwo"]], 0),
        ("random", [["one"], ["two"]], 1),
        ("all", [["one", "two"]], 0),
    ],
)
def test_json_beside_a_medium_may_have_several_captions(tmp_path: Path, many: str, texts: Any, unused: int) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"caption": ["one", None, "two"]}))
    files = read_files(tmp_path, "a.json", captions={"many": many})
    assert files.texts in texts and files.unused == unused and files.error is None
    assert files.fields["caption"] == ["one", None, "two"]


def test_captions_are_drawn_by_seed_source_and_medium(tmp_path: Path) -> None:
    draws = [
        [draw_caption(make_source(tmp_path, captions={"many": "random", "seed": seed}), 5, str(n)) for n in range(200)]
        for seed in (1, 1, 2)
    ]
    assert draws[0] == draws[1] != draws[2] and set(draws[0]) == set(range(5))


def test_a_conversation_or_a_key_of_the_config_may_be_the_caption(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "a.json").write_text(json.dumps({"conversations": turns, "prompt": "p"}))
    assert read(tmp_path, "a.json")[0] == "q\na"
    assert read(tmp_path, "a.json", captions={"text_column": "prompt"})[0] == "p"
    (tmp_path / "a.json").write_text(json.dumps({"conversations": turns[1:]}))
    assert (read(tmp_path, "a.json")[2] or "").startswith("broken conversation")
    (tmp_path / "a.json").write_text(json.dumps({"licence": "CC0", "conversations": turns[1:]}))
    (tmp_path / "a.txt").write_text("caption")
    assert read(tmp_path, "a.json", "a.txt")[0] == "caption"
