from __future__ import annotations

import io
import json
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import storage
from infra.config import Source
from infra.errors import ConfigError
from pipelines.ingest.sources import inventory
from tests.corpus import add_member


def source(path: Path, modality: str = "image", **more: Any) -> Source:
    return Source.model_validate({"name": "s", "path": str(path), "modality": modality, **more})


def items(given_source: Source) -> list[inventory.SourceItem]:
    """All items of a source, listed and scanned."""
    listing = inventory.list_source(given_source)
    found = list(listing.items)
    for entry in listing.containers:
        found += list(inventory.scan(given_source, entry))
    pa.Table.from_pylist([item.row() for item in found], schema=inventory.ITEMS)  # all of it can be stored
    places = [(item.container, item.position) for item in found]
    assert len(set(places)) == len(places)
    return found


def fates(found: list[inventory.SourceItem]) -> dict[str, str | None]:
    return {item.position: item.error and item.error.split(":")[0] for item in found}


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            add_member(archive, name, data)
    return path


# -- folders ----------------------------------------------------------------------------------------------------


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
    listing = inventory.list_source(source(tmp_path))
    assert {item.container: item.sidecars for item in listing.items} == {
        "a.PNG": ["a.json"],
        "alone.webp": [],
        "b.jpg": ["b.txt"],
        "c.d.jpg": ["c.d.txt"],
        "lost.txt": [],
    }
    assert [item.container for item in listing.items if item.error] == ["lost.txt"]
    assert listing.ignored == 1  # x.doc; hidden files are not looked at


def test_include_decides_what_is_looked_at_and_the_rest_is_ignored(tmp_path: Path) -> None:
    for name in ("in/a.jpg", "in/a.txt", "out/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    listing = inventory.list_source(source(tmp_path, include=["in/*"]))
    assert [item.container for item in listing.items] == ["in/a.jpg"]
    assert listing.ignored == 1


def test_a_captions_file_names_media_by_path_name_or_stem(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for name in ("d/a.jpg", "d/b.jpg", "c.jpg", "e.jpg"):
        (tmp_path / name).write_bytes(b"x")
    rows = [{"file": "d/a.jpg", "text": "A"}, {"file": "b.jpg", "text": "B"}, {"file": "c", "text": 3}]
    (tmp_path / "c.csv").write_text("file,text\n" + "".join(f"{r['file']},{r['text']}\n" for r in rows))
    found = {item.container: item.text for item in items(source(tmp_path, captions="c.csv"))}
    assert found == {"d/a.jpg": "A", "d/b.jpg": "B", "c.jpg": "3", "e.jpg": None}


def test_links_to_folders_are_not_entered(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [item.container for item in items(source(tmp_path))] == ["a.jpg"]


def test_names_that_are_no_unicode_stay_apart(tmp_path: Path) -> None:
    for name in (b"\xff.jpg", b"\xfe.jpg"):
        (tmp_path / name.decode("utf-8", "surrogateescape")).write_bytes(b"x")
    assert [item.container for item in items(source(tmp_path))] == ["\ufffdfe.jpg", "\ufffdff.jpg"]


def test_nothing_at_the_path_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing at"):
        inventory.list_source(source(tmp_path / "no"))
    with pytest.raises(ConfigError, match="no captions file"):
        inventory.list_source(source(tmp_path, captions="captions.jsonl"))


# -- tars -------------------------------------------------------------------------------------------------------


def test_members_are_byte_ranges_and_captions_their_text(tmp_path: Path) -> None:
    path = tar(tmp_path / "a.tar", [("x/1.jpg", b"one"), ("x/1.txt", b"caption"), ("2.jpeg", b"twotwo"),
                                    ("2.json", b'{"caption": "two", "id": 7}')])  # fmt: skip
    found = {item.position: item for item in items(source(tmp_path))}
    assert {name: item.text for name, item in found.items()} == {"x/1.jpg": "caption", "2.jpeg": "two"}
    for name, data in (("x/1.jpg", b"one"), ("2.jpeg", b"twotwo")):
        (medium,) = found[name].media
        assert storage.read_bytes(str(path), medium["offset"], medium["length"]) == data
    assert found["2.jpeg"].extra == {"caption": "two", "id": 7}


def test_hostile_members_are_failed_rows_each(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("../up.jpg", "../up.jpg", "/abs.jpg", "a/../../b.jpg", "C:\\x.jpg", "..\\w.jpg"):
            add_member(archive, name, b"x")
        add_member(archive, "link.jpg", link="/etc/passwd")
        add_member(archive, "fine.jpg", b"x")
        add_member(archive, "fine.JPG", b"y")
        add_member(archive, "fine.jpg", b"z")
    found = items(source(tmp_path))
    assert len(found) == 10
    assert [item.position for item in found if item.error is None] == ["fine.jpg"]
    assert sorted((item.error or "").split(":")[0] for item in found if item.error) == (
        ["duplicate member"] * 2 + ["hostile member"] * 7
    )
    assert all(not item.media for item in found if item.error)


def test_a_file_with_holes_in_a_tar_is_not_read_as_a_range(tmp_path: Path) -> None:
    # Its bytes are not where a plain member's would lie: 512 bytes stored stand for a megabyte.
    info = tarfile.TarInfo("sparse.jpg")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000000000\x0000000001000\x00"
    header[483:495] = b"00004000000\x00"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(header[:512]) + b"\1" * 512 + b"\0" * 1024)
    assert fates(items(source(tmp_path))) == {"sparse.jpg": "hostile member"}


@pytest.mark.parametrize("left", [0, 100, 511, 600, 1024, 1100, 1700])
def test_a_torn_tar_is_one_failure_beside_the_members_that_could_be_read(tmp_path: Path, left: int) -> None:
    whole = tar(tmp_path / "a.tar", [("1.jpg", b"x" * 500), ("2.jpg", b"y" * 500)]).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:left])
    found = fates(items(source(tmp_path)))
    assert found.pop("") == "unreadable archive"
    assert set(found) == {name for name, end in (("1.jpg", 1024), ("2.jpg", 2048)) if left >= end}


def test_damage_between_two_members_is_told(tmp_path: Path) -> None:
    whole = bytearray(tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("2.jpg", b"y")]).read_bytes())
    whole[1024:1100] = b"?" * 76
    (tmp_path / "a.tar").write_bytes(whole)
    assert fates(items(source(tmp_path))) == {"1.jpg": None, "": "unreadable archive"}


def test_names_in_a_tar_that_are_no_unicode_stay_apart(tmp_path: Path) -> None:
    names = [name.decode("utf-8", "surrogateescape") for name in (b"\xff.jpg", b"\xfe.jpg")]
    tar(tmp_path / "a.tar", [(name, b"the same") for name in names])
    assert fates(items(source(tmp_path))) == {"\ufffdfe.jpg": None, "\ufffdff.jpg": None}


def test_several_images_of_one_sample_are_numbered(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", [("1.10.jpg", b"ten"), ("1.2.jpg", b"two"), ("1.txt", b"both")])
    (item,) = items(source(tmp_path, "multi_image"))
    assert [medium["length"] for medium in item.media] == [3, 3] and item.position == "1.2.jpg"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bytes_for_a_tar_give_rows_and_no_crash(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        _damaged(data, Path(name))


def _damaged(data: st.DataObject, folder: Path) -> None:
    whole = bytearray(
        tar(folder / "a.tar", [("1.jpg", b"x" * 90), ("1.txt", b"c"), ("b/2.jpg", b"y" * 600)]).read_bytes()
    )
    for _ in range(data.draw(st.integers(0, 6))):
        whole[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    (folder / "a.tar").write_bytes(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    items(source(folder))


# -- tables -----------------------------------------------------------------------------------------------------


def jsonl(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"\n".join(lines) + b"\n")


def test_rows_of_every_kind_of_table(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}]
    jsonl(tmp_path / "1.jsonl", [json.dumps(row).encode() for row in rows])
    (tmp_path / "2.csv").write_text("id,text\na,one\nb,two\n")
    (tmp_path / "3.tsv").write_text("id\ttext\na\tone\nb\ttwo\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "4.parquet")
    found = items(source(tmp_path, "text", id_column="id"))
    assert [(item.container[0], item.position, item.text) for item in found] == [
        (str(file), row["id"], row["text"]) for file in (1, 2, 3, 4) for row in rows
    ]
    by_row = items(source(tmp_path, "text"))
    assert [item.position for item in by_row] == ["row=0", "row=1"] * 4
    assert all(item.error is None for item in by_row)


def test_bad_rows_are_failed_rows_and_their_neighbours_are_read(tmp_path: Path) -> None:
    deep = b'{"id": "deep", "text": "x", "extra": ' + b"[" * 400 + b"]" * 400 + b"}"
    deeper = b'{"id": "deeper", "text": "x", "extra": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    jsonl(tmp_path / "a.jsonl", [
        b'{"id": "good", "text": "x"}', b"{", b"[1, 2]", b'{"id": "none"}', b'{"id": "number", "text": 3}',
        b'{"id": "good", "text": "again"}', b'{"id": "good", "text": "again"}', b'{"id": "row=9", "text": "x"}', b"",
        b'{"text": "x"}', b'{"id": "lone \\ud800", "text": "\\udfff", "n": NaN, "big": 1e999}', b'\xff{"id": 1}', deep,
        deeper, b'{"id": "last", "text": "x"}',
    ])  # fmt: skip
    found = items(source(tmp_path, "text", id_column="id"))
    assert fates(found) == {
        "good": None, "row=1": "broken row", "row=2": "broken row", "none": "broken row", "number": "broken row",
        "good@row=5": "duplicate member", "good@row=6": "duplicate member", "row=9": None, "row=9@row=9": None,
        "lone \ufffd": None, "row=11": "broken row", "deep": None, "row=13": "broken row", "last": None,
    }  # fmt: skip
    extra = {item.position: item.row()["extra"] for item in found}
    assert json.loads(extra["lone \ufffd"]) == {"id": "lone \ufffd", "n": "nan", "big": "inf"}
    assert "nested too deeply" in extra["deep"]


def test_a_row_without_end_is_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inventory, "MAX_TEXT_BYTES", 1000)
    jsonl(tmp_path / "a.jsonl", [b'{"text": "' + b"x" * 5000 + b'"}', b'{"text": "next"}'])
    found = items(source(tmp_path, "text"))
    assert [(item.text, item.error and item.error[:9]) for item in found] == [(None, "too_large"), ("next", None)]


def test_a_long_document_in_a_csv_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"text\n{'x' * 300_000}\nnext\n")
    assert [len(item.text or "") for item in items(source(tmp_path, "text"))] == [300_000, 4]


def test_a_damaged_parquet_is_one_failed_row(tmp_path: Path) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), sink)
    data = sink.getvalue()
    (tmp_path / "torn.parquet").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.parquet").write_bytes(b"")
    (tmp_path / "other.parquet").write_bytes(b"PAR1" + b"\xff" * 60 + b"PAR1")
    found = items(source(tmp_path, "text"))
    assert len(found) == 3 and all((item.error or "").startswith("unreadable table") for item in found)


def test_conversations_give_their_text_without_placeholders(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}, {"role": "x"}, 3]
    jsonl(tmp_path / "a.jsonl", [json.dumps({"conversations": turns}).encode()])
    (item,) = items(source(tmp_path, "text"))
    assert item.text == "What?\nThat."


# -- llava ------------------------------------------------------------------------------------------------------


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
             "gone.jpg"])),
    ]  # fmt: skip
    (tmp_path / "in" / "rows.json").write_text(json.dumps(rows))
    found = {item.position: item for item in items(source(tmp_path / "in", format="llava"))}
    assert {name: (item.modality, len(item.media)) for name, item in found.items() if item.error is None} == {
        "one": ("image", 1),
        "two": ("multi_image", 2),
        "video": ("video", 1),
        "none": ("text", 0),
    }
    assert [(found[f"bad{i}"].error or "").split(":")[0] for i in range(7)] == ["hostile path"] * 5 + [
        "missing medium"
    ] * 2
    assert all(not found[f"bad{i}"].media for i in range(7))


# -- captions beside media --------------------------------------------------------------------------------------


def test_sidecars(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhi \xff")
    (tmp_path / "a.json").write_text('{"caption": "json", "licence": "CC0"}')
    (tmp_path / "b.json").write_text("[1]")
    assert inventory.read_sidecars(str(tmp_path), ["a.json", "a.txt"]) == (
        "hi \ufffd", {"caption": "json", "licence": "CC0"}, None
    )  # fmt: skip
    assert inventory.read_sidecars(str(tmp_path), ["a.json"])[0] == "json"
    assert inventory.read_sidecars(str(tmp_path), ["b.json"])[2] == "unreadable caption: not a JSON object"
    assert (inventory.read_sidecars(str(tmp_path), ["gone.txt"])[2] or "").startswith("unreadable caption")


@given(st.text(alphabet=st.characters(categories=["L", "N", "Cs", "Cc", "So"])))
def test_what_is_stored_is_unicode_and_unicode_is_left_alone(text: str) -> None:
    made = inventory.valid(text)
    made.encode()
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert made == text
    assert inventory.valid(made) == made
