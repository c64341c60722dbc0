from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.shards import ustar

SIZES = st.one_of(st.integers(0, ustar.BINARY_SIZE - 1), st.integers(ustar.BINARY_SIZE, 2**60))


@given(SIZES)
def test_headers_of_any_size_are_read_by_tarfile_and_by_the_loader(size: int) -> None:
    block = ustar.build_header("key.mp4", size)
    info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    assert (info.name, info.size, info.mode, info.type) == ("key.mp4", size, 0o644, tarfile.REGTYPE)
    assert ustar.parse_header(block) == ("key.mp4", size)
    assert ustar.parse_header(ustar.rename_header(block, "key-r1.mp4")) == ("key-r1.mp4", size)
    if size < ustar.BINARY_SIZE:
        assert block == info.tobuf(tarfile.USTAR_FORMAT)


def test_a_medium_of_8_gib_is_a_member_like_any_other(tmp_path: Path) -> None:
    """The file is sparse: only its headers are written."""
    size, first = 8 * 2**30, ustar.build_header("a.mp4", 8 * 2**30)
    second = ustar.build_header("b.mp4", 3)
    path = tmp_path / "a.tar"
    with open(path, "wb") as file:
        file.write(first)
        file.seek(ustar.BLOCK + size)
        file.write(second + b"abc" + bytes(ustar.count_padding(3)))
        end = file.tell()
        file.truncate(end + ustar.count_end(end))
    with tarfile.open(path) as tar:
        assert [(info.name, info.size) for info in tar] == [("a.mp4", size), ("b.mp4", 3)]
        assert tar.extractfile("b.mp4").read() == b"abc"  # type: ignore[union-attr]


@pytest.mark.parametrize("position", [0, 124, 130, 150, 156, 300])
def test_a_changed_byte_of_a_header_is_noticed(position: int) -> None:
    block = bytearray(ustar.build_header("a.mp4", ustar.BINARY_SIZE))
    block[position] ^= 1
    with pytest.raises(ValueError, match="tar header"):
        ustar.parse_header(bytes(block))
