from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import storage
from infra.errors import StageError
from pipelines.ingest.archives import expand, tar_index
from pipelines.ingest.sources.interface import IgnoredMember, SourceItem
from pipelines.ingest.sources.registry import list_source, scan
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
        for name in ("../up.jpg", "../up.jpg", "/abs.jpg", "a/../../b.jpg", "C:\\x.jpg", "..\\w.jpg", "x1://y.jpg"):
            add_member(archive, name, b"x")
        add_member(archive, "link.jpg", link="/etc/passwd")
        add_member(archive, "fine.jpg", b"x")
        add_member(archive, "fine.JPG", b"y")
        add_member(archive, "fine.jpg", b"z")
    items = read_items(make_source(tmp_path))
    assert len(items) == 11
    assert [item.position for item in items if item.error is None] == ["fine.JPG", "fine.jpg"]
    assert sorted((item.error or "").split(":")[0] for item in items if item.error) == (
        ["duplicate member"] + ["hostile member"] * 8
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


JPEG = b"\xff\xd8\xff\xe0"


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            add_member(archive, name, content)
    return buffer.getvalue()


def ignored(folder: Path, **settings: str) -> dict[str, str]:
    source = make_source(folder, **settings)
    reader, listing = list_source(source)
    records = [r for c in listing.containers for r in scan(source, reader, c, str(folder.parent / "expanded"))]
    return {record.position: record.reason for record in records if isinstance(record, IgnoredMember)}


def test_captions_belong_to_the_longest_common_name(tmp_path: Path) -> None:
    names = [
        "v1.0.jpg",
        "v1.1.jpg",
        "v1.1.txt",
        "v1.0.txt",
        "a.jpg",
        "a.seg.jpg",
        "a.txt",
        "x.y/b.jpg",
        "x.y/b.txt",
        "k::v.jpg",
        "12:30.jpg",
        "at:1.jpg",
    ]
    write_tar(tmp_path / "a.tar", [(name, name.encode()) for name in names])
    assert {item.position: item.text for item in read_items(make_source(tmp_path))} == {
        "v1.0.jpg": "v1.0.txt", "v1.1.jpg": "v1.1.txt", "a.jpg": "a.txt", "a.seg.jpg": None,
        "x.y/b.jpg": "x.y/b.txt", "k::v.jpg": None, "12:30.jpg": None, "at:1.jpg": None,
    }  # fmt: skip


def test_a_caption_of_a_medium_is_not_that_of_its_mask(tmp_path: Path) -> None:
    """WebDataset's key ends at the first dot, and a sample may have further pictures, such as maps and masks."""
    write_tar(tmp_path / "a.tar", [("d/1.mask.png", b"m"), ("d/1.jpg", b"p"), ("d/1.txt", b"one"), ("2.a.png", b"q"),
                                   ("2.b.png", b"r"), ("2.txt", b"two")])  # fmt: skip
    items = {item.position: (item.text, item.members) for item in read_items(make_source(tmp_path))}
    assert items == {"d/1.jpg": ("one", 2), "d/1.mask.png": (None, 1), "2.a.png": ("two", 2), "2.b.png": ("two", 1)}


def test_members_that_are_no_input_are_counted_with_their_reason(tmp_path: Path) -> None:
    members = [("1.jpg", b"x"), ("plain", JPEG), ("b.jfif", b""), ("README", b"text"), ("._1.jpg", b"x"),
               ("1.cls", b"3"), (".git/x.jpg", b""), ("__info__", b""),
               ("v.mp4", b""), ("1.npy", b"\x93NUMPY"), ("s.json", b'{"n": 1}'),
               ("./2.jpg", b"x"), ("__3__.jpg", b"x")]  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo("folder/")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in members:
            add_member(archive, name, content)
    items = read_items(make_source(tmp_path))
    assert [item.position for item in items] == ["./2.jpg", "1.jpg", "__3__.jpg", "b.jfif", "plain"]
    assert not any(item.error for item in items)
    assert ignored(tmp_path) == {
        "README": "no known format", "1.cls": "no known format", "1.npy": "no known format", "._1.jpg": "hidden",
        ".git/x.jpg": "hidden", "__info__": "name that WebDataset reserves",
        "v.mp4": "video in a source of modality image", "s.json": "JSON that is no caption", "folder": "folder",
    }  # fmt: skip


def test_archives_one_after_the_other_are_read_to_the_last(tmp_path: Path) -> None:
    first, second = tar_bytes([("1.jpg", b"x")]), tar_bytes([("2.jpg", b"y"), ("1.jpg", b"z")])
    (tmp_path / "a.tar").write_bytes(first + b"\0" * 3072 + second)
    assert fates(read_items(make_source(tmp_path))) == {
        "1.jpg": None, "2.jpg": None, f"1.jpg@{len(first) + 4096}": "duplicate member"
    }  # fmt: skip
    (tmp_path / "a.tar").write_bytes(first + b"no tar" * 200)
    assert fates(read_items(make_source(tmp_path))) == {"1.jpg": None, "": "unreadable archive"}


@pytest.mark.parametrize("size", [-512, -(2**40), 2**33, 2**62, 2**70])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.DIRTYPE, b"Z"])
def test_a_member_of_any_size_ends_the_archive_at_worst(tmp_path: Path, size: int, kind: bytes) -> None:
    info = tarfile.TarInfo("2.jpg")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % 256**12).to_bytes(12, "big") if size < 0 else b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    first, second = tar_bytes([("1.jpg", b"x")])[:1024], tar_bytes([("3.jpg", b"x")])
    (tmp_path / "a.tar").write_bytes(first + bytes(header[:512]) + second)
    errors = fates(read_items(make_source(tmp_path)))
    assert errors["1.jpg"] is None and (errors.get("") == "unreadable archive" or kind == tarfile.DIRTYPE)


def test_a_tower_of_headers_a_huge_header_or_many_members_cost_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 10
    tower = (info.tobuf() + b"10 path=a\n".ljust(512, b"\0")) * 3000
    info.size = 2**21
    huge = info.tobuf() + b"2097152 path=".ljust(2**21 - 1, b"a") + b"\n"
    for content in (tower, huge):
        (tmp_path / "a.tar").write_bytes(tar_bytes([("1.jpg", b"x")])[:1024] + content + bytes(1024))
        assert fates(read_items(make_source(tmp_path))) == {"1.jpg": None, "": "unreadable archive"}
    write_tar(tmp_path / "a.tar", [("n" * 5000 + ".jpg", b"x"), ("1.jpg", b"x"), ("2.jpg", b"x"), ("3.jpg", b"x")])
    monkeypatch.setattr(tar_index, "MAX_MEMBERS", 3)
    errors = fates(read_items(make_source(tmp_path)))
    assert errors == {"1.jpg": None, "2.jpg": None, "n" * 64 + "…": "hostile member", "": "unreadable archive"}


def test_texts_have_licence_and_origin_and_say_where_they_are_missing(tmp_path: Path) -> None:
    members = [("a.json", {"text": "A", "license": "CC0", "url": "u"}), ("b.json", {"content": "B", "license": "MIT"}),
               ("c.json", {"license": "CC0"}), ("d.json", {"license": "BSD", "text": "no"})]  # fmt: skip
    raw = [(name, json.dumps(content).encode()) for name, content in members]
    raw += [("d.txt", b"D"), ("e.json", b"{"), ("f.txt", b"x" * (16 * 2**20 + 1)), ("g.jpg", JPEG)]
    write_tar(tmp_path / "a.tar", raw)
    items = read_items(make_source(tmp_path, "text", licence_column="license", origin_column="url"))
    assert {item.position: (item.text, item.licence, item.origin, item.error and item.error.split(":")[0])
            for item in items} == {
        "a": ("A", "CC0", "u", None), "b": ("B", "MIT", None, None), "c": (None, "CC0", None, "broken row"),
        "d": ("D", "BSD", None, None), "e": (None, None, None, "unreadable caption"),
        "f": (None, None, None, "too_large"),
    }  # fmt: skip
    assert ignored(tmp_path, modality="text") == {"g.jpg": "image in a source of modality text"}


def test_a_broken_json_beside_a_medium_is_a_failure_of_the_sample(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("1.jpg", b"x"), ("1.txt", b"fine"), ("1.json", b"[1]"), ("2.jpg", b"y")])
    assert fates(read_items(make_source(tmp_path))) == {"1.jpg": "unreadable caption", "2.jpg": None}


@pytest.mark.parametrize(
    ("name", "pack"),
    [("a.tar.gz", gzip.compress), ("a.tgz", gzip.compress), ("a.tar", gzip.compress), ("a.tar.bz2", bz2.compress),
     ("a.tar.xz", lzma.compress), ("a.tar.zst", lambda raw: pa.compress(raw, "zstd", asbytes=True))],
)  # fmt: skip
def test_compressed_tars_are_expanded_once(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(pack(tar_bytes([("1.jpg", b"one"), ("1.txt", b"caption")])))
    (item,) = read_items(make_source(tmp_path / "in"))
    (medium,) = item.media
    assert (item.container, item.position, item.text) == (name, "1.jpg", "caption")
    assert medium["uri"].startswith("/work/expanded/")
    path = tmp_path / "in-expanded" / medium["uri"].rpartition("/")[2]
    assert storage.read_bytes(str(path), medium["offset"], medium["length"]) == b"one"
    before = path.stat().st_mtime_ns
    read_items(make_source(tmp_path / "in"))
    assert path.stat().st_mtime_ns == before


def test_a_damaged_or_endless_compressed_tar_is_one_failure_beside_what_could_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expand, "FREE_BYTES", 3 * 2**20)
    monkeypatch.setattr(expand, "MAX_RATIO", 0)
    (tmp_path / "in").mkdir()
    whole = gzip.compress(tar_bytes([("1.jpg", b"x" * 2**20), ("2.jpg", b"y" * 2**23)]))
    for content in (whole, whole[:-20]):
        (tmp_path / "in" / "a.tar.gz").write_bytes(content)
        assert fates(read_items(make_source(tmp_path / "in"))) == {"1.jpg": None, "": "unreadable archive"}


def test_a_scratch_that_cannot_be_written_is_no_fault_of_the_archive(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tar.gz").write_bytes(gzip.compress(tar_bytes([("1.jpg", b"x")])))
    (tmp_path / "in-expanded").write_bytes(b"")
    with pytest.raises(StageError, match="cannot write here"):
        read_items(make_source(tmp_path / "in"))


def test_folders_and_tars_on_an_object_store(tmp_path: Path) -> None:
    root = f"memory://{tmp_path.name}"
    files = {"x::y #1.jpg": JPEG, "x::y #1.txt": b"caption", "plain": JPEG, ".hidden": b"", "a.doc": b""}
    for name, content in files.items():
        storage.write_bytes(storage.join(root, "in", name), content)
    source = make_source(storage.join(root, "in"))
    _, listing = list_source(source)
    assert [(item.container, item.sidecars) for item in listing.items] == [
        ("plain", []),
        ("x::y #1.jpg", ["x::y #1.txt"]),
    ]
    assert {entry.position: entry.reason for entry in listing.ignored} == {
        ".hidden": "hidden",
        "a.doc": "no known format",
    }
    for name, content in (
        ("a.tar", tar_bytes([("1.jpg", b"x")])),
        ("b.tar.gz", gzip.compress(tar_bytes([("2", JPEG)]))),
    ):
        storage.write_bytes(storage.join(root, "tars", name), content)
    source = make_source(storage.join(root, "tars"))
    reader, listing = list_source(source)
    records = [r for entry in listing.containers for r in scan(source, reader, entry, storage.join(root, "scratch"))]
    items = [record for record in records if isinstance(record, SourceItem)]
    assert [(item.position, item.error) for item in items] == [("1.jpg", None), ("2", None)]
    expanded = items[1].media[0]
    uri = storage.join(root, "scratch", expanded["uri"].rpartition("/")[2])
    assert storage.read_bytes(uri, expanded["offset"], expanded["length"]) == JPEG
