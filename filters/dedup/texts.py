"""Near-duplicate texts: MinHash signatures cut into bands, buckets of equal bands, pairs checked by whole signatures.

Two texts whose shingle sets have the Jaccard similarity J agree in each place of their signatures with probability J,
so they share at least one of b bands of r places with probability 1 - (1 - J^r)^b (Leskovec, Rajaraman, Ullman, Mining
of Massive Datasets, 3.4). Sharing a band makes a candidate; an edge is a pair whose signatures agree in at least the
threshold's share of places. The groups are the components of these edges.

Exact duplicates need none of this: `components.stars` over a hash of the normalised text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from filters.dedup import components
from infra.hashing import digest, mix64

Ids = NDArray[np.uint64]

#: Pairs compared at once: 16 MB of signatures of 128 places.
BLOCK = 1 << 14


def band_rows(threshold: float, places: int, recall: float = 0.99) -> int:
    """The longest band with which a pair exactly at the threshold becomes a candidate with probability `recall`.

    Longer bands mean fewer candidates. places: length of a signature. 1 where no band reaches `recall`.
    """
    fits = [r for r in range(1, places + 1) if 1 - (1 - threshold**r) ** (places // r) >= recall]
    return max(fits, default=1)


def band_keys(signatures: NDArray[Any], rows: int) -> Ids:
    """uint64 (n, places // rows): a hash of each band and of which band it is.

    signatures: unsigned integers (n, places). Equal bands give equal keys; unequal ones meet once in 2^64 pairs, which
    costs a comparison and no more. Places that fill no band are left out.
    """
    n, places = signatures.shape
    count = places // rows
    values = signatures[:, : count * rows].astype(np.uint64).reshape(n, count, rows)
    start = int.from_bytes(digest(b"text.bands", size=8), "little")
    band = np.uint64(start) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    keys = np.broadcast_to(mix64(band), (n, count))
    for place in range(rows):
        keys = mix64(keys ^ values[:, :, place])
    return np.ascontiguousarray(keys)


def link_buckets(keys: Ids, ids: Ids, signatures: NDArray[Any], threshold: float) -> tuple[Ids, Ids]:
    """The components of all pairs that share a bucket and agree in enough places, as a forest.

    keys: uint64 (m,), one bucket of a row; a row comes once for each of its bands, or at least for those of this
    partition. ids: uint64 (m,). signatures: (m, places). threshold: share of agreeing places, in (0, 1].
    The result is that of comparing every pair in every bucket; a bucket of copies takes one pass.
    """
    need = int(np.ceil(round(threshold * signatures.shape[1], 6)))
    order = np.lexsort((ids, keys))
    starts = np.flatnonzero(np.r_[True, np.diff(keys[order]) != 0][: len(order)])
    sizes = np.diff(np.r_[starts, len(order)])
    forest = components.create()
    # Most buckets of more than one are pairs: they are compared all at once.
    twos = starts[sizes == 2]
    for some in (twos[i : i + BLOCK] for i in range(0, len(twos), BLOCK)):
        a, b = order[some], order[some + 1]
        near = (signatures[a] == signatures[b]).sum(axis=1) >= need
        components.add(forest, ids[a[near]], ids[b[near]])
    for start, size in zip(starts[sizes > 2].tolist(), sizes[sizes > 2].tolist(), strict=True):
        bucket = order[start : start + size]
        components.add(forest, *_linked(ids[bucket], signatures[bucket], need))
    return components.extract(forest)


def find_text_edges(signatures: NDArray[Any], ids: Ids, threshold: float, recall: float = 0.99) -> tuple[Ids, Ids]:
    """Near-duplicate groups of texts that fit in memory, as a forest: bands, buckets and check in one call."""
    keys = band_keys(signatures, band_rows(threshold, signatures.shape[1], recall))
    forest = components.create()
    for band in range(keys.shape[1]):
        components.add(forest, *link_buckets(keys[:, band], ids, signatures, threshold))
    return components.extract(forest)


def _linked(ids: Ids, signatures: NDArray[Any], need: int) -> tuple[Ids, Ids]:
    """A forest of one bucket: each group is grown from its first member, by what is still without a group.

    Every member of a group is compared with all that is left, so no pair that could join two groups is passed over.
    """
    left = np.arange(len(ids))
    a: list[np.uint64] = []
    b: list[np.uint64] = []
    while len(left) > 1:
        grown, left = [left[0]], left[1:]
        for member in grown:  # grows while it is read
            if len(left) == 0:
                break
            near = (signatures[left] == signatures[member]).sum(axis=1) >= need
            grown.extend(left[near].tolist())
            left = left[~near]
        a.extend([ids[grown[0]]] * (len(grown) - 1))
        b.extend(ids[grown[1:]])
    return np.array(a, dtype=np.uint64), np.array(b, dtype=np.uint64)
