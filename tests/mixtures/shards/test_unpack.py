from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StageError
from mixtures.shards.shards import Member, write_tar
from mixtures.shards.unpack import extract_record, get_number, list_media, unpack_members, verify_media
from tests.mixtures import small

KEY = small.key_of(1)


def pack_sample(folder: Path, parts: list[Member], key: str = KEY) -> memoryview:
    _, (written,) = write_tar(folder / "one.tar", [(key, parts)])
    return memoryview((folder / "one.tar").read_bytes()[written.offset : written.offset + written.size])


SUFFIXES = st.sampled_from(["json", "txt", "mp4", "0.jpg", "1.jpg", "10.png"])


@given(st.dictionaries(SUFFIXES, st.binary(max_size=1500), min_size=1))
def test_members_are_those_that_tarfile_finds(
    tmp_path_factory: pytest.TempPathFactory, contents: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("unpack")
    block = pack_sample(folder, [Member(name, content=content) for name, content in contents.items()])
    assert unpack_members(block, KEY, "a.tar", 0) == contents
    with tarfile.open(folder / "one.tar") as tar:
        assert {m.name.partition(".")[2]: tar.extractfile(m).read() for m in tar.getmembers()} == contents  # type: ignore[union-attr]


@given(st.integers(0, 511), st.integers(1, 255))
def test_a_changed_byte_of_a_header_is_detected_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, at: int, change: int
) -> None:
    block = bytearray(
        pack_sample(tmp_path_factory.mktemp("flip"), [Member("json", content=b"{}"), Member("mp4", content=b"x" * 600)])
    )
    before = unpack_members(memoryview(block), KEY, "a.tar", 0)
    block[at] ^= change
    try:
        assert unpack_members(memoryview(block), KEY, "a.tar", 0) == before
    except StageError as error:
        assert KEY in str(error) and "a.tar, byte 0" in str(error)


def test_errors_name_shard_byte_and_key(tmp_path: Path) -> None:
    block = pack_sample(tmp_path, [Member("json", content=b"{}"), Member("mp4", content=b"x" * 600)])
    with pytest.raises(StageError, match=r"b\.tar, byte 4096: sample zzz is not here: found a member called") as caught:
        unpack_members(block, "zzz", "b.tar", 4096)
    assert "reelmill audit" in str(caught.value)
    with pytest.raises(StageError, match=r"byte 5120: .*extends beyond the sample"):
        unpack_members(block[:-1024], KEY, "b.tar", 4096)
    with pytest.raises(StageError, match="no tar header"):
        unpack_members(memoryview(bytes(2048)), KEY, "b.tar", 0)
    with pytest.raises(StageError, match="it ends at byte"):
        unpack_members(memoryview(b""), KEY, "b.tar", 0)
    assert set(unpack_members(block, "first", "b.tar", 0, name=KEY)) == {"json", "mp4"}
    folder = io.BytesIO()
    with tarfile.open(fileobj=folder, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        link = tarfile.TarInfo(f"{KEY}.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(StageError, match="damaged tar header"):
        unpack_members(memoryview(folder.getvalue()[:512]), KEY, "b.tar", 0)


def test_a_record_of_another_sample_is_refused() -> None:
    good = {"json": b'{"id":"a","sha256":[""]}'}
    assert extract_record(good, "a", "t", 0)["sha256"] == [""]
    for members, words in (
        ({}, "no JSON"),
        ({"json": b"{"}, "cannot be read"),
        ({"json": b"[]"}, "belongs to another sample"),
        ({"json": b"[" * 100_000}, "cannot be read"),
        ({"json": b'{"id":"b"}'}, "belongs to another sample"),
    ):
        with pytest.raises(StageError, match=words):
            extract_record(members, "a", "t", 0)


def test_media_are_verified_against_their_hashes() -> None:
    key, parts = small.sample(3, "multi_image")
    members = {member.suffix: member.content or b"" for member in parts}
    record = extract_record(members, key, "t", 0)
    verify_media(members, record, key, "t", 0)
    for name in ("0.jpg", "1.jpg"):
        with pytest.raises(StageError, match=rf"differ from the sha256 in its JSON \({name}\)"):
            verify_media({**members, name: members[name] + b"!"}, record, key, "t", 0)
    with pytest.raises(StageError, match="their number"):
        verify_media({name: content for name, content in members.items() if name != "1.jpg"}, record, key, "t", 0)


def test_suffixes_that_begin_with_digits_are_no_numbers() -> None:
    assert list_media({"3gp": b"", "json": b"", "txt": b""}) == ["3gp"]
    assert list_media({"10.3gp": b"", "2.jpg": b"", "json": b""}) == ["2.jpg", "10.3gp"]
    assert get_number("3.3gp") == 3 and get_number("264") == 0 and get_number("²3.jpg") == 0


def test_media_come_in_their_order() -> None:
    assert list_media(dict.fromkeys(["10.jpg", "json", "2.png", "0.jpg", "txt", "__key__"], b"")) == [
        "0.jpg",
        "2.png",
        "10.jpg",
    ]
    assert list_media({"json": b"", "mp4": b""}) == ["mp4"]
