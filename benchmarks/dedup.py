"""Compare the duplicate search with brute force: share of true pairs that end in one component, and share of the time.

    python -m benchmarks.dedup --n 200000

Two data sets of n unit rows in 512 dimensions, stored as float16, both made from a fixed seed:
    clustered   rows around 500 random topics, cosine about 0.45 (below 0.6) within a topic
    isotropic   rows spread evenly over the sphere: the worst case for cells
A tenth of the rows (20,000 pairs at n = 200,000) are planted near-duplicates: another row turned in a random direction
to a cosine drawn uniformly from [threshold, 0.99]. Float16 moves a few just below the threshold; those are no pairs.

Ours is `filters.dedup.vectors.find_edges` as the pipeline composes it: sample, training, calibration, assignment,
search
and forest; all of it is timed. Brute force is FAISS IndexFlatIP.range_search of 10,000 rows drawn from all against all
rows (half of them before ours, half after), its time scaled to n. Both run on one thread and are compared in CPU
seconds of the process; wall seconds are printed too.

Recall counts the edges of brute force: all planted pairs that are over the threshold by exact arithmetic, and whatever
the 10,000 exact searches found besides (nothing, where the generator is as claimed; printed).
"""

# ruff: noqa: E402 (the number of threads must be set before numpy is loaded)
from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_name] = "1"  # read by the libraries when they load

import argparse
import json
import time
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from filters.dedup import components
from filters.dedup import vectors as duplicates

DIMENSIONS = 512
TOPICS = 500
WITHIN_TOPIC = 0.45
THRESHOLD = 0.75
QUERIES = 10_000


class PlantedVectors(NamedTuple):
    """vectors: float16 (n, 512). pairs: int64 (m, 2), rows that were planted as near-duplicates."""

    vectors: NDArray[np.float16]
    pairs: NDArray[np.int64]


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def generate(kind: str, n: int, seed: int) -> PlantedVectors:
    """The data set `kind` of n rows; row order is shuffled, so a pair's rows may be anywhere."""
    rng = np.random.default_rng(seed)
    twins = n // 10
    rows = unit(rng.standard_normal((n - twins, DIMENSIONS), dtype=np.float32))
    if kind == "clustered":
        topics = unit(rng.standard_normal((TOPICS, DIMENSIONS), dtype=np.float32))
        own = topics[rng.integers(0, TOPICS, len(rows))]
        away = unit(rows - np.einsum("ij,ij->i", rows, own)[:, None] * own)
        rows = np.float32(np.sqrt(WITHIN_TOPIC)) * own + np.float32(np.sqrt(1 - WITHIN_TOPIC)) * away
    first = rows[:twins]
    cosine = rng.uniform(THRESHOLD, 0.99, (twins, 1)).astype(np.float32)
    away = rng.standard_normal((twins, DIMENSIONS), dtype=np.float32)
    away = unit(away - np.einsum("ij,ij->i", away, first)[:, None] * first)
    vectors = np.concatenate([rows, cosine * first + np.sqrt(1 - cosine**2) * away]).astype(np.float16)
    positions = rng.permutation(n)
    shuffled = np.empty_like(vectors)
    shuffled[positions] = vectors
    return PlantedVectors(shuffled, np.stack([positions[:twins], positions[n - twins :]], axis=1))


def brute_force(vectors: NDArray[np.float32], queries: NDArray[np.int64]) -> tuple[float, float, NDArray[np.int64]]:
    """(CPU seconds, wall seconds, int64 (m, 2) row pairs) of an exact search of `queries` against all rows."""
    import faiss

    faiss.omp_set_num_threads(1)
    cpu, wall = time.process_time(), time.perf_counter()
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    limits, _, edges = index.range_search(vectors[queries], THRESHOLD)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    counts = limits[1:].astype(np.int64) - limits[:-1].astype(np.int64)
    pairs = np.stack([np.repeat(queries, counts), edges.astype(np.int64)], axis=1)
    return cpu, wall, pairs[pairs[:, 0] != pairs[:, 1]]


def true_edges(vectors_: PlantedVectors, edges: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """(int64 (m, 2), each pair over the threshold by exact arithmetic once; how many of them were not planted)."""
    pairs = np.unique(np.sort(np.concatenate([vectors_.pairs, edges]), axis=1), axis=0)
    remaining, right = (vectors_.vectors[side].astype(np.float64) for side in pairs.T)
    pairs = pairs[np.round(np.einsum("ij,ij->i", remaining, right), 6) >= THRESHOLD]
    planted = set(map(tuple, np.sort(vectors_.pairs, axis=1).tolist()))
    return pairs, sum(tuple(pair) not in planted for pair in pairs.tolist())


def measure(kind: str, n: int, seed: int) -> dict[str, Any]:
    """Search one data set both ways; returns the figures."""
    vectors_ = generate(kind, n, seed)
    wide = vectors_.vectors.astype(np.float32)
    ids = np.arange(n, dtype=np.uint64)
    queries = np.random.default_rng(seed + 1).permutation(n)[: min(QUERIES, n)]
    half = len(queries) // 2
    before = brute_force(wide, queries[:half])
    cpu, wall = time.process_time(), time.perf_counter()
    a, b = duplicates.find_edges(vectors_.vectors, ids, THRESHOLD, seed=seed)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    after = brute_force(wide, queries[half:])
    brute_cpu, brute_wall = ((x + y) * n / len(queries) for x, y in zip(before[:2], after[:2], strict=True))

    edges, unplanted = true_edges(vectors_, np.concatenate([before[2], after[2]]))
    together = components.are_connected(ids[edges[:, 0]], ids[edges[:, 1]], (a, b))
    return {
        "recall": round(float(together.mean()), 6),
        "time_ratio": round(cpu / brute_cpu, 6),
        "wall_ratio": round(wall / brute_wall, 6),
        "cpu_s": round(cpu, 2),
        "brute_cpu_s": round(brute_cpu, 2),
        "wall_s": round(wall, 2),
        "brute_wall_s": round(brute_wall, 2),
        "edges": len(edges),
        "edges_not_planted": unplanted,
        "component_sizes": components.count_sizes(components.list_members(a, b)[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=200_000, help="rows in each data set (default 200000)")
    parser.add_argument("--seed", type=int, default=1, help="of the generators and of the search (default 1)")
    options = parser.parse_args()
    summary = {}
    for kind in ("clustered", "isotropic"):
        figures = measure(kind, options.n, options.seed)
        print(
            f"{kind} {options.n} x {DIMENSIONS}, threshold {THRESHOLD}: {json.dumps(figures, sort_keys=True)}",
            flush=True,
        )
        summary[f"{kind}_recall"] = figures["recall"]
        summary[f"{kind}_time_ratio"] = figures["time_ratio"]
    print(json.dumps(summary, sort_keys=True))


if __name__ == "__main__":
    main()
