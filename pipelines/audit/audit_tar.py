"""Check a tar against its members index: headers are where the index says, with nothing between or after the members.

A tar that export writes is a function of its members' names, sizes and bytes. So the expected headers of all members
are computed at once and compared with those in the file, which proves that the members tile the file exactly.
"""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.columns import Mask, to_ints
from mixtures.shards.ustar import BINARY_SIZE, count_end, encode_binary_size
from pipelines.audit.findings import MAX_LISTED, AuditFindings

BLOCK = tarfile.BLOCKSIZE

#: Members checked together: 2 MiB of headers stay in a processor's cache.
BATCH = 4096

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

#: Fields of a ustar header under tarfile's names, to name a difference.
FIELDS = ("name", "mode", "uid", "gid", "size", "mtime", "chksum", "type", "linkname", "uname", "gname", "devmajor",
          "devminor")  # fmt: skip


@dataclass(frozen=True)
class TarIndex:
    """Samples of one tar, in order, and the flat list of their members.

    keys (n,); offset, size (n,): byte range of each sample, header and padding included; counts (n,): its members.
    names (m,); starts, sizes (m,): offset and length of each member's content.
    """

    keys: pa.Array
    offset: Ints
    size: Ints
    counts: Ints
    names: pa.Array
    starts: Ints
    sizes: Ints

    @classmethod
    def from_members(cls, members: pa.Table) -> TarIndex:
        """Build the index from rows of the members table."""
        nested = members["members"].combine_chunks()
        flat = nested.flatten()
        return cls(
            members["key"].combine_chunks(),
            to_ints(members["offset"]),
            to_ints(members["size"]),
            to_ints(pc.list_value_length(nested), null=0),
            flat.field("name"),
            to_ints(flat.field("offset")),
            to_ints(flat.field("size")),
        )

    @property
    def first(self) -> Ints:
        """int64 (n,): position of each sample's first member."""
        return np.cumsum(self.counts) - self.counts

    @property
    def ends(self) -> Ints:
        """int64 (m,): offset at which each member's padding ends."""
        return self.starts + (self.sizes + BLOCK - 1) // BLOCK * BLOCK

    def owners(self) -> Ints:
        """int64 (m,): the sample of each member."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @functools.cached_property  # threads: safe, computed from what is never changed
    def member_keys(self) -> pa.Array:
        """(m,): the key of each member's sample."""
        return self.keys.take(pa.array(self.owners()))


def check_tar(
    view: memoryview, index: TarIndex, suffixes: Sequence[str] | None, file: str, findings: AuditFindings
) -> Mask:
    """Check a tar against its index. Returns bool (m,): members that are in the file, at their offset in the index.

    suffixes: of every sample, sorted, as in the shard's card; None for the tar of a mixture, whose samples have
    different suffixes and lie in the order of the plan.
    """
    blocks = np.frombuffer(view, dtype=np.uint8)
    complete = len(blocks) // BLOCK
    _check_tiling(index, file, findings)
    if suffixes is not None:
        _check_names(index, suffixes, file, findings)
    inside = (index.starts >= BLOCK) & (index.starts % BLOCK == 0) & (index.sizes >= 0)
    inside &= (index.starts <= len(blocks)) & (index.sizes <= len(blocks))  # otherwise their sum may overflow
    inside &= index.ends <= complete * BLOCK
    rows = np.flatnonzero(inside)
    good: Mask = inside.copy()
    grid = blocks[: complete * BLOCK].reshape(-1, BLOCK)
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        good[batch] &= _check_headers(grid, index, batch, file, findings)
        _check_padding(grid, index, batch, file, findings)
    findings.add_rows(file, "members.offset", index.member_keys, ~inside, f"within {len(blocks)} bytes", index.starts)
    _check_end(blocks, index, file, findings)
    return good


def _check_tiling(index: TarIndex, file: str, findings: AuditFindings) -> None:
    """Each header must begin where the previous member's padding ends, each sample where its first header does."""
    ends = index.ends
    expected = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)] + BLOCK
    findings.compare_arrays(file, "members.offset", index.member_keys, expected, index.starts)
    empty = index.counts <= 0
    if empty.any():
        findings.add_rows(file, "members", index.keys, empty, "at least one member", index.counts)
        return
    first = index.first
    offset = index.starts[first] - BLOCK
    size = ends[first + index.counts - 1] - offset
    findings.compare_arrays(file, "offset", index.keys, offset, index.offset)
    findings.compare_arrays(file, "size", index.keys, size, index.size)


def _check_names(index: TarIndex, suffixes: Sequence[str], file: str, findings: AuditFindings) -> None:
    """Every sample must have a KEY.SUFFIX for each suffix of the shard; keys must be ascending and unique."""
    n, k = len(index.keys), len(suffixes)
    wrong = pc.less_equal(index.keys[1:], index.keys[:-1])
    findings.add_rows(file, "order of keys", index.keys[1:], wrong, "ascending", index.keys[1:])
    if not (index.counts == k).all():
        findings.add_rows(file, "members", index.keys, index.counts != k, k, index.counts)
        return
    keys = index.keys.take(pa.array(np.repeat(np.arange(n), k)))
    dotted = pa.array([f".{suffix}" for suffix in suffixes]).take(pa.array(np.tile(np.arange(k), n)))
    findings.compare_columns(file, "members.name", keys, pc.binary_join_element_wise(keys, dotted, ""), index.names)


#: A header with the constant fields set; name, size and checksum are filled in.
_PLAIN = tarfile.TarInfo("")
_PLAIN.mode = 0o644
_TEMPLATE = np.frombuffer(_PLAIN.tobuf(tarfile.USTAR_FORMAT), np.uint8)

#: Leading bytes of a header, a multiple of eight, that contain all variable fields; the rest equals the template.
HEAD = 160

#: Bit masks of the padding in a word of eight bytes, by the number of content bytes at its beginning.
_PADDING_MASKS = np.array([[255 * (byte >= used) for byte in range(8)] for used in range(8)], np.uint8).view(np.uint64)[
    :, 0
]


def build_heads(names: pa.Array, sizes: Ints) -> Bytes:
    """Build the first HEAD bytes, uint8 (m, HEAD), of the headers that `mixtures.shards.ustar.build_header` builds one
    by one. Names have at most 100 bytes."""
    m = len(names)
    rows = np.tile(_TEMPLATE[:HEAD], (m, 1))
    missing = (100 - np.asarray(pc.binary_length(names), dtype=np.int64)).clip(0)
    zeros = pa.array([b"\0" * n for n in range(101)]).take(pa.array(missing))
    padded = pc.binary_join_element_wise(pc.cast(names, pa.binary()), zeros, b"")
    if m:
        rows[:, :100] = np.frombuffer(padded.buffers()[2], np.uint8, m * 100).reshape(m, 100)
    rows[:, 124:135] = ((sizes[:, None] >> np.arange(30, -1, -3)) & 7) + ord("0")
    for row in np.flatnonzero(sizes >= BINARY_SIZE):
        rows[row, 124:136] = np.frombuffer(encode_binary_size(int(sizes[row])), np.uint8)
    rows[:, 148:156] = ord(" ")
    total = (rows[:, :100].sum(axis=1, dtype=np.uint16) + rows[:, 124:136].sum(axis=1, dtype=np.uint16)).astype(
        np.int64
    )
    total += int(_TEMPLATE[100:124].sum() + _TEMPLATE[136:148].sum() + 8 * ord(" ") + _TEMPLATE[156:].sum())
    rows[:, 148:154] = ((total[:, None] >> np.arange(15, -1, -3)) & 7) + ord("0")
    rows[:, 154] = 0
    return rows


def _check_headers(grid: Bytes, index: TarIndex, batch: Ints, file: str, findings: AuditFindings) -> Mask:
    """Compare the headers of some members; returns bool (batch,): those that are as expected."""
    names, sizes = pc.fill_null(index.names.take(pa.array(batch)), ""), index.sizes[batch]
    usual = np.asarray(pc.binary_length(names)) <= 100
    if not usual.all():
        keys = index.member_keys.take(pa.array(batch))
        findings.add_rows(file, "members.name", keys, ~usual, "at most 100 bytes", names)
        names = pc.if_else(pa.array(usual), names, "")
    expected = build_heads(names, sizes)
    actual = grid[index.starts[batch] // BLOCK - 1]
    right: Mask = (expected.view(np.uint64) == actual[:, :HEAD].view(np.uint64)).all(axis=1)
    right &= (actual[:, HEAD:].view(np.uint64) == _TEMPLATE[HEAD:].view(np.uint64)).all(axis=1)
    for row in np.flatnonzero(~right & usual)[:MAX_LISTED]:
        key = index.keys[int(np.searchsorted(np.cumsum(index.counts), batch[row], side="right"))].as_py()
        header = np.concatenate([expected[row], _TEMPLATE[HEAD:]])
        _compare_header(header.tobytes(), actual[row].tobytes(), key, file, findings)
    return right & usual


def _compare_header(expected: bytes, actual: bytes, key: str, file: str, findings: AuditFindings) -> None:
    """Add a finding for each field of two unequal headers that differs."""
    right = tarfile.TarInfo.frombuf(expected, "utf-8", "surrogateescape")
    try:
        wrong = tarfile.TarInfo.frombuf(actual, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        findings.add(file, "header", f"the header of {right.name}", str(error), key)
        return
    fields = [field for field in FIELDS if getattr(right, field) != getattr(wrong, field)]
    for field in fields:
        findings.add(file, f"header.{field}", getattr(right, field), getattr(wrong, field), key)
    if not fields:
        findings.add(file, "header", f"the header of {right.name}", "other bytes", key)


def _check_padding(grid: Bytes, index: TarIndex, batch: Ints, file: str, findings: AuditFindings) -> None:
    """The padding after each member must be zeros."""
    remainders = index.sizes[batch] % BLOCK
    padded = np.flatnonzero(remainders)
    last = grid[(index.starts[batch[padded]] + index.sizes[batch[padded]]) // BLOCK].view(np.uint64)
    word, used = np.divmod(remainders[padded], 8)
    partial = last[np.arange(len(padded)), word] & _PADDING_MASKS[used]
    np.putmask(last, np.arange(BLOCK // 8) <= word[:, None], 0)
    keys = index.member_keys.take(pa.array(batch[padded]))
    findings.add_rows(file, "padding", keys, (partial != 0) | last.any(axis=1), "zeros", "other bytes")


def _check_end(blocks: Bytes, index: TarIndex, file: str, findings: AuditFindings) -> None:
    """The tar must end with two blocks of zeros, and zeros up to a whole record."""
    ends = index.ends
    end = int(ends[-1]) if len(ends) else 0
    length = end + count_end(end)
    findings.compare(file, "bytes", length, len(blocks))
    if 0 <= end < len(blocks) and blocks[end:].any():
        findings.add(file, "end", "zeros", f"other bytes after byte {end + int(np.flatnonzero(blocks[end:])[0])}")
