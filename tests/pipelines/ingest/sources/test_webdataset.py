from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import storage
from tests.corpus import add_member
from tests.pipelines.ingest.sources.items import fates, make_source, read_items


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            add_member(archive, name, content)
    return path


def test_members_are_byte_ranges_and_captions_their_text(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("x/1.jpg", b"one"), ("x/1.txt", b"caption"), ("2.jpeg", b"twotwo"),
                                    ("2.json", b'{"caption": "two", "id": 7}')])  # fmt: skip
    items = {item.position: item for item in read_items(make_source(tmp_path))}
    assert {name: item.text for name, item in items.items()} == {"x/1.jpg": "caption", "2.jpeg": "two"}
    for name, content in (("x/1.jpg", b"one"), ("2.jpeg", b"twotwo")):
        (medium,) = items[name].media
        assert storage.read_bytes(str(path), medium["offset"], medium["length"]) == content
    assert items["2.jpeg"].extra == {"caption": "two", "id": 7}


def test_hostile_members_are_failed_rows_each(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("../up.jpg", "../up.jpg", "/abs.jpg", "a/../../b.jpg", "C:\\x.jpg", "..\\w.jpg"):
            add_member(archive, name, b"x")
        add_member(archive, "link.jpg", link="/etc/passwd")
        add_member(archive, "fine.jpg", b"x")
        add_member(archive, "fine.JPG", b"y")
        add_member(archive, "fine.jpg", b"z")
    items = read_items(make_source(tmp_path))
    assert len(items) == 10
    assert [item.position for item in items if item.error is None] == ["fine.jpg"]
    assert sorted((item.error or "").split(":")[0] for item in items if item.error) == (
        ["duplicate member"] * 2 + ["hostile member"] * 7
    )
    assert all(not item.media for item in items if item.error)


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
    assert fates(read_items(make_source(tmp_path))) == {"sparse.jpg": "hostile member"}


@pytest.mark.parametrize("size", [0, 100, 511, 600, 1024, 1100, 1700])
def test_a_torn_tar_is_one_failure_beside_the_members_that_could_be_read(tmp_path: Path, size: int) -> None:
    whole = write_tar(tmp_path / "a.tar", [("1.jpg", b"x" * 500), ("2.jpg", b"y" * 500)]).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:size])
    errors = fates(read_items(make_source(tmp_path)))
    assert errors.pop("") == "unreadable archive"
    assert set(errors) == {name for name, end in (("1.jpg", 1024), ("2.jpg", 2048)) if size >= end}


def test_damage_between_two_members_is_reported(tmp_path: Path) -> None:
    whole = bytearray(write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("2.jpg", b"y")]).read_bytes())
    whole[1024:1100] = b"?" * 76
    (tmp_path / "a.tar").write_bytes(whole)
    assert fates(read_items(make_source(tmp_path))) == {"1.jpg": None, "": "unreadable archive"}


def test_names_in_a_tar_that_are_no_unicode_stay_apart(tmp_path: Path) -> None:
    names = [name.decode("utf-8", "surrogateescape") for name in (b"\xff.jpg", b"\xfe.jpg")]
    write_tar(tmp_path / "a.tar", [(name, b"the same") for name in names])
    assert fates(read_items(make_source(tmp_path))) == {"\ufffdfe.jpg": None, "\ufffdff.jpg": None}


def test_several_images_of_one_sample_are_numbered(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("1.10.jpg", b"ten"), ("1.2.jpg", b"two"), ("1.txt", b"both")])
    (item,) = read_items(make_source(tmp_path, "multi_image"))
    assert [medium["length"] for medium in item.media] == [3, 3] and item.position == "1.2.jpg"


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_bytes_for_a_tar_give_rows_and_no_crash(draws: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        _damaged(draws, Path(name))


def _damaged(draws: st.DataObject, folder: Path) -> None:
    whole = bytearray(
        write_tar(folder / "a.tar", [("1.jpg", b"x" * 90), ("1.txt", b"c"), ("b/2.jpg", b"y" * 600)]).read_bytes()
    )
    for _ in range(draws.draw(st.integers(0, 6))):
        whole[draws.draw(st.integers(0, 3000))] = draws.draw(st.integers(0, 255))
    (folder / "a.tar").write_bytes(bytes(whole[: draws.draw(st.integers(0, len(whole)))]))
    read_items(make_source(folder))
