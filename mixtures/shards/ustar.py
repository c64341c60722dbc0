"""The ustar format as export writes it: headers, padding and the end of a tar."""

from __future__ import annotations

#: Bytes of a header; members are padded to a multiple of it.
BLOCK = 512

#: A tar is padded to a multiple of this (a ustar record).
RECORD = 20 * BLOCK


def count_padding(size: int) -> int:
    """Bytes of padding after a member of `size` bytes."""
    return -size % BLOCK


def count_end(size: int) -> int:
    """Bytes of zeros after `size` bytes of members: two blocks, then padding to a whole record."""
    return 2 * BLOCK + -(size + 2 * BLOCK) % RECORD


def parse_header(block: bytes) -> tuple[str, int]:
    """Parse a header into (name, size of the content).

    Raises ValueError for a block that is not a ustar header, or whose checksum is wrong.
    """
    try:
        size, checksum = int(block[124:135], 8), int(block[148:154], 8)
    except ValueError:
        raise ValueError("no tar header found") from None
    is_regular = block[148:156] == b"%06o\0 " % checksum and block[156:157] in (b"0", b"\0")
    if not is_regular or sum(block) - sum(block[148:156]) + 8 * 32 != checksum:
        raise ValueError("damaged tar header")
    return block[:100].rstrip(b"\0").decode("ascii", "replace"), size


def rename_header(block: bytes, name: str) -> bytes:
    """Return a header with another name of at most 100 characters."""
    encoded = name.encode("ascii")
    if len(encoded) > 100:
        raise ValueError(f"{name!r} is too long for a tar header")
    block = encoded.ljust(100, b"\0") + block[100:148] + b" " * 8 + block[156:]
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
