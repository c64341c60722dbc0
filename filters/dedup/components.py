"""Connected components of duplicate edges: reduce edges to spanning forests, merge these, list their components.

A group of a million copies has half a trillion edges and a forest of a million. So every block of edges is reduced to
canonical stars (the smallest id of a component joined to each of its other members) before it is stored. The stars are
a function of the components alone, not of the order of edges, blocks or merges.

Pairs are two uint64 arrays (a, b), or bytes where a shuffle carries them (little-endian, 16 bytes for each pair).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ids = NDArray[np.uint64]

#: Number of pairs that a forest collects before it is reduced again (16 MB): each reduction costs a sort.
PENDING_PAIRS = 1 << 20


def label_components(a: NDArray[np.int64], b: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """int64 (n,): for each of the nodes 0..n-1 the smallest node that it is connected to by the edges (a, b)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if n == 0:
        return np.zeros(0, dtype=np.int64)
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n))
    count, labels = connected_components(graph.tocsr(), directed=False)
    first = np.empty(count, dtype=np.int64)
    first[labels[::-1]] = np.arange(n - 1, -1, -1)  # the last write wins: the smallest node of each label
    smallest: NDArray[np.int64] = first[labels]
    return smallest


def build_forest(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """Reduce edges between ids to canonical stars.

    a, b: uint64 (m,), edges in any order and direction; repeats and self-loops are allowed.
    Returns uint64 (f,) twice: each component's smallest id, and one of its further members; ascending by the latter,
    each of which occurs once. Edge sets with equal components give equal arrays.
    """
    ids, position = np.unique(np.concatenate([a, b]), return_inverse=True)
    root = label_components(position[: len(a)], position[len(a) :], len(ids))
    member = np.flatnonzero(root != np.arange(len(ids)))
    return ids[root[member]], ids[member]


def pack(a: Ids, b: Ids) -> bytes:
    """Pairs as bytes: 16 for each pair, little-endian."""
    return np.stack([a, b], axis=1).astype("<u8").tobytes()


def unpack(block: bytes) -> tuple[Ids, Ids]:
    """The pairs of `pack`. Raises ValueError when the length is not a multiple of 16."""
    pairs = np.frombuffer(block, dtype="<u8").reshape(-1, 2).astype(np.uint64)
    return pairs[:, 0], pairs[:, 1]


@dataclass
class Forest:
    """Stars of the pairs added so far, and pending blocks of pairs.

    Uses at most 16 bytes per id that has a duplicate, plus PENDING_PAIRS pairs or as many again.
    """

    a: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    b: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    pending: list[tuple[Ids, Ids]] = field(default_factory=list)
    waiting: int = 0

    def add(self, a: Ids, b: Ids) -> Forest:
        """Add one block of pairs (uint64 (m,) twice); returns this forest."""
        if len(a):
            self.pending.append((a, b))
            self.waiting += len(a)
            # Waiting for as many pairs as there are stars keeps the number of reductions logarithmic.
            if self.waiting > max(PENDING_PAIRS, len(self.a)):
                self.reduce()
        return self

    def reduce(self) -> tuple[Ids, Ids]:
        """Reduce all pairs to canonical stars, as `build_forest` returns them."""
        if self.pending:
            a = np.concatenate([self.a, *(block[0] for block in self.pending)])
            b = np.concatenate([self.b, *(block[1] for block in self.pending)])
            self.a, self.b = build_forest(a, b)
            self.pending, self.waiting = [], 0
        return self.a, self.b


def merge_forests(forests: Iterable[Forest]) -> Forest:
    """Merge forests into a new one; `forests` are not modified."""
    merged = Forest()
    for forest in forests:
        merged.add(forest.a, forest.b)
        for a, b in forest.pending:
            merged.add(a, b)
    return merged


def list_members(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """List the members of every component of the edges (a, b) with their components.

    Returns uint64 (m,) twice: ids, ascending, each once, and the smallest id of its component. Ids without an edge to
    another id are not listed.
    """
    root, member = build_forest(a, b)
    heads = np.unique(root)
    ids, roots = np.concatenate([heads, member]), np.concatenate([heads, root])
    order = np.argsort(ids)
    return ids[order], roots[order]


def are_connected(a: Ids, b: Ids, forest: tuple[Ids, Ids]) -> NDArray[np.bool_]:
    """bool (m,): whether both ends of each pair belong to one component of `forest` (as `build_forest` returns it)."""
    connected: NDArray[np.bool_] = _root(a, forest) == _root(b, forest)
    return connected


def _root(ids: Ids, forest: tuple[Ids, Ids]) -> Ids:
    root, member = forest
    if len(member) == 0:
        return ids
    position = np.minimum(np.searchsorted(member, ids), len(member) - 1)
    return np.where(member[position] == ids, root[position], ids)


def count_sizes(roots: Ids) -> dict[int, int]:
    """Count the components of each size, by size: {2: 310, 3: 12}. `roots` as `list_members` returns it."""
    _, members = np.unique(roots, return_counts=True)
    sizes, counts = np.unique(members, return_counts=True)
    return {int(size): int(count) for size, count in zip(sizes, counts, strict=True)}


def choose_survivors(
    ids: Ids, roots: Ids, ranks: Sequence[ArrayLike], tolerances: Sequence[float], keys: Sequence[str]
) -> Ids:
    """Choose the survivor of each component, criterion by criterion; the smallest key decides between the last ones.

    A member stays a candidate where it is at most `tolerance` below the best candidate. Values are never compared in
    pairs: "about equal" does not carry over from neighbour to neighbour, and the result would depend on their order.

    ids, roots: uint64 (n,), one row for each member, in any order. ranks: columns of numbers (n,), higher is better,
    compared when rounded to 6 decimals; NaN is below everything. tolerances: one for each column. keys: n different
    strings. Returns uint64 (n,): for each row the id of its component's survivor (its own id where it survives).
    """
    _, group = np.unique(roots, return_inverse=True)
    candidate = np.ones(len(ids), dtype=bool)
    for rank, tolerance in zip(ranks, tolerances, strict=True):
        column = np.round(np.asarray(rank, dtype=np.float64), 6)
        column = np.where(np.isnan(column), -np.inf, column)
        best = np.full(len(ids), -np.inf)
        np.maximum.at(best, group[candidate], column[candidate])
        with np.errstate(invalid="ignore"):  # inf - inf: equal
            behind = np.round(best[group] - column, 6)
        candidate &= (behind <= tolerance) | np.isnan(behind)
    order = np.lexsort((np.asarray(keys, dtype=np.str_), ~candidate, group))
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0][: len(order)])
    survivors = np.empty_like(ids)
    survivors[order] = np.repeat(ids[order[starts]], np.diff(np.r_[starts, len(order)]))
    return survivors
