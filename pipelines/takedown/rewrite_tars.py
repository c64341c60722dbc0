"""Rewrite tars without some samples: byte ranges of the old tar and the end marker."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import storage
from infra.columns import to_ints
from infra.errors import StageError
from mixtures.shards.ustar import count_end

#: Bytes read at once.
BLOCK = 2**22

_HINT = "`reelmill audit` reports what is wrong with this run; export it again first"


def copy_spans(source: str, spans: Sequence[tuple[int, int]], target: Path) -> str:
    """Write a tar from byte ranges (offset, size) of another, in this order; returns its sha256.

    Each range is one sample or several adjacent ones, so the bytes are those that export would write for them.
    """
    state, written = hashlib.sha256(), 0
    with storage.open_read(source) as file, open(target, "wb") as out:
        for offset, size in spans:
            file.seek(offset)
            remaining = size
            while remaining:
                block = file.read(min(BLOCK, remaining))
                if not block:
                    raise StageError("this tar is shorter than its members index says", where=source, hint=_HINT)
                state.update(block)
                out.write(block)
                remaining -= len(block)
            written += size
        end = bytes(count_end(written))
        state.update(end)
        out.write(end)
    return state.hexdigest()


def check_offsets(source: str, members: pa.Table) -> None:
    """Raise StageError if a sample of the index does not begin at its offset."""
    with storage.open_read(source) as file:
        for key, offset in zip(members["key"].to_pylist(), members["offset"].to_pylist(), strict=True):
            file.seek(offset)
            if file.read(len(key) + 1) != f"{key}.".encode():
                raise StageError(f"{key} is not where the members index says", where=source, hint=_HINT)


def remove_members(members: pa.Table, keys: Sequence[str]) -> tuple[pa.Table, list[tuple[int, int]]]:
    """Remove samples from a shard's index; returns the new index and the (offset, size) ranges to copy from the tar."""
    rest = members.filter(pc.invert(pc.is_in(members["key"], value_set=pa.array(list(keys), pa.string()))))
    old, size = to_ints(rest["offset"]), to_ints(rest["size"])
    new = np.cumsum(size) - size
    nested = rest["members"].combine_chunks()
    flat = pc.list_flatten(nested)
    parents = np.asarray(pc.list_parent_indices(nested), dtype=np.int64)
    names, starts, sizes = (pc.struct_field(flat, i) for i in range(3))
    moved = to_ints(starts) + (new - old)[parents]
    structs = pa.StructArray.from_arrays([names, pa.array(moved), sizes], fields=list(nested.type.value_type))
    counts = np.bincount(parents, minlength=len(new))
    lists = pa.ListArray.from_arrays(pa.array(np.concatenate(([0], np.cumsum(counts))), pa.int32()), structs)
    for name, column in (("offset", pa.array(new)), ("members", lists.cast(nested.type))):
        index = rest.schema.get_field_index(name)
        rest = rest.set_column(index, rest.schema.field(index), column)
    return rest, merge_spans(old.tolist(), size.tolist())


def merge_spans(offsets: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, int]]:
    """(offset, size) ranges, adjacent ones merged."""
    spans: list[tuple[int, int]] = []
    for offset, size in zip(offsets, sizes, strict=True):
        if spans and sum(spans[-1]) == offset:
            spans[-1] = (spans[-1][0], spans[-1][1] + size)
        else:
            spans.append((offset, size))
    return spans
