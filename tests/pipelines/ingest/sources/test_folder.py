from __future__ import annotations

import os
import socket
import unicodedata
from pathlib import Path

import pytest

from infra import storage
from infra.errors import ConfigError
from pipelines.ingest.sources.interface import MAX_TEXT_BYTES, Listing
from pipelines.ingest.sources.registry import list_source
from tests.pipelines.ingest.sources.items import make_source, read_items

JPEG, MATROSKA = b"\xff\xd8\xff\xe0", b"\x1a\x45\xdf\xa3"


def ignored(listing: Listing) -> dict[str, str]:
    return {entry.position: entry.reason for entry in listing.ignored}


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
    assert ignored(listing) == {"x.doc": "no known format", ".h.jpg": "hidden"}


def test_include_decides_what_is_looked_at_and_the_rest_is_ignored(tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/a.txt", "out/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    _, listing = list_source(make_source(tmp_path, include=["in/*"]))
    assert [item.container for item in listing.items] == ["in/a.jpg"]
    assert ignored(listing) == {"out/b.jpg": "not in include"}


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


def test_media_of_unknown_suffix_are_recognised_by_their_first_bytes(tmp_path: Path) -> None:
    transport = (b"\x47" + b"0" * 187) * 4
    files = {"a.jfif": b"", "b.JPE": b"", "c": JPEG, "d.img": JPEG, "e": MATROSKA, "f.doc": b"word", "g": b"",
             "h.MTS": b"", "i": transport, "j": b"1234" + transport[:188] * 1, "raw.cr2": b"II*\0"}  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name.partition('.')[0]}.txt").write_text("caption")
    (tmp_path / "f.txt").unlink()
    (tmp_path / "raw.txt").unlink()
    _, images = list_source(make_source(tmp_path))
    assert [i.container for i in images.items if i.media and i.sidecars] == ["a.jfif", "b.JPE", "c", "d.img"]
    assert ignored(images) == {
        **dict.fromkeys(("e", "h.MTS", "i"), "video in a source of modality image"), "h.MTS": "no known format",
        **dict.fromkeys(("f.doc", "g", "j", "raw.cr2"), "no known format"),
    }  # fmt: skip
    _, videos = list_source(make_source(tmp_path, "video"))
    assert [i.container for i in videos.items if i.media and i.sidecars] == ["e", "h.MTS", "i"]


def test_a_file_that_must_not_be_read_is_a_failed_row_or_counted(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    (tmp_path / "secret.txt").write_text("a password")
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    (root / "real.jpg").write_bytes(JPEG)
    for name, target in (("inside.jpg", root / "real.jpg"), ("outside.jpg", tmp_path / "secret.jpg"),
                         ("none.jpg", root / "no.jpg"), ("real.txt", tmp_path / "secret.txt"), ("loop.jpg", "loop.jpg"),
                         ("up", tmp_path), ("other", tmp_path / "secret.jpg"), ("c.jpg", "/dev/zero")):  # fmt: skip
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.jpg")
    os.mkfifo(root / "pipe2")
    with socket.socket(socket.AF_UNIX) as endpoint:
        endpoint.bind(str(root / "s.jpg"))
    (root / ".git").mkdir()
    (root / ".git" / "x.jpg").write_bytes(JPEG)
    outside = "hostile path: a link that leaves the source; `follow_links: all` follows it"
    _, listing = list_source(make_source(root))
    assert {item.container: item.error for item in listing.items} == {
        "inside.jpg": None, "outside.jpg": outside, "real.jpg": f"unreadable caption: {outside}",
        "none.jpg": "unreadable file: link to nothing", "loop.jpg": "unreadable file: link to nothing",
        **dict.fromkeys(("pipe.jpg", "s.jpg", "c.jpg"), "unreadable file: not a regular file"),
    }  # fmt: skip
    assert all(not item.media for item in listing.items if item.error)
    assert ignored(listing) == {"up": "link to a folder", ".git/": "hidden", "pipe2": "not a regular file",
                                "other": "link that leaves the folder"}  # fmt: skip
    _, listing = list_source(make_source(root, follow_links="all"))
    assert [item.container for item in listing.items if not item.error] == [
        "inside.jpg",
        "other",
        "outside.jpg",
        "real.jpg",
    ]


def test_names_are_names_whatever_they_contain(tmp_path: Path) -> None:
    names = [
        "a::b.jpg",
        "x1:",
        "#1.jpg",
        "50%.jpg",
        "why?.jpg",
        "*.jpg",
        "[a].jpg",
        "a b.jpg",
        "new\nline.jpg",
        "%41.jpg",
    ]
    (tmp_path / "x1:").mkdir()
    for name in names:
        path = tmp_path / name / "y.jpg" if name == "x1:" else tmp_path / name
        path.write_bytes(name.encode())
        path.with_suffix(".txt").write_text(f"caption of {name}")
    items = read_items(make_source(tmp_path))
    assert len(items) == len(names)
    for item in items:
        name = item.container.removesuffix("/y.jpg")
        assert storage.read_bytes(storage.join(str(tmp_path), item.media[0]["uri"])) == name.encode()
        assert storage.read_bytes(storage.join(str(tmp_path), item.sidecars[0])).decode() == f"caption of {name}"


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_different_unicode_forms_are_the_same(tmp_path: Path, on_disk: str, in_table: str) -> None:
    name = "Müller café"
    (tmp_path / unicodedata.normalize(on_disk, f"{name}.jpg")).write_bytes(JPEG)
    caption = unicodedata.normalize(in_table, name)
    (tmp_path / "c.csv").write_text(f"file,text\n{caption}.jpg,a caption\n")
    assert [item.text for item in read_items(make_source(tmp_path, captions="c.csv"))] == ["a caption"]
    (tmp_path / f"{caption}.txt").write_text("beside")
    (item,) = read_items(make_source(tmp_path, include=f"{unicodedata.normalize(in_table, 'Müller')}*"))
    assert item.sidecars == [f"{caption}.txt"]


def test_a_json_beside_no_medium_is_an_orphan_only_if_it_is_a_caption(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    for name, content in (("stats", '{"count": 4}'), ("lost", '{"caption": "a kite"}'), ("list", "[1]"), ("torn", "{"),
                          ("large", '{"a": "' + "x" * MAX_TEXT_BYTES + '"}')):  # fmt: skip
        (tmp_path / f"{name}.json").write_text(content)
    _, listing = list_source(make_source(tmp_path))
    assert [item.container for item in listing.items if item.error] == ["lost.json"]
    reason = "JSON that is no caption"
    assert ignored(listing) == {f"{name}.json": reason for name in ("stats", "list", "torn", "large")}


@pytest.mark.parametrize(
    ("files", "settings", "seen", "hint"),
    [
        ([], {}, "there are no files", ""),
        (["a.doc", "b.doc", "c"], {}, "2 × no known format, .doc; 1 × no known format, no suffix", r"\.jpg"),
        (["a.jsonl"], {"format": "webdataset"}, "1 × no known suffix, .jsonl", "`format: table` reads .jsonl"),
        (["a.mp4", ".b"], {}, "1 × no known format, .mp4; 1 × hidden, no suffix", "`modality: video` reads .mp4"),
        (["a.jpg"], {"include": "x/*"}, "1 × not in include, .jpg", ""),
    ],
)
def test_a_source_of_which_nothing_is_recognised_is_a_config_error(
    tmp_path: Path, files: list[str], settings: dict[str, str], seen: str, hint: str
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=seen) as error:
        list_source(make_source(tmp_path, **settings))
    assert hint.replace("\\", "") in str(error.value.hint)


def test_a_captions_file_that_is_a_link_out_of_the_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(JPEG)
    (tmp_path / "secret.csv").write_text("file,text\na.jpg,a password\n")
    (tmp_path / "in" / "c.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(ConfigError, match="a link that leaves the source"):
        list_source(make_source(tmp_path / "in", captions="c.csv"))
    (item,) = read_items(make_source(tmp_path / "in", captions="c.csv", follow_links="all"))
    assert item.text == "a password"
