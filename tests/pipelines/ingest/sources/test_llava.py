from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from infra import storage
from infra.errors import ConfigError
from pipelines.ingest.sources.interface import SourceItem
from tests.pipelines.ingest.sources.items import make_source, read_items


def test_llava_rows_name_their_media_and_nothing_outside_the_source(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/a.jpg", "in/b.jpg", "in/v.mp4"):
        (tmp_path / name).write_bytes(b"xyz")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [
        {"id": "one", "image": "a.jpg", "conversations": turns},
        {"id": "two", "image": ["a.jpg", "b.jpg"], "conversations": turns},
        {"id": "video", "video": "v.mp4", "conversations": turns},
        {"id": "none", "conversations": turns},
        *({"id": f"bad{i}", "image": path} for i, path in enumerate(
            ["../secret.jpg", "/etc/passwd", "file:///etc/passwd", "http://x/y.jpg", "a\x00.jpg", "\ud800.jpg",
             "gone.jpg", "x1://127.0.0.1/a.jpg", "a/memory://b.jpg", "C:\\x.jpg", "b" * 256, "c/" * 2500])),
    ]  # fmt: skip
    (tmp_path / "in" / "rows.json").write_text(json.dumps(rows))
    items = {item.position: item for item in read_items(make_source(tmp_path / "in", format="llava", id_column="id"))}
    assert {name: (item.modality, len(item.media)) for name, item in items.items() if item.error is None} == {
        "one": ("image", 1),
        "two": ("multi_image", 2),
        "video": ("video", 1),
        "none": ("text", 0),
    }
    assert [(items[f"bad{i}"].error or "").split(":")[0] for i in range(12)] == (
        ["hostile path"] * 5 + ["missing medium"] * 2 + ["hostile path", "missing medium"] + ["hostile path"] * 3
    )
    assert all(not items[f"bad{i}"].media for i in range(12)) and len(items) == 16


def turns_of(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def read_rows(folder: Path, *rows: dict[str, Any], **settings: Any) -> list[SourceItem]:
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(b"xyz")
    (folder / "rows.json").write_text(json.dumps(rows))
    return read_items(make_source(folder, format="llava", include=["*.json"], **settings))


def test_an_id_names_pictures_unless_the_config_makes_it_the_position(tmp_path: Path) -> None:
    rows = [{"id": "a", "image": "a.jpg", "conversations": turns_of(f"q{n}", "a")} for n in range(3)]
    assert [(item.position, item.error) for item in read_rows(tmp_path, *rows)] == [
        (f"row={n}", None) for n in range(3)
    ]
    items = read_rows(tmp_path, *rows, id_column="id")
    assert [item.error and item.error.split(":")[0] for item in items] == [None, *["duplicate member"] * 2]


def test_an_empty_name_is_no_medium(tmp_path: Path) -> None:
    empty: list[dict[str, Any]] = [{"image": ""}, {"image": None}, {"images": []}, {"video": "", "image": "a.jpg"}]
    items = read_rows(tmp_path, *({**row, "conversations": turns_of("q", "a")} for row in empty))
    assert [(item.modality, item.error) for item in items] == [*[("text", None)] * 3, ("image", None)]
    items = read_rows(tmp_path, *({**row, "conversations": turns_of("<image>\nq", "a")} for row in empty))
    assert [item.error and item.error.split(":")[0] for item in items] == [*["missing medium"] * 3, None]
    items = read_rows(tmp_path, {"image": 3}, {"image": [""]}, {"images": [{"path": "a.jpg"}]})
    assert all((item.error or "").startswith("broken row") for item in items)


def test_placeholders_must_be_as_many_as_media(tmp_path: Path) -> None:
    rows = [
        {"images": ["a.jpg", "b.jpg"], "conversations": turns_of("<image> q", "a", "and <image>?", "b")},
        {"images": ["a.jpg", "b.jpg"], "conversations": turns_of("q", "a")},
        {"images": ["a.jpg", "b.jpg"], "conversations": turns_of("<image> q", "a")},
        {"image": "a.jpg", "messages": [{"role": "user", "content": [{"type": "image_url"}, {"text": "q"}]},
                                        {"role": "assistant", "content": "a"}]},
    ]  # fmt: skip
    items = read_rows(tmp_path, *rows)
    assert [item.text for item in items] == ["q\na\nand ?\nb", "q\na", None, "q\na"]
    assert items[2].error == "broken conversation: it has 1 placeholders for 2 media"


def test_a_row_without_any_text_is_broken_unless_captions_are_optional(tmp_path: Path) -> None:
    (item,) = read_rows(tmp_path, {"image": "a.jpg", "prompt": "x"})
    assert item.error == "broken row: no conversation, no text in the column 'text'; the row has 'image', 'prompt'"
    (item,) = read_rows(tmp_path, {"image": "a.jpg"}, captions="optional")
    assert item.error is None and item.media


def test_a_link_out_of_the_source_is_not_followed_and_names_are_compared_in_any_form(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.jpg").write_bytes(b"x")
    root.mkdir()
    (root / "link.jpg").symlink_to(tmp_path / "outside" / "secret.jpg")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / unicodedata.normalize("NFD", "café.jpg")).write_bytes(b"y")
    (root / "inside.jpg").symlink_to(root / unicodedata.normalize("NFD", "café.jpg"))
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    names = ["link.jpg", "folder/secret.jpg", unicodedata.normalize("NFC", "café.jpg"), "inside.jpg", "x1:/y.jpg"]
    rows = [{"image": name, "conversations": turns} for name in names]
    (root / "rows.json").write_text(json.dumps(rows))
    items = read_items(make_source(root, format="llava"))
    kinds = [item.error and item.error.split(":")[0] for item in items]
    assert kinds == ["hostile path", "hostile path", None, None, "missing medium"]
    items = read_items(make_source(root, format="llava", follow_links="all"))
    assert [bool(item.media) for item in items] == [True] * 4 + [False]
    assert all((root / medium["uri"]).is_file() for item in items for medium in item.media)


def test_a_table_that_cannot_be_opened_is_a_failed_input(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "rows.json").write_text(json.dumps([{"image": "a.jpg", "text": "t"}]))
    (tmp_path / "gone.json").symlink_to("nothing")
    os.mkfifo(tmp_path / "pipe.json")
    items = read_items(make_source(tmp_path, format="llava"))
    errors = {item.container: item.error for item in items}
    assert errors == {"rows.json": None, "gone.json": "unreadable file: link to nothing",
                      "pipe.json": "unreadable file: not a regular file"}  # fmt: skip


def test_a_source_without_a_table_says_what_is_there(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "rows.parquet"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"is recognised: 2 × no known suffix, \.jpg; 1 × no known suffix, \.parquet"):
        read_items(make_source(tmp_path, format="llava"))


@pytest.mark.parametrize("kind", ["here", "memory"])
def test_a_path_is_that_of_its_file_however_it_is_written(kind: str, tmp_path: Path) -> None:
    names = ["./d/a.jpg", "d//a.jpg", "d\\a.jpg", ".\\d\\a.jpg", f"{tmp_path}/d/a.jpg"]
    rows = json.dumps([{"image": name, "text": "t"} for name in names]).encode()
    root = str(tmp_path) if kind == "here" else "memory://written"
    for name, content in (("d/a.jpg", b"x"), ("rows.json", rows)):
        storage.write_bytes(storage.join(root, *name.split("/")), content)
    items = read_items(make_source(root, format="llava"))
    known = names if kind == "here" else names[:-1]
    assert [[medium["uri"] for medium in item.media] for item in items][: len(known)] == [["d/a.jpg"]] * len(known)
    outside = [{"image": f"{root}/../b.jpg"}, {"image": f"{tmp_path}/d/../../b.jpg"}, {"image": "..\\b.jpg"}]
    storage.write_bytes(storage.join(root, "rows.json"), json.dumps(outside).encode())
    items = read_items(make_source(root, format="llava"))
    assert all((item.error or "").startswith("hostile path") for item in items)
