"""Cells of vectors: k-means over a sample, and the cells in which each vector is searched.

Comparing all pairs of n vectors costs n². So k-means over a sample cuts the space into k ≈ √n cells. A vector belongs
to its home cell, and is also searched in every cell whose centroid is nearly as close as its home's. The allowed
difference (the `margin`) is measured: near-duplicates exactly at the threshold are generated from rows of the sample,
and the margin is the smallest at which the required share of them meet in a cell. Clustered vectors then need hardly
more than one cell each; vectors spread evenly over the sphere need more.

Vectors are unit rows (float16 or float32, (n, d)); a norm off by more than 1 % raises ValueError. Row ids are uint64.
The recipe (k-means pre-clustering, threshold on cosine, connected components) follows Llama 3 (arXiv:2407.21783) and
SSCD (arXiv:2202.10261); margin, probes and sample sizes are ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.hashing import digest, mix64

Ids = NDArray[np.uint64]
Vectors = NDArray[Any]

#: Up to this number of vectors there is one cell: the search is exact and takes less time than training would.
ONE_CELL = 4096
#: Rows per block of `nearest_cells`; fixed, so that a row's cells do not depend on the number of rows beside it.
BLOCK = 1024


def cluster_count(n: int) -> int:
    """Number of cells for n vectors: one up to ONE_CELL vectors, else the power of two nearest to √n."""
    return 1 if n <= ONE_CELL else int(2 ** round(np.log2(np.sqrt(n))))


def sample_size(k: int) -> int:
    """Number of vectors that k centroids are trained and calibrated on."""
    return 64 * k


def draw_rows(ids: Ids, seed: int, purpose: str) -> Ids:
    """uint64 (n,): one uniform draw per row, a function of (seed, id, purpose)."""
    start = np.uint64(int.from_bytes(digest(str(seed).encode(), purpose.encode(), size=8), "little"))
    return mix64(mix64(ids ^ start) + start)


def sample_rows(ids: Ids, size: int, seed: int) -> NDArray[np.int64]:
    """int64 (min(n, size),), ascending by id: positions of the rows with the smallest draws.

    The smallest draws of all rows are among the smallest of each subset, so samples of subsets can be sampled again.
    """
    order = np.lexsort((ids, draw_rows(ids, seed, "duplicates.sample")))[:size]
    positions: NDArray[np.int64] = order[np.argsort(ids[order])]
    return positions


def train_cells(
    sample: Vectors, k: int, threshold: float, *, seed: int, recall: float = 0.99
) -> tuple[NDArray[np.float32], float]:
    """(centroids float32 (k, d), margin) from one sample: most of its rows train, the others calibrate."""
    training, calibration = split_sample(sample) if k > 1 else (sample, sample[:0])
    centroids = train_centroids(training, k, seed=seed)
    return centroids, probe_margin(calibration, centroids, threshold, recall=recall)


def split_sample(sample: Vectors) -> tuple[Vectors, Vectors]:
    """(training rows, calibration rows): every sixteenth row is excluded from training.

    Centroids are biased towards the rows they were trained on, so pairs generated from those would meet too easily.
    """
    calibrates = np.zeros(len(sample), dtype=bool)
    calibrates[::16] = True
    return sample[~calibrates], sample[calibrates]


def train_centroids(sample: Vectors, k: int, *, seed: int, iterations: int = 10) -> NDArray[np.float32]:
    """float32 (k, d), unit rows: spherical k-means (FAISS, one thread) over the sample.

    A function of the sample's rows, in their order, and of the arguments. k = 1 needs no training.
    Raises ValueError when the sample has fewer rows than k.
    """
    rows = to_unit_rows(sample)
    if len(rows) < k:
        raise ValueError(f"{k} centroids cannot be trained on {len(rows)} rows")
    if k == 1:
        centre = rows.sum(axis=0, dtype=np.float64)
        length = float(np.linalg.norm(centre))
        centroid: NDArray[np.float32] = (centre / length if length > 0 else rows[0]).astype(np.float32).reshape(1, -1)
        return centroid
    import faiss

    # Threads: OpenMP keeps this number for each thread by itself, so that others are not disturbed.
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # threads: as above
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
        faiss.omp_set_num_threads(threads)  # threads: as above
    centroids: NDArray[np.float32] = np.ascontiguousarray(means.centroids, dtype=np.float32).reshape(k, -1)
    return centroids


def probe_margin(
    calibration: Vectors, centroids: NDArray[np.float32], threshold: float, *, recall: float = 0.99, pairs: int = 8192
) -> float:
    """The difference in cosine to the home cell up to which a vector must be searched in a further cell.

    Generates `pairs` near-duplicates whose cosine is the threshold, each by rotating a calibration row towards another
    (so that they differ in directions in which the sample varies), and returns the smallest margin at which the share
    `recall` of them would meet in a cell. Pairs above the threshold meet more often. 0 for one cell or under two rows.
    """
    rows = to_unit_rows(calibration)
    if len(centroids) == 1 or len(rows) < 2:
        return 0.0
    sine = np.float32(np.sqrt(1.0 - threshold**2))
    positions = np.arange(len(rows))
    gaps = []
    near = rows @ centroids.T
    home = near.argmax(axis=1)
    for step in range(1, min(len(rows) - 1, -(-pairs // len(rows))) + 1):
        away = np.roll(rows, step, axis=0)
        away = away - np.einsum("ij,ij->i", away, rows)[:, None] * rows
        length = np.linalg.norm(away, axis=1)
        distinct = length > 1e-3  # two copies of one picture give no direction
        twin = np.float32(threshold) * rows[distinct] + sine * away[distinct] / length[distinct, None]
        twin_near = twin @ centroids.T
        twin_home = twin_near.argmax(axis=1)
        to_twin = near[positions[distinct], home[distinct]] - near[positions[distinct], twin_home]
        from_twin = twin_near.max(axis=1) - twin_near[np.arange(len(twin)), home[distinct]]
        gaps.append(np.minimum(to_twin, from_twin))
    ascending = np.sort(np.concatenate(gaps))
    if len(ascending) == 0:
        return 0.0
    return float(ascending[min(len(ascending) - 1, int(np.ceil(recall * len(ascending))) - 1)])


def nearest_cells(
    vectors: Vectors, centroids: NDArray[np.float32], probes: int = 4, *, margin: float = 0.0, most: int = 64
) -> NDArray[np.int32]:
    """Find the cells in which each vector is searched, nearest first: its home, then its probes.

    Always the nearest `probes`, further ones while their cosine is at most `margin` below the home's, `most` in all.
    Returns int32 (n, p), -1 where a row has fewer than p cells; p = min(most, k), or `probes` where margin is 0.
    """
    rows = to_unit_rows(vectors)
    k = len(centroids)
    width = min(k, max(probes, most) if margin > 0 else probes)
    cells = np.full((len(rows), width), -1, dtype=np.int32)
    block = np.zeros((BLOCK, rows.shape[1]), dtype=np.float32)
    for start in range(0, len(rows), BLOCK):
        count = min(BLOCK, len(rows) - start)
        block[:count] = rows[start : start + count]
        block[count:] = 0
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
        cells[start : start + count] = np.where(probed, best, -1)[:count]
    return cells


def to_unit_rows(vectors: Vectors) -> NDArray[np.float32]:
    """`vectors` as contiguous float32; ValueError unless all rows are finite and of length one."""
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    if rows.ndim != 2:
        raise ValueError(f"vectors must have the shape (n, d), not {rows.shape}")
    length = np.einsum("ij,ij->i", rows, rows)
    if not bool((np.abs(length - 1.0) < 0.02).all()):  # NaN fails this too
        raise ValueError(f"row {int(np.argmin(np.abs(length - 1.0) < 0.02))} of the vectors is not of unit length")
    return rows
