"""The ustar format as export writes it: headers, padding and the end of a tar.

The size of a member of 8 GiB or more does not fit ustar's octal field. It is written in GNU's binary form, which tar,
Python's tarfile and so webdataset read.
"""

from __future__ import annotations

import tarfile

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


#: First size that is written in binary: ustar has eleven octal digits.
BINARY_SIZE = 8**11

_SIZE_FIELD = slice(124, 136)
_CHECKSUM_FIELD = slice(148, 156)


def build_header(name: str, size: int) -> bytes:
    """Build the header of a regular file: time 0, owner 0, mode 0644. name: at most 100 ASCII characters."""
    info = tarfile.TarInfo(name)
    info.mode = 0o644
    info.size = size if size < BINARY_SIZE else 0
    block = info.tobuf(tarfile.USTAR_FORMAT)
    if size < BINARY_SIZE:
        return block
    return _set_checksum(block[: _SIZE_FIELD.start] + encode_binary_size(size) + block[_SIZE_FIELD.stop :])


def encode_binary_size(size: int) -> bytes:
    """Encode a size of BINARY_SIZE or more as the 12 bytes of a header's size field: a mark, then big-endian."""
    return b"\x80" + size.to_bytes(11, "big")


def _decode_size(field: bytes) -> int:
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else int(field[:11], 8)


def _set_checksum(block: bytes) -> bytes:
    """The header with its checksum: the sum of its bytes, the checksum's own field counted as spaces."""
    total = sum(block) - sum(block[_CHECKSUM_FIELD]) + 8 * 32
    return block[: _CHECKSUM_FIELD.start] + b"%06o\0 " % total + block[_CHECKSUM_FIELD.stop :]


def parse_header(block: bytes) -> tuple[str, int]:
    """Parse a header into (name, size of the content).

    Raises ValueError for a block that is not a ustar header, or whose checksum is wrong.
    """
    try:
        size, checksum = _decode_size(block[_SIZE_FIELD]), int(block[148:154], 8)
    except (ValueError, IndexError):
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
    return _set_checksum(encoded.ljust(100, b"\0") + block[100:])
