"""Tars without some samples: byte ranges of the old one and the end that every tar has."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import storage
from infra.errors import StageError

#: Bytes that are read at once.
BLOCK = 2**22


def copy(source: str, spans: Sequence[tuple[int, int]], target: Path) -> str:
    """Write a tar of byte ranges (offset, size) of another, in this order; returns its sha256.

    A range is a whole sample, or several that lie side by side: the result is what would have been written of them.
    """
    state, written = hashlib.sha256(), 0
    with storage.open_read(source) as file, open(target, "wb") as out:
        for offset, size in spans:
            file.seek(offset)
            left = size
            while left:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise StageError("this tar is shorter than its members index says", where=source, hint=_AUDIT)
                state.update(block)
                out.write(block)
                left -= len(block)
            written += size
        end = b"\0" * (2 * tarfile.BLOCKSIZE)
        end += b"\0" * (-(written + len(end)) % tarfile.RECORDSIZE)
        state.update(end)
        out.write(end)
    return state.hexdigest()


_AUDIT = "`reelmill audit` says what is wrong with this run; export it again first"


def check(source: str, members: pa.Table) -> None:
    """Raises StageError where a sample of the index does not begin at its offset."""
    with storage.open_read(source) as file:
        for key, offset in zip(members["key"].to_pylist(), members["offset"].to_pylist(), strict=True):
            file.seek(offset)
            if not file.read(len(key) + 1) == f"{key}.".encode():
                raise StageError(f"{key} does not lie where the members index says", where=source, hint=_AUDIT)


def without(members: pa.Table, keys: Sequence[str]) -> tuple[pa.Table, list[tuple[int, int]]]:
    """(the index of a shard without some samples, the ranges of the old tar that the others lie in)."""
    stay = members.filter(pc.invert(pc.is_in(members["key"], value_set=pa.array(list(keys), pa.string()))))
    old, size = (np.asarray(stay[name], dtype=np.int64) for name in ("offset", "size"))
    new = np.cumsum(size) - size
    nested = stay["members"].combine_chunks()
    flat = pc.list_flatten(nested)
    parents = np.asarray(pc.list_parent_indices(nested), dtype=np.int64)
    names, starts, sizes = (pc.struct_field(flat, i) for i in range(3))
    moved = np.asarray(starts, dtype=np.int64) + (new - old)[parents]
    kind = nested.type.value_type
    structs = pa.StructArray.from_arrays([names, pa.array(moved), sizes], fields=list(kind))
    counts = np.bincount(parents, minlength=len(new))
    lists = pa.ListArray.from_arrays(pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32()), structs)
    for name, values in (("offset", pa.array(new)), ("members", lists.cast(nested.type))):
        index = stay.schema.get_field_index(name)
        stay = stay.set_column(index, stay.schema.field(index), values)
    return stay, joined(old.tolist(), size.tolist())


def joined(offsets: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Ranges, with those that lie side by side as one."""
    found: list[tuple[int, int]] = []
    for offset, size in zip(offsets, sizes, strict=True):
        if found and sum(found[-1]) == offset:
            found[-1] = (found[-1][0], found[-1][1] + size)
        else:
            found.append((offset, size))
    return found
