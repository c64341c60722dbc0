"""Near-duplicate vectors: which pairs of fingerprints have a cosine of at least the threshold.

All pairs of n vectors cost n². So the space is first cut into k ≈ √n cells by k-means over a sample; a vector lies in
its home cell and is also searched in every cell whose centroid is nearly as close as its home's. How nearly (the
`margin`) is measured: near-duplicates exactly at the threshold are made from the sample's own rows, and the margin is
the one that lets the stated share of them meet. Data that falls into clumps then probes hardly more than one cell a
vector, data spread evenly over the sphere as many as it needs.

The flow, in memory here (`find_edges`) and over files in the pipeline:
    sample_rows -> train_centroids, probe_margin -> nearest_cells for every vector -> rows meet by cell
    -> link_cells (a forest) or search_cells (every pair) -> components

Cells only decide which pairs are looked at. Whether a looked-at pair is an edge is exact: float32 products of tiles
nominate, the float64 dot product, rounded to 6 decimals, decides. For rows stored as float16 that product is exact in
float64 (multiples of 2^-48 below 2), so edges do not depend on tiles, order, BLAS or thread count.

Vectors are unit rows (float16 or float32, (n, d)); a norm off by more than 1 % raises ValueError. Row ids are uint64.
The recipe (k-means pre-clustering, threshold on cosine, connected components) follows Llama 3 (arXiv:2407.21783) and
SSCD (arXiv:2202.10261); margin, probes and sample sizes are ours.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from filters.dedup import components
from infra.hashing import digest, mix64

Ids = NDArray[np.uint64]
Vectors = NDArray[Any]

#: Up to here one cell holds everything: the search is then exact and takes less time than training would.
ONE_CELL = 4096
#: float32 products this far below the threshold are still checked; their rounding error is under 1e-4.
SLACK = 1e-3
#: Rows in a block of `nearest_cells`; fixed, so that a row's result does not depend on how many rows came with it.
BLOCK = 1024
#: Scores in a tile of the search: 4 MB of float32, which stays in a core's cache.
TILE = 1 << 20
#: Pairs that wait before they are joined.
PENDING = 1 << 20


class Edges(NamedTuple):
    """Pairs of rows, a < b, ascending by (a, b), each once. similarity: float64, cosine rounded to 6 decimals."""

    a: Ids
    b: Ids
    similarity: NDArray[np.float64]


class VectorTable(NamedTuple):
    """Vectors with their names and cells.

    vectors: (n, d); ids: uint64 (n,), each once; cells: int32 (n, p) as `nearest_cells` returns them.
    """

    vectors: Vectors
    ids: Ids
    cells: NDArray[np.int32]


def cluster_count(n: int) -> int:
    """How many cells n vectors are cut into: one up to ONE_CELL vectors, else the power of two nearest to √n."""
    return 1 if n <= ONE_CELL else int(2 ** round(np.log2(np.sqrt(n))))


def sample_size(k: int) -> int:
    """How many vectors k centroids are trained and calibrated on."""
    return 64 * k


def row_draws(ids: Ids, seed: int, purpose: str) -> Ids:
    """uint64 (n,): one uniform draw a row, a function of (seed, id, purpose)."""
    start = int.from_bytes(digest(str(seed).encode(), purpose.encode(), size=8), "little")
    return mix64(mix64(ids ^ np.uint64(start)) + np.uint64(start))


def sample_rows(ids: Ids, size: int, seed: int) -> NDArray[np.int64]:
    """int64 (min(n, size),), ascending by id: positions of the rows of smallest draw.

    The smallest of all are among the smallest of each part, so parts can be sampled first and their samples sampled.
    """
    order = np.lexsort((ids, row_draws(ids, seed, "duplicates.sample")))[:size]
    chosen: NDArray[np.int64] = order[np.argsort(ids[order])]
    return chosen


def train_centroids(sample: Vectors, k: int, *, seed: int, iterations: int = 10) -> NDArray[np.float32]:
    """float32 (k, d), unit rows: spherical k-means (FAISS, one thread) over the sample.

    A function of the sample's rows, in their order, and of the arguments. k = 1 asks for no training.
    Raises ValueError when the sample has fewer rows than k.
    """
    rows = _unit(sample)
    if len(rows) < k:
        raise ValueError(f"{k} centroids cannot be trained on {len(rows)} rows")
    if k == 1:
        centre = rows.sum(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(centre))
        only: NDArray[np.float32] = (centre / length if length > 0 else rows[0]).astype(np.float32).reshape(1, -1)
        return only
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        means = faiss.Kmeans(
            rows.shape[1],
            k,
            niter=iterations,
            spherical=True,
            seed=seed % (1 << 31),
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),
        )
        means.train(rows)
    finally:
        faiss.omp_set_num_threads(threads)
    centroids: NDArray[np.float32] = np.ascontiguousarray(means.centroids, dtype=np.float32).reshape(k, -1)
    return centroids


def split_sample(sample: Vectors) -> tuple[Vectors, Vectors]:
    """(for training, for calibration): every sixteenth row is kept away from training.

    A centroid is drawn towards the very rows it was trained on, and pairs made from those would meet too easily.
    """
    held = np.zeros(len(sample), dtype=bool)
    held[::16] = True
    return sample[~held], sample[held]


def probe_margin(
    held: Vectors, centroids: NDArray[np.float32], threshold: float, *, recall: float = 0.99, pairs: int = 8192
) -> float:
    """How much further than its home a cell may be, for a vector to be searched in it too.

    Makes `pairs` near-duplicates whose cosine is the threshold, each by turning one held row towards another (so that
    the difference between the two lies where the data itself varies), and takes the smallest margin at which the share
    `recall` of them would meet in a cell. Pairs above the threshold meet more often. 0 for one cell or under two rows.
    """
    rows = _unit(held)
    if len(centroids) == 1 or len(rows) < 2:
        return 0.0
    turn = np.float32(np.sqrt(1.0 - threshold**2))
    mine = np.arange(len(rows))
    gaps = []
    rounds = min(len(rows) - 1, -(-pairs // len(rows)))
    near = rows @ centroids.T
    home = near.argmax(axis=1)
    for step in range(1, rounds + 1):
        away = np.roll(rows, step, axis=0)
        away = away - np.einsum("ij,ij->i", away, rows)[:, None] * rows
        length = np.linalg.norm(away, axis=1)
        some = length > 1e-3  # copies of one picture point nowhere
        twin = np.float32(threshold) * rows[some] + turn * away[some] / length[some, None]
        twin_near = twin @ centroids.T
        twin_home = twin_near.argmax(axis=1)
        there = near[mine[some], home[some]] - near[mine[some], twin_home]
        back = twin_near.max(axis=1) - twin_near[np.arange(len(twin)), home[some]]
        gaps.append(np.minimum(there, back))
    measured = np.sort(np.concatenate(gaps))
    if len(measured) == 0:
        return 0.0
    return float(measured[min(len(measured) - 1, int(np.ceil(recall * len(measured))) - 1)])


def nearest_cells(
    vectors: Vectors, centroids: NDArray[np.float32], probes: int = 4, *, margin: float = 0.0, most: int = 64
) -> NDArray[np.int32]:
    """The cells in which each vector is searched, nearest first: its home, then its probes.

    Always the nearest `probes`, further ones while their cosine is at most `margin` below the home's, `most` in all.
    Returns int32 (n, p), -1 where a row has fewer than p cells; p = min(most, k), or `probes` where margin is 0.
    """
    rows = _unit(vectors)
    k = len(centroids)
    width = min(k, max(probes, most) if margin > 0 else probes)
    cells = np.full((len(rows), width), -1, dtype=np.int32)
    block = np.zeros((BLOCK, rows.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        block[: len(part)] = part
        block[len(part) :] = 0
        near = block @ centroids.T
        if width < k:
            best = np.sort(np.argpartition(-near, width - 1, axis=1)[:, :width], axis=1)
        else:
            best = np.broadcast_to(np.arange(k), near.shape)
        score = np.take_along_axis(near, best, axis=1)
        order = np.argsort(-score, axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        score = np.take_along_axis(score, order, axis=1)
        probed = (score >= score[:, :1] - np.float32(margin)) | (np.arange(width) < probes)
        cells[start : start + BLOCK] = np.where(probed, best, -1)[: len(part)]
    return cells


def search_cell(
    base_vectors: Vectors,
    base_ids: Ids,
    query_vectors: Vectors,
    query_ids: Ids,
    threshold: float,
    *,
    shift: int = 0,
    tile: int = TILE,
) -> Edges:
    """Every pair of a base row and a query row whose cosine is at least the threshold.

    Rows of the same id, or whose ids agree after dropping the lowest `shift` bits (the frames of one video), are never
    a pair. `tile` (scores held at once) changes memory and speed only.
    """
    one = np.zeros((1, 1), dtype=np.int32)
    base = VectorTable(base_vectors, base_ids, np.broadcast_to(one, (len(base_ids), 1)))
    queries = VectorTable(query_vectors, query_ids, np.broadcast_to(one, (len(query_ids), 1)))
    return collect(search_cells(base, queries, threshold, shift=shift, tile=tile))


def collect(parts: Iterator[Edges]) -> Edges:
    """All edges of `parts`, in order and each once."""
    found = list(parts)
    if not found:
        return Edges(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.float64))
    a, b, similarity = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((b, a))
    a, b, similarity = a[order], b[order], similarity[order]
    new = np.r_[True, (np.diff(a) != 0) | (np.diff(b) != 0)][: len(a)]
    return Edges(a[new], b[new], similarity[new])


def search_cells(
    base: VectorTable, queries: VectorTable, threshold: float, *, shift: int = 0, tile: int = TILE
) -> Iterator[Edges]:
    """Every pair over the threshold of a base row and a query row that probes the base row's home cell.

    For those who need each pair (frames of videos). Yields edges in parts that fit in memory; a pair that meets in two
    cells comes twice, and `collect` puts it right. Base rows live in cells[:, 0]; query rows are searched in all of
    their cells, of which those without base rows here are passed over: a partition of cells gets its base rows and
    all rows that probe it, in blocks if need be. `shift` as in `search_cell`.
    """
    floor = _rounded(threshold)
    left, right = _unit(base.vectors), _unit(queries.vectors)
    for i, j, _ in _candidates(left, base.cells, right, queries.cells, threshold - SLACK, tile):
        a, b = base.ids[i], queries.ids[j]
        apart = (a >> np.uint64(shift)) != (b >> np.uint64(shift))
        i, j, a, b = i[apart], j[apart], a[apart], b[apart]
        similarity = _cosines(left, i, right, j)
        edge = similarity >= floor
        yield Edges(np.minimum(a, b)[edge], np.maximum(a, b)[edge], similarity[edge])


def link_cells(base: VectorTable, queries: VectorTable, threshold: float, *, tile: int = TILE) -> tuple[Ids, Ids]:
    """The components of `search_cells`' edges, as a forest (`components.spanning_forest`), never as an edge list.

    For those who need to know only what belongs together (images). Identical vectors are joined before the search, a
    pair clearly over the threshold or already joined is not measured again: a cell of a million copies stays small.
    """
    floor = _rounded(threshold)
    ids = np.unique(np.concatenate([base.ids, queries.ids]))
    groups = _Groups(len(ids))
    sides = []
    for rows in [base] if base is queries else [base, queries]:
        vectors, node = _unit(rows.vectors), np.searchsorted(ids, rows.ids)
        first = _identical(vectors, node)
        groups.join(node, node[first])
        alone = np.flatnonzero(first == np.arange(len(first)))
        sides.append((vectors[alone] if len(alone) < len(first) else vectors, node[alone], rows.cells[alone]))
    (left, left_node, left_cells), (right, right_node, right_cells) = sides[0], sides[-1]
    for i, j, score in _candidates(left, left_cells, right, right_cells, threshold - SLACK, tile):
        a, b = left_node[i], right_node[j]
        apart = groups.apart(a, b)
        i, j, a, b, score = i[apart], j[apart], a[apart], b[apart], score[apart]
        sure = score >= threshold + SLACK
        groups.join(a[sure], b[sure])
        close = np.flatnonzero(~sure)
        if len(close):
            close = close[groups.apart(a[close], b[close])]
            edge = _cosines(left, i[close], right, j[close]) >= floor
            groups.join(a[close[edge]], b[close[edge]])
    root = groups.roots()
    member = np.flatnonzero(root != np.arange(len(ids)))
    return ids[root[member]], ids[member]


def find_edges(
    vectors: Vectors,
    ids: Ids,
    threshold: float,
    *,
    seed: int,
    probes: int = 4,
    recall: float = 0.99,
    most: int = 64,
) -> tuple[Ids, Ids]:
    """Duplicate groups of vectors that fit in memory, as a forest: the whole flow of the module docstring in one call.

    vectors (n, d), ids uint64 (n,), each once. Exact up to ONE_CELL rows; above, pairs are missed as `recall` says.
    """
    k = cluster_count(len(ids))
    if len(ids) < 2:
        return np.zeros(0, np.uint64), np.zeros(0, np.uint64)
    order = np.argsort(ids)
    rows = _unit(vectors[order])
    ids = ids[order]
    sample = rows[sample_rows(ids, sample_size(k), seed)]
    train, held = split_sample(sample) if k > 1 else (sample, sample[:0])
    centroids = train_centroids(train, k, seed=seed)
    margin = probe_margin(held, centroids, threshold, recall=recall)
    everything = VectorTable(rows, ids, nearest_cells(rows, centroids, probes, margin=margin, most=most))
    return link_cells(everything, everything, threshold)


def found_share(vectors: Vectors, ids: Ids, forest: tuple[Ids, Ids], threshold: float) -> tuple[int, int]:
    """What cells cost, checked on real rows: (pairs over the threshold among these rows, how many `forest` joins).

    All pairs of the rows given (some thousands) are compared; `forest` is that of the whole search.
    """
    edges = search_cell(vectors, ids, vectors, ids, threshold)
    return len(edges.a), int(components.joined(edges.a, edges.b, forest).sum())


class _Groups:
    """Which of n nodes belong together so far. Joins are put off until enough of them wait."""

    def __init__(self, n: int) -> None:
        self._root = np.arange(n)
        self._left: list[NDArray[np.int64]] = []
        self._right: list[NDArray[np.int64]] = []
        self._waiting = 0

    def join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        self._left.append(a)
        self._right.append(b)
        self._waiting += len(a)
        if self._waiting > PENDING:
            self.roots()

    def apart(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """False where a and b are known to belong together."""
        different: NDArray[np.bool_] = self._root[a] != self._root[b]
        return different

    def roots(self) -> NDArray[np.int64]:
        """int64 (n,): the smallest node of each node's group."""
        if self._waiting:
            left = self._root[np.concatenate(self._left)]
            right = self._root[np.concatenate(self._right)]
            self._root = components.connected(left, right, len(self._root))[self._root]
            self._left, self._right, self._waiting = [], [], 0
        return self._root


def _candidates(
    left: NDArray[np.float32],
    left_cells: NDArray[np.int32],
    right: NDArray[np.float32],
    right_cells: NDArray[np.int32],
    floor: float,
    tile: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
    """(i, j, float32 product) of the pairs whose product is at least `floor`, where j probes the home cell of i.

    A product is the product of the first places (heads) plus at most that of the lengths of the rest (Cauchy-Schwarz).
    Where vectors are spread evenly, half of the places show of nearly all rows that no member of the cell can be near:
    little more than half of the work, and nothing is lost. Where they do not show it, whole products are taken.
    """
    if len(left) == 0 or len(right) == 0:
        return
    home = left_cells[:, 0]
    here = np.argsort(home, kind="stable")
    cells, starts = np.unique(home[here], return_index=True)
    ends = np.r_[starts[1:], len(here)]
    count = int(max(cells[-1], right_cells.max())) + 1
    known = np.zeros(count + 1, dtype=np.bool_)  # one more place, for -1
    known[cells] = True
    flat = right_cells.ravel()
    entries = np.flatnonzero(known[flat])
    visited = flat[entries].astype(np.int16 if count < 1 << 15 else np.int32)  # numpy sorts 16 bits in linear time
    order = np.argsort(visited, kind="stable")
    entries, visited = entries[order], visited[order]
    bounds = np.searchsorted(visited, np.stack([cells, cells + 1]).astype(np.int32))
    visitors = entries // right_cells.shape[1]
    head = left.shape[1] // 2
    buffer = np.empty(max(tile, 1), dtype=np.float32)
    for start, end, begin, stop in zip(starts, ends, *bounds, strict=True):
        for i in _steps(here[start:end], max(1, min(2048, tile))):
            members = left[i]
            reach = _length(members[:, head:]).max()
            short = True  # whether the heads alone have ruled out most rows so far
            for j in _steps(visitors[begin:stop], max(1, tile // len(i))):
                scores = buffer[: len(j) * len(i)].reshape(len(j), len(i))
                queries = right[j]
                if short:
                    np.matmul(queries[:, :head], members[:, :head].T, out=scores)
                    hot = np.flatnonzero(scores.max(axis=1) + reach * _length(queries[:, head:]) >= floor)
                    short = len(hot) < len(j) / 4
                    near = scores[hot] + queries[hot, head:] @ members[:, head:].T
                else:
                    np.matmul(queries, members.T, out=scores)
                    hot = np.flatnonzero(scores.max(axis=1) >= floor)
                    near = scores[hot]
                row, column = np.nonzero(near >= floor)
                if len(row):
                    yield i[column], j[hot[row]], near[row, column]


def _length(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    length: NDArray[np.float32] = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return length


def _steps(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _cosines(
    left: NDArray[np.float32], i: NDArray[np.int64], right: NDArray[np.float32], j: NDArray[np.int64]
) -> NDArray[np.float64]:
    """float64 (m,): left[i] · right[j], rounded to 6 decimals."""
    out = np.empty(len(i), dtype=np.float64)
    for start in range(0, len(i), 4096):
        part = slice(start, start + 4096)
        out[part] = np.einsum("ij,ij->i", left[i[part]].astype(np.float64), right[j[part]].astype(np.float64))
    rounded: NDArray[np.float64] = _rounded(out)
    return rounded


def _rounded(value: Any) -> Any:
    return np.round(value, 6)


def _identical(vectors: NDArray[np.float32], node: NDArray[np.int64]) -> NDArray[np.int64]:
    """int64 (n,): for each row the row of smallest node that is the same, bit by bit.

    Rows are grouped by a 64-bit sum of their words times fixed odd numbers and then compared; a collision costs only
    that two equal rows are found by the search instead.
    """
    n = len(vectors)
    first = np.arange(n)
    if n < 2:
        return first
    words = np.ascontiguousarray(vectors).view(np.uint32)
    weights = row_draws(np.arange(words.shape[1], dtype=np.uint64), 0, "duplicates.identical") | np.uint64(1)
    sums = np.empty(n, dtype=np.uint64)
    for start in range(0, n, BLOCK):
        part = slice(start, start + BLOCK)
        sums[part] = (words[part] * weights).sum(axis=1, dtype=np.uint64)
    order = np.lexsort((node, sums))
    starts = np.flatnonzero(np.r_[True, np.diff(sums[order]) != 0])
    head = np.repeat(order[starts], np.diff(np.r_[starts, n]))
    again = np.flatnonzero(head != order)
    for some in _steps(again, BLOCK):
        same = (words[head[some]] == words[order[some]]).all(axis=1)
        first[order[some[same]]] = head[some[same]]
    return first


def _unit(vectors: Vectors) -> NDArray[np.float32]:
    """`vectors` as contiguous float32; ValueError unless all rows are finite and of length one."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2:
        raise ValueError(f"vectors must have the shape (n, d), not {rows.shape}")
    length = np.einsum("ij,ij->i", rows, rows)
    if not bool((np.abs(length - 1.0) < 0.02).all()):  # NaN fails this too
        raise ValueError(f"row {int(np.argmin(np.abs(length - 1.0) < 0.02))} of the vectors is not of unit length")
    return rows
