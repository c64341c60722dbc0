"""Duplicate groups: edges between row ids, reduced to forests, merged, and read off as components.

A group of a million copies has half a trillion edges and a forest of a million. So nothing here ever holds more than a
forest: every block of edges is reduced to canonical stars (the smallest id of a component joined to each other member),
which makes the result a function of the components alone: not of the order of edges, blocks or merges.

Pairs travel as two uint64 arrays (a, b), or packed into bytes (little-endian, 16 bytes a pair) where a shuffle carries
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ids = NDArray[np.uint64]

#: A forest takes in this many pairs before it is reduced again (16 MB): reductions cost a sort, so they are batched.
PENDING_PAIRS = 1 << 20


def connected(left: NDArray[np.int64], right: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """int64 (n,): for each of the nodes 0..n-1 the smallest node that it is connected to by the edges (left, right)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if n == 0:
        return np.zeros(0, dtype=np.int64)
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(n, n))
    count, labels = connected_components(graph.tocsr(), directed=False)
    first = np.empty(count, dtype=np.int64)
    first[labels[::-1]] = np.arange(n - 1, -1, -1)  # the last write wins: the smallest node of each label
    smallest: NDArray[np.int64] = first[labels]
    return smallest


def spanning_forest(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """Reduces edges between ids to canonical stars.

    a, b: uint64 (m,), edges in any order and direction, repeats and self-loops allowed.
    Returns uint64 (f,) twice: each component's smallest id, and one other member of it; ascending in the second, in
    which no id occurs twice. Equal edge sets, and any edge sets with equal components, give equal arrays.
    """
    ids, position = np.unique(np.concatenate([a, b]), return_inverse=True)
    root = connected(position[: len(a)], position[len(a) :], len(ids))
    member = np.flatnonzero(root != np.arange(len(ids)))
    return ids[root[member]], ids[member]


def stars(values: NDArray[np.generic], ids: Ids) -> tuple[Ids, Ids]:
    """Joins all rows of equal value: exact duplicates.

    values: (n,), anything that numpy can sort (a 64-bit hash, fixed bytes). ids: uint64 (n,).
    Returns pairs as `spanning_forest` does.
    """
    _, group = np.unique(values, return_inverse=True)
    order = np.lexsort((ids, group))
    starts = np.flatnonzero(np.r_[True, np.diff(group[order]) != 0][: len(order)])
    head = np.repeat(ids[order[starts]], np.diff(np.r_[starts, len(order)]))
    return spanning_forest(head, ids[order])


def pack(a: Ids, b: Ids) -> bytes:
    """Pairs as bytes: 16 a pair, little-endian."""
    return np.stack([a, b], axis=1).astype("<u8").tobytes()


def unpack(block: bytes) -> tuple[Ids, Ids]:
    """The pairs of `pack`. Raises ValueError when the length is no multiple of 16."""
    pairs = np.frombuffer(block, dtype="<u8").reshape(-1, 2).astype(np.uint64)
    return pairs[:, 0], pairs[:, 1]


@dataclass
class Forest:
    """What a CombineFn accumulates: stars so far, and blocks of pairs that wait to be reduced with them.

    Holds at most 16 bytes for every id that has a duplicate, plus PENDING_PAIRS pairs or as many again.
    """

    a: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    b: Ids = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    pending: list[tuple[Ids, Ids]] = field(default_factory=list)
    waiting: int = 0


def create() -> Forest:
    """An empty forest."""
    return Forest()


def add(forest: Forest, a: Ids, b: Ids) -> Forest:
    """Takes in one block of pairs (uint64 (m,) twice); changes and returns `forest`."""
    if len(a):
        forest.pending.append((a, b))
        forest.waiting += len(a)
        # Waiting for as many pairs as there are stars keeps the number of reductions logarithmic.
        if forest.waiting > max(PENDING_PAIRS, len(forest.a)):
            _reduce(forest)
    return forest


def merge(forests: Iterable[Forest]) -> Forest:
    """One forest of many. The inputs are left as they are."""
    merged = create()
    for forest in forests:
        add(merged, forest.a, forest.b)
        for a, b in forest.pending:
            add(merged, a, b)
    return merged


def extract(forest: Forest) -> tuple[Ids, Ids]:
    """The canonical stars of everything taken in, as `spanning_forest` returns them."""
    _reduce(forest)
    return forest.a, forest.b


def _reduce(forest: Forest) -> None:
    if forest.pending:
        a = np.concatenate([forest.a, *(block[0] for block in forest.pending)])
        b = np.concatenate([forest.b, *(block[1] for block in forest.pending)])
        forest.a, forest.b = spanning_forest(a, b)
        forest.pending, forest.waiting = [], 0


def components(a: Ids, b: Ids) -> tuple[Ids, Ids]:
    """The members of every component of the edges (a, b), and what they belong to.

    Returns uint64 (m,) twice: ids, ascending, each once; and the smallest id of its component. Ids without any edge to
    another id are not listed.
    """
    root, member = spanning_forest(a, b)
    heads = np.unique(root)
    ids, roots = np.concatenate([heads, member]), np.concatenate([heads, root])
    order = np.argsort(ids)
    return ids[order], roots[order]


def joined(a: Ids, b: Ids, forest: tuple[Ids, Ids]) -> NDArray[np.bool_]:
    """bool (m,): whether the ends of each pair lie in one component of `forest` (as `spanning_forest` gives it)."""
    together: NDArray[np.bool_] = _root(a, forest) == _root(b, forest)
    return together


def _root(ids: Ids, forest: tuple[Ids, Ids]) -> Ids:
    root, member = forest
    if len(member) == 0:
        return ids
    place = np.minimum(np.searchsorted(member, ids), len(member) - 1)
    return np.where(member[place] == ids, root[place], ids)


def component_sizes(roots: Ids) -> dict[int, int]:
    """How many components there are of each size, by size: {2: 310, 3: 12}. `roots` as `components` returns it."""
    _, members = np.unique(roots, return_counts=True)
    sizes, counts = np.unique(members, return_counts=True)
    return {int(size): int(count) for size, count in zip(sizes, counts, strict=True)}


def survivors(ids: Ids, roots: Ids, ranks: Sequence[ArrayLike], keys: Sequence[str]) -> Ids:
    """Who stays of each component: the highest rank, and of equals the smallest key.

    ids, roots: uint64 (n,), one row a member, in any order. ranks: columns of numbers (n,), the first decides, the next
    breaks its ties; compared when rounded to 6 decimals; NaN is below everything. keys: n different strings.
    Returns uint64 (n,): for each row the id of its component's survivor (its own id where it survives).
    """
    columns = [np.round(np.asarray(rank, dtype=np.float64), 6) for rank in ranks]
    columns = [np.where(np.isnan(column), -np.inf, column) for column in columns]
    names = np.asarray(keys, dtype=np.str_)
    order = np.lexsort((names, *(-column for column in reversed(columns)), roots))
    starts = np.flatnonzero(np.r_[True, np.diff(roots[order]) != 0][: len(order)])
    kept = np.empty_like(ids)
    kept[order] = np.repeat(ids[order[starts]], np.diff(np.r_[starts, len(order)]))
    return kept
