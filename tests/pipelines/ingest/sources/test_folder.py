from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipelines.ingest.sources.registry import list_source
from tests.pipelines.ingest.sources.items import make_source, read_items


def test_a_folder_pairs_media_with_captions_beside_them(tmp_path: Path) -> None:
    for name in (
        "b.jpg",
        "b.txt",
        "a.PNG",
        "a.json",
        "c.d.jpg",
        "c.d.txt",
        "alone.webp",
        "lost.txt",
        "x.doc",
        ".h.jpg",
    ):
        (tmp_path / name).write_bytes(b"x")
    _, listing = list_source(make_source(tmp_path))
    assert {item.container: item.sidecars for item in listing.items} == {
        "a.PNG": ["a.json"],
        "alone.webp": [],
        "b.jpg": ["b.txt"],
        "c.d.jpg": ["c.d.txt"],
        "lost.txt": [],
    }
    assert [item.container for item in listing.items if item.error] == ["lost.txt"]
    assert [(entry.position, entry.reason) for entry in listing.ignored] == [("x.doc", "no known suffix")]


def test_include_decides_what_is_looked_at_and_the_rest_is_ignored(tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/a.txt", "out/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    _, listing = list_source(make_source(tmp_path, include=["in/*"]))
    assert [item.container for item in listing.items] == ["in/a.jpg"]
    assert [(entry.position, entry.reason) for entry in listing.ignored] == [("out/b.jpg", "not in include")]


def test_a_captions_file_names_media_by_path_name_or_stem(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("d/a.jpg", "d/b.jpg", "c.jpg", "e.jpg"):
        (tmp_path / name).write_bytes(b"x")
    rows = [{"file": "d/a.jpg", "text": "A"}, {"file": "b.jpg", "text": "B"}, {"file": "c", "text": 3}]
    (tmp_path / "c.csv").write_text("file,text\n" + "".join(f"{r['file']},{r['text']}\n" for r in rows))
    texts = {item.container: item.text for item in read_items(make_source(tmp_path, captions="c.csv"))}
    assert texts == {"d/a.jpg": "A", "d/b.jpg": "B", "c.jpg": "3", "e.jpg": None}


def test_links_to_folders_are_not_entered(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [item.container for item in read_items(make_source(tmp_path))] == ["a.jpg"]


def test_names_that_are_no_unicode_stay_apart(tmp_path: Path) -> None:
    for name in (b"\xff.jpg", b"\xfe.jpg"):
        (tmp_path / name.decode("utf-8", "surrogateescape")).write_bytes(b"x")
    assert [item.container for item in read_items(make_source(tmp_path))] == ["\ufffdfe.jpg", "\ufffdff.jpg"]


def test_nothing_at_the_path_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing at"):
        list_source(make_source(tmp_path / "no"))
    with pytest.raises(ConfigError, match="no captions file"):
        list_source(make_source(tmp_path, captions="captions.jsonl"))
