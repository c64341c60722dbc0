import io
from pathlib import Path

import pytest

from infra.errors import BadSample
from infra.media.pixels import Medium
from infra.media.whole_file import check_whole_file
from tests.infra.media.clips import write_video


def check(content: bytes) -> None:
    check_whole_file(Medium(io.BufferedReader(io.BytesIO(content)), len(content)))  # type: ignore[arg-type]


@pytest.fixture(params=["a.avi", "a.mkv"])
def content(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    return write_video(tmp_path / request.param, codec="mpeg4").read_bytes()


def test_bytes_that_are_missing_at_the_end_are_noticed(content: bytes) -> None:
    check(content)
    check(content + bytes(100))
    for size in (len(content) // 2, len(content) - 2):
        with pytest.raises(BadSample, match=rf"^truncated: {size} of {len(content)} bytes$"):
            check(content[:size])


def test_a_size_that_was_never_filled_in_says_nothing(content: bytes) -> None:
    if content[:4] == b"RIFF":
        check(content[:4] + bytes(4) + content[8:-100])
        check(content[:4] + b"\xff" * 4 + content[8:-100])
    else:
        at = content.index(b"\x18\x53\x80\x67") + 4
        check(content[:at] + b"\x01" + b"\xff" * 7 + content[at + 8 : -100])


def test_each_part_of_a_large_avi_is_looked_at(tmp_path: Path) -> None:
    part = write_video(tmp_path / "a.avi", codec="mpeg4").read_bytes()
    more = b"RIFF" + (len(part) - 8).to_bytes(4, "little") + b"AVIX" + bytes(len(part) - 12)
    check(part + more)
    with pytest.raises(BadSample, match=r"^truncated"):
        check(part + more[:-10])
    odd = part[:4] + (len(part) - 8 - 1).to_bytes(4, "little") + part[8:-1]
    check(odd)  # its last byte, which only pads it, is not there
    check(b"RIFFxxxxWAVE")
    check(b"")
