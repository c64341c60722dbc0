"""Near-duplicate texts: MinHash signatures cut into bands, buckets of equal bands, pairs checked by whole signatures.

Two texts whose shingle sets have the Jaccard similarity J agree at each position of their signatures with probability
J, so they share at least one of b bands of r positions with probability 1 - (1 - J^r)^b (Leskovec, Rajaraman, Ullman,
Mining of Massive Datasets, 3.4). Texts that share a band are candidates; an edge is a pair whose signatures agree at no
less than the threshold's share of positions. Groups are the components of these edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from filters.dedup.components import Forest
from infra.hashing import digest, mix64

Ids = NDArray[np.uint64]

#: Pairs compared at once: 16 MB of signatures of 128 positions.
BLOCK = 1 << 14


def longest_band(threshold: float, length: int, recall: float = 0.99) -> int:
    """The longest band with which a pair exactly at the threshold becomes a candidate with probability `recall`.

    Longer bands make fewer candidates. length: of a signature. Returns 1 where no band reaches `recall`.
    """
    rows = [r for r in range(1, length + 1) if 1 - (1 - threshold**r) ** (length // r) >= recall]
    return max(rows, default=1)


def hash_bands(signatures: NDArray[Any], rows: int) -> Ids:
    """uint64 (n, length // rows): a hash of each band and its number.

    signatures: unsigned integers (n, length); rows: positions per band. Equal bands have equal hashes; unequal ones
    collide once in 2^64 pairs, which costs one comparison. Positions that fill no band are ignored.
    """
    n, length = signatures.shape
    count = length // rows
    bands = signatures[:, : count * rows].astype(np.uint64).reshape(n, count, rows)
    start = int.from_bytes(digest(b"text.bands", size=8), "little")
    numbers = np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    hashes = np.broadcast_to(mix64(numbers), (n, count))
    for row in range(rows):
        hashes = mix64(hashes ^ bands[:, :, row])
    return np.ascontiguousarray(hashes)


def link_buckets(buckets: Ids, ids: Ids, signatures: NDArray[Any], threshold: float) -> tuple[Ids, Ids]:
    """Link all pairs that share a bucket and agree at enough positions, as a forest.

    buckets: uint64 (m,), one bucket of a row; a row occurs once for each of its bands in this partition. ids: uint64
    (m,). signatures: (m, length). threshold: share of agreeing positions, in (0, 1].
    Equal to comparing every pair in every bucket, but a bucket of copies takes one pass.
    """
    need = int(np.ceil(round(threshold * signatures.shape[1], 6)))
    order = np.lexsort((ids, buckets))
    starts = np.flatnonzero(np.r_[True, np.diff(buckets[order]) != 0][: len(order)])
    sizes = np.diff(np.r_[starts, len(order)])
    forest = Forest()
    # Most buckets of more than one row are pairs: these are compared in blocks.
    pairs = starts[sizes == 2]
    for block in (pairs[i : i + BLOCK] for i in range(0, len(pairs), BLOCK)):
        a, b = order[block], order[block + 1]
        near = (signatures[a] == signatures[b]).sum(axis=1) >= need
        forest.add(ids[a[near]], ids[b[near]])
    for start, size in zip(starts[sizes > 2].tolist(), sizes[sizes > 2].tolist(), strict=True):
        bucket = order[start : start + size]
        forest.add(*_link_bucket(ids[bucket], signatures[bucket], need))
    return forest.reduce()


def _link_bucket(ids: Ids, signatures: NDArray[Any], need: int) -> tuple[Ids, Ids]:
    """Link one bucket: each group grows from its first member, by members that have no group yet.

    Every member of a group is compared with all rows without a group, so no pair that could join two groups is missed.
    """
    remaining = np.arange(len(ids))
    a: list[np.uint64] = []
    b: list[np.uint64] = []
    while len(remaining) > 1:
        group, remaining = [remaining[0]], remaining[1:]
        for member in group:  # grows during the loop
            if len(remaining) == 0:
                break
            near = (signatures[remaining] == signatures[member]).sum(axis=1) >= need
            group.extend(remaining[near].tolist())
            remaining = remaining[~near]
        a.extend([ids[group[0]]] * (len(group) - 1))
        b.extend(ids[group[1:]])
    return np.array(a, dtype=np.uint64), np.array(b, dtype=np.uint64)
