"""Near-duplicate vectors: the pairs of fingerprints with a cosine of at least the threshold, searched by cell.

The flow, in memory here (`find_edges`) and over files in the pipeline:
    sample_rows -> train_cells -> nearest_cells for every vector -> rows grouped by cell
    -> link_cells (a forest) or search_cells (every pair) -> components

Cells only determine which pairs are compared. Whether a compared pair is an edge is exact: float32 products of tiles
select candidates, and the float64 dot product, rounded to 6 decimals, decides. For rows stored as float16 that product
is exact in float64 (multiples of 2^-48 below 2), so edges do not depend on tiles, order, BLAS or thread count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from filters.dedup.cells import (
    BLOCK,
    Ids,
    Vectors,
    cluster_count,
    draw_rows,
    nearest_cells,
    sample_rows,
    sample_size,
    to_unit_rows,
    train_cells,
)
from filters.dedup.components import label_components

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

#: float32 products this far below the threshold are still checked; their rounding error is under 1e-4.
SLACK = 1e-3
#: Scores in a tile of the search: 4 MB of float32, which fits in a core's cache.
TILE = 1 << 20
#: Number of pending pairs from which they are joined.
PENDING = 1 << 20


class Edges(NamedTuple):
    """Pairs of row ids, a < b. similarity: float64 (n,), cosine rounded to 6 decimals."""

    a: Ids
    b: Ids
    similarity: NDArray[np.float64]


class VectorTable(NamedTuple):
    """Vectors with their ids and cells.

    vectors: (n, d); ids: uint64 (n,), each once; cells: int32 (n, p) as `nearest_cells` returns them.
    """

    vectors: Vectors
    ids: Ids
    cells: NDArray[np.int32]


def search_cells(
    base: VectorTable, queries: VectorTable, threshold: float, *, shift: int = 0, tile: int = TILE
) -> Iterator[Edges]:
    """Find every pair over the threshold of a base row and a query row that probes the base row's home cell.

    For callers who need each pair (frames of videos). Yields edges in blocks that fit in memory; a pair that meets in
    two cells occurs twice. Base rows belong to cells[:, 0]; query rows are searched in all of their cells, of which
    those without base rows here are skipped: a partition of cells gets its base rows and all rows that probe it.
    shift: rows whose ids agree after dropping the lowest `shift` bits (the frames of one video) are never a pair.
    tile: scores in memory at once; affects memory and speed only.
    """
    floor = np.round(threshold, 6)
    base_rows, query_rows = to_unit_rows(base.vectors), to_unit_rows(queries.vectors)
    for i, j, _ in _find_candidates(base_rows, base.cells, query_rows, queries.cells, threshold - SLACK, tile):
        a, b = base.ids[i], queries.ids[j]
        apart = (a >> np.uint64(shift)) != (b >> np.uint64(shift))
        i, j, a, b = i[apart], j[apart], a[apart], b[apart]
        similarity = _cosines(base_rows, i, query_rows, j)
        edge = similarity >= floor
        yield Edges(np.minimum(a, b)[edge], np.maximum(a, b)[edge], similarity[edge])


def link_cells(base: VectorTable, queries: VectorTable, threshold: float, *, tile: int = TILE) -> tuple[Ids, Ids]:
    """Reduce the edges of `search_cells` to a forest (`components.build_forest`), without listing them.

    For callers who need only the groups (images). Identical vectors are joined before the search; a pair clearly over
    the threshold or already joined is not measured again, so a cell of a million copies stays cheap.
    """
    floor = np.round(threshold, 6)
    ids = np.unique(np.concatenate([base.ids, queries.ids]))
    groups = _Groups(len(ids))
    sides = []
    for table in [base] if base is queries else [base, queries]:
        vectors, node = to_unit_rows(table.vectors), np.searchsorted(ids, table.ids)
        first = _find_identical(vectors, node)
        groups.join(node, node[first])
        unique = np.flatnonzero(first == np.arange(len(first)))
        sides.append((vectors[unique] if len(unique) < len(first) else vectors, node[unique], table.cells[unique]))
    (base_rows, base_node, base_cells), (query_rows, query_node, query_cells) = sides[0], sides[-1]
    for i, j, score in _find_candidates(base_rows, base_cells, query_rows, query_cells, threshold - SLACK, tile):
        a, b = base_node[i], query_node[j]
        apart = groups.are_apart(a, b)
        i, j, a, b, score = i[apart], j[apart], a[apart], b[apart], score[apart]
        certain = score >= threshold + SLACK
        groups.join(a[certain], b[certain])
        close = np.flatnonzero(~certain)
        if len(close):
            close = close[groups.are_apart(a[close], b[close])]
            edge = _cosines(base_rows, i[close], query_rows, j[close]) >= floor
            groups.join(a[close[edge]], b[close[edge]])
    root = groups.roots()
    member = np.flatnonzero(root != np.arange(len(ids)))
    return ids[root[member]], ids[member]


def find_edges(
    vectors: Vectors, ids: Ids, threshold: float, *, seed: int, probes: int = 4, recall: float = 0.99, most: int = 64
) -> tuple[Ids, Ids]:
    """Find the duplicate groups of vectors that fit in memory, as a forest: the module's flow in one call.

    vectors (n, d), ids uint64 (n,), each once. Exact up to ONE_CELL rows; above, pairs exactly at the
    threshold are found with the share `recall`.
    """
    if len(ids) < 2:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    order = np.argsort(ids)
    rows, ids = to_unit_rows(vectors[order]), ids[order]
    k = cluster_count(len(ids))
    sample = rows[sample_rows(ids, sample_size(k), seed)]
    centroids, margin = train_cells(sample, k, threshold, seed=seed, recall=recall)
    table = VectorTable(rows, ids, nearest_cells(rows, centroids, probes, margin=margin, most=most))
    return link_cells(table, table, threshold)


class _Groups:
    """Groups of n nodes, as joined so far. Joins are batched until enough are pending."""

    def __init__(self, n: int) -> None:
        self._root = np.arange(n)
        self._pending: list[tuple[Ints, Ints]] = []
        self._waiting = 0

    def join(self, a: Ints, b: Ints) -> None:
        self._pending.append((a, b))
        self._waiting += len(a)
        if self._waiting > PENDING:
            self.roots()

    def are_apart(self, a: Ints, b: Ints) -> NDArray[np.bool_]:
        """bool (m,): False where a and b have already been joined into one group."""
        apart: NDArray[np.bool_] = self._root[a] != self._root[b]
        return apart

    def roots(self) -> Ints:
        """int64 (n,): the smallest node of each node's group."""
        if self._waiting:
            a, b = (self._root[np.concatenate(ends)] for ends in zip(*self._pending, strict=True))
            self._root = label_components(a, b, len(self._root))[self._root]
            self._pending, self._waiting = [], 0
        return self._root


def _find_candidates(
    base_rows: Floats,
    base_cells: NDArray[np.int32],
    query_rows: Floats,
    query_cells: NDArray[np.int32],
    floor: float,
    tile: int,
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """(i, j, float32 product) of the pairs whose product is at least `floor`, where j probes the home cell of i.

    A product is the product of the first halves (heads) plus at most that of the lengths of the second halves
    (Cauchy-Schwarz). Where vectors are spread evenly, the heads rule out nearly all rows: little more than half of the
    work, and no pair is lost. Elsewhere whole products are computed.
    """
    if len(base_rows) == 0 or len(query_rows) == 0:
        return
    home = base_cells[:, 0]
    by_home = np.argsort(home, kind="stable")
    cells, starts = np.unique(home[by_home], return_index=True)
    ends = np.r_[starts[1:], len(by_home)]
    count = int(max(cells[-1], query_cells.max())) + 1
    has_base = np.zeros(count + 1, dtype=np.bool_)  # one more entry, for -1
    has_base[cells] = True
    flat = query_cells.ravel()
    entries = np.flatnonzero(has_base[flat])
    visited = flat[entries].astype(np.int16 if count < 1 << 15 else np.int32)  # numpy sorts 16 bits in linear time
    order = np.argsort(visited, kind="stable")
    entries, visited = entries[order], visited[order]
    bounds = np.searchsorted(visited, np.stack([cells, cells + 1]).astype(np.int32))
    visitors = entries // query_cells.shape[1]
    head = base_rows.shape[1] // 2
    buffer = np.empty(max(tile, 1), dtype=np.float32)
    for start, end, begin, stop in zip(starts, ends, *bounds, strict=True):
        for i in _blocks(by_home[start:end], max(1, min(2048, tile))):
            members = base_rows[i]
            reach = _length(members[:, head:]).max()
            heads_suffice = True  # whether the heads alone have ruled out most rows so far
            for j in _blocks(visitors[begin:stop], max(1, tile // len(i))):
                scores = buffer[: len(j) * len(i)].reshape(len(j), len(i))
                queries = query_rows[j]
                if heads_suffice:
                    np.matmul(queries[:, :head], members[:, :head].T, out=scores)
                    hot = np.flatnonzero(scores.max(axis=1) + reach * _length(queries[:, head:]) >= floor)
                    heads_suffice = len(hot) < len(j) / 4
                    near = scores[hot] + queries[hot, head:] @ members[:, head:].T
                else:
                    np.matmul(queries, members.T, out=scores)
                    hot = np.flatnonzero(scores.max(axis=1) >= floor)
                    near = scores[hot]
                row, column = np.nonzero(near >= floor)
                if len(row):
                    yield i[column], j[hot[row]], near[row, column]


def _length(rows: Floats) -> Floats:
    length: Floats = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return length


def _blocks(rows: Ints, size: int) -> Iterator[Ints]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _cosines(base_rows: Floats, i: Ints, query_rows: Floats, j: Ints) -> NDArray[np.float64]:
    """float64 (m,): base_rows[i] · query_rows[j], rounded to 6 decimals."""
    cosines = np.empty(len(i), dtype=np.float64)
    for start in range(0, len(i), 4096):
        block = slice(start, start + 4096)
        cosines[block] = np.einsum(
            "ij,ij->i", base_rows[i[block]].astype(np.float64), query_rows[j[block]].astype(np.float64)
        )
    rounded: NDArray[np.float64] = np.round(cosines, 6)
    return rounded


def _find_identical(vectors: Floats, node: Ints) -> Ints:
    """int64 (n,): for each row, the bitwise identical row with the smallest node.

    Rows are grouped by a 64-bit sum of their words times fixed odd numbers and then compared. After a collision two
    identical rows remain, which the search links.
    """
    n = len(vectors)
    first = np.arange(n)
    if n < 2:
        return first
    words = np.ascontiguousarray(vectors).view(np.uint32)
    weights = draw_rows(np.arange(words.shape[1], dtype=np.uint64), 0, "duplicates.identical") | np.uint64(1)
    blocks = [words[start : start + BLOCK] for start in range(0, n, BLOCK)]
    sums = np.concatenate([(block * weights).sum(axis=1, dtype=np.uint64) for block in blocks])
    order = np.lexsort((node, sums))
    starts = np.flatnonzero(np.r_[True, np.diff(sums[order]) != 0])
    head = np.repeat(order[starts], np.diff(np.r_[starts, n]))
    for block in _blocks(np.flatnonzero(head != order), BLOCK):
        same = (words[head[block]] == words[order[block]]).all(axis=1)
        first[order[block[same]]] = head[block[same]]
    return first
