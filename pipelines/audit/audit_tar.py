"""One tar against the members index: the headers where the index has them, and nothing between or after them.

A tar of ours is a function of its members' names, sizes and bytes, so each header is known beforehand: it is made here,
for all members at once, and held against the one in the file. Proven is that the members tile the file exactly.
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.audit.findings import SHOWN, AuditFindings

BLOCK = tarfile.BLOCKSIZE

#: Members that are looked at together: 2 MiB of headers stay in a processor's cache.
BATCH = 4096

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

#: Fields of a ustar header as tarfile reads them, so that a difference has a name.
FIELDS = ("name", "mode", "uid", "gid", "size", "mtime", "chksum", "type", "linkname", "uname", "gname", "devmajor",
          "devminor")  # fmt: skip


@dataclass(frozen=True)
class TarIndex:
    """Samples of one tar, in order, and their members, flat.

    keys (n,); offset, size (n,): bytes of each sample, header and padding included; counts (n,): its members.
    names (m,); data, sizes (m,): place and length of each member's content.
    """

    keys: pa.Array
    offset: Ints
    size: Ints
    counts: Ints
    names: pa.Array
    data: Ints
    sizes: Ints

    @classmethod
    def of(cls, members: pa.Table) -> TarIndex:
        """From rows of the members table."""
        nested = members["members"].combine_chunks()
        flat = nested.flatten()
        return cls(
            members["key"].combine_chunks(),
            _ints(members["offset"]),
            _ints(members["size"]),
            _ints(pc.fill_null(pc.list_value_length(nested), 0)),
            flat.field("name"),
            _ints(flat.field("offset")),
            _ints(flat.field("size")),
        )

    @property
    def first(self) -> Ints:
        """int64 (n,): position of each sample's first member."""
        return np.cumsum(self.counts) - self.counts

    def owners(self) -> Ints:
        """int64 (m,): the sample of each member."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def _ints(column: pa.Array | pa.ChunkedArray) -> Ints:
    return np.asarray(pc.fill_null(column, -1), dtype=np.int64)


def ends(data: Ints, sizes: Ints) -> Ints:
    """int64 (m,): where each member's padding ends."""
    return data + (sizes + BLOCK - 1) // BLOCK * BLOCK


def check_tar(
    view: memoryview, index: TarIndex, suffixes: Sequence[str] | None, file: str, findings: AuditFindings
) -> Mask:
    """Hold a tar against its index. Returns bool (m,): members that lie where the index has them, in the file.

    suffixes: of every sample, sorted, as the shard's card has them; None: a mixture's tar, whose samples differ and lie
    in the order of the plan.
    """
    blocks = np.frombuffer(view, dtype=np.uint8)
    whole = len(blocks) // BLOCK
    _tiles(index, len(blocks), file, findings)
    if suffixes is not None:
        _names(index, suffixes, file, findings)
    inside = (index.data >= BLOCK) & (index.data % BLOCK == 0) & (index.sizes >= 0)
    inside &= (index.data <= len(blocks)) & (index.sizes <= len(blocks))  # else their sum may run over
    inside &= ends(index.data, index.sizes) <= whole * BLOCK
    rows = np.flatnonzero(inside)
    good: Mask = inside.copy()
    grid = blocks[: whole * BLOCK].reshape(-1, BLOCK)
    for at in range(0, len(rows), BATCH):
        batch = rows[at : at + BATCH]
        good[batch] &= _headers(grid, index, batch, file, findings)
        _padding(grid, index, batch, file, findings)
    if not inside.all():
        findings.where(
            file, "members.offset", _keys(index), pa.array(~inside), f"within {len(blocks)} bytes", index.data
        )
    _end(blocks, index, file, findings)
    return good


def _keys(index: TarIndex) -> pa.Array:
    return index.keys.take(pa.array(index.owners()))


def _tiles(index: TarIndex, length: int, file: str, findings: AuditFindings) -> None:
    """Each header begins where the padding before it ends, each sample where its first header does."""
    after = ends(index.data, index.sizes)
    before = np.concatenate([np.zeros(1, np.int64), after[:-1]]) if len(after) else after
    wrong = index.data != before + BLOCK
    if wrong.any():
        findings.where(file, "members.offset", _keys(index), pa.array(wrong), before + BLOCK, index.data)
    if not (index.counts > 0).all():
        findings.where(file, "members", index.keys, pa.array(index.counts <= 0), "at least one member", index.counts)
        return
    first = index.first
    offset = index.data[first] - BLOCK
    size = after[first + index.counts - 1] - offset
    for field, expected, found in (("offset", offset, index.offset), ("size", size, index.size)):
        if not np.array_equal(expected, found):
            findings.where(file, field, index.keys, pa.array(expected != found), expected, found)


def _names(index: TarIndex, suffixes: Sequence[str], file: str, findings: AuditFindings) -> None:
    """KEY.SUFFIX for every suffix of the shard, keys ascending and each once."""
    n, k = len(index.keys), len(suffixes)
    if n > 1:
        wrong = pc.less_equal(index.keys[1:], index.keys[:-1])
        if pc.any(wrong).as_py():
            findings.where(file, "order of keys", index.keys[1:], wrong, "ascending", index.keys[1:])
    if not (index.counts == k).all():
        findings.where(file, "members", index.keys, pa.array(index.counts != k), k, index.counts)
        return
    keys = index.keys.take(pa.array(np.repeat(np.arange(n), k)))
    dotted = pa.array([f".{suffix}" for suffix in suffixes]).take(pa.array(np.tile(np.arange(k), n)))
    findings.rows(file, "members.name", keys, pc.binary_join_element_wise(keys, dotted, ""), index.names)


#: A header in which nothing is set but what never changes; its name, size and checksum are filled in.
_PLAIN = tarfile.TarInfo("")
_PLAIN.mode = 0o644
_TEMPLATE = np.frombuffer(_PLAIN.tobuf(tarfile.USTAR_FORMAT), np.uint8)

#: Bytes of a header up to the end of the words of eight bytes in which anything changes; the rest is the template's.
HEAD = 160

#: The bits of a word of eight bytes that belong to the padding, by how many bytes of it come before.
_AFTER = np.array([[255 * (byte >= used) for byte in range(8)] for used in range(8)], np.uint8).view(np.uint64)[:, 0]


def heads(names: pa.Array, sizes: Ints) -> Bytes:
    """uint8 (m, HEAD): how the ustar headers of members begin, as `mixtures.shards.shards.write_tar` has tarfile make
    them.
    Names of at most 100 bytes, sizes below 8 GiB."""
    m = len(names)
    rows = np.tile(_TEMPLATE[:HEAD], (m, 1))
    missing = (100 - np.asarray(pc.binary_length(names), dtype=np.int64)).clip(0)
    zeros = pa.array([b"\0" * n for n in range(101)]).take(pa.array(missing))
    padded = pc.binary_join_element_wise(pc.cast(names, pa.binary()), zeros, b"")
    if m:
        rows[:, :100] = np.frombuffer(padded.buffers()[2], np.uint8, m * 100).reshape(m, 100)
    octal = (sizes[:, None] >> np.arange(30, -1, -3)) & 7
    rows[:, 124:135] = octal + ord("0")
    rows[:, 148:156] = ord(" ")
    total = rows[:, :100].sum(axis=1, dtype=np.uint16).astype(np.int64) + octal.sum(axis=1) + 11 * ord("0")
    total += int(_TEMPLATE[100:124].sum() + _TEMPLATE[135:148].sum() + 8 * ord(" ") + _TEMPLATE[156:].sum())
    rows[:, 148:154] = ((total[:, None] >> np.arange(15, -1, -3)) & 7) + ord("0")
    rows[:, 154] = 0
    return rows


def _headers(grid: Bytes, index: TarIndex, batch: Ints, file: str, findings: AuditFindings) -> Mask:
    names, sizes = pc.fill_null(index.names.take(pa.array(batch)), ""), index.sizes[batch]
    usual = (np.asarray(pc.binary_length(names)) <= 100) & (sizes < 8**11)
    if not usual.all():
        keys = _keys(index).take(pa.array(batch))
        findings.where(file, "members.name", keys, pa.array(~usual), "at most 100 bytes, of less than 8 GiB", names)
        names = pc.if_else(pa.array(usual), names, "")
        sizes = np.where(usual, sizes, 0)
    expected = heads(names, sizes)
    found = grid[index.data[batch] // BLOCK - 1]
    right: Mask = (expected.view(np.uint64) == found[:, :HEAD].view(np.uint64)).all(axis=1)
    right &= (found[:, HEAD:].view(np.uint64) == _TEMPLATE[HEAD:].view(np.uint64)).all(axis=1)
    for row in np.flatnonzero(~right & usual)[:SHOWN]:
        key = index.keys[int(np.searchsorted(np.cumsum(index.counts), batch[row], side="right"))].as_py()
        whole = np.concatenate([expected[row], _TEMPLATE[HEAD:]])
        _name_header(whole.tobytes(), found[row].tobytes(), key, file, findings)
    return right & usual


def _name_header(expected: bytes, found: bytes, key: str, file: str, findings: AuditFindings) -> None:
    want = tarfile.TarInfo.frombuf(expected, "utf-8", "surrogateescape")
    try:
        have = tarfile.TarInfo.frombuf(found, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        findings.add(file, "header", f"the header of {want.name}", str(error), key)
        return
    named = False
    for field in FIELDS:
        a, b = getattr(want, field), getattr(have, field)
        if a != b:
            findings.add(file, f"header.{field}", a, b, key)
            named = True
    if not named:
        findings.add(file, "header", f"the header of {want.name}", "other bytes", key)


def _padding(grid: Bytes, index: TarIndex, batch: Ints, file: str, findings: AuditFindings) -> None:
    rest = index.sizes[batch] % BLOCK
    some = np.flatnonzero(rest)
    last = grid[(index.data[batch[some]] + index.sizes[batch[some]]) // BLOCK].view(np.uint64)
    word, used = np.divmod(rest[some], 8)
    cut = last[np.arange(len(some)), word] & _AFTER[used]
    np.putmask(last, np.arange(BLOCK // 8) <= word[:, None], 0)
    loud = (cut != 0) | last.any(axis=1)
    if loud.any():
        owners = _keys(index).take(pa.array(batch[some]))
        findings.where(file, "padding", owners, pa.array(loud), "zeros", "other bytes")


def _end(blocks: Bytes, index: TarIndex, file: str, findings: AuditFindings) -> None:
    """Two blocks of zeros, and zeros up to a whole record."""
    after = ends(index.data, index.sizes)
    end = int(after[-1]) if len(after) else 0
    length = -(-(end + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    findings.same(file, "bytes", length, len(blocks))
    if 0 <= end < len(blocks) and blocks[end:].any():
        findings.add(file, "end", "zeros", f"other bytes after byte {end + int(np.flatnonzero(blocks[end:])[0])}")
