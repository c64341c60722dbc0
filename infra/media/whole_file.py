"""Is a file as long as its own container says? Demuxers take a truncated file for a complete one."""

from __future__ import annotations

from infra.errors import BadSample
from infra.media.pixels import Medium

_MAX_PARTS = 4096  # of a RIFF file; a part has 1 GB


def check_whole_file(medium: Medium) -> None:
    """Compare a Matroska or AVI file's size with the sizes in it. Raises BadSample truncated.

    A size that was never filled in, as in a file written live, says nothing.
    """
    head = medium.rewound().read(256)
    end = 0
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        end = _matroska_end(head)
    elif head[8:12] == b"AVI ":
        end = _riff_end(medium)
    if end > medium.size:
        raise BadSample("truncated", f"{medium.size} of {end} bytes")


def _matroska_end(head: bytes) -> int:
    """Where the segment ends; 0 where the file does not say."""
    at = head.find(b"\x18\x53\x80\x67") + 4
    if at < 4 or at >= len(head) or head[at] == 0:
        return 0
    width = 9 - head[at].bit_length()  # bytes of the number: the leading zero bits of the first byte, plus one
    number = int.from_bytes(head[at : at + width]) & ~(1 << (7 * width))
    unknown = (1 << (7 * width)) - 1  # written live
    return 0 if number == unknown else at + width + number


def _riff_end(medium: Medium) -> int:
    """Where the last of the file's RIFF parts ends; 0 where the file does not say."""
    end = 0
    for _ in range(_MAX_PARTS):
        medium.file.seek(end)
        head = medium.file.read(8)
        size = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or size in (0, 0xFFFFFFFF):
            break
        end += 8 + size + size % 2
        if end >= medium.size:
            break
    return end - 1 if end == medium.size + 1 else end  # the last part's padding may be missing
