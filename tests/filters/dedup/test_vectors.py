"""Duplicate search against all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.dedup import cells as dedup_cells
from filters.dedup import components
from filters.dedup import vectors as dedup
from filters.dedup.vectors import Edges, VectorTable

THRESHOLD = 0.75


def normalise(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def make_crowded_rows(n, d, seed):
    """Unit rows with many pairs on either side of the threshold, some identical."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 6), d))
    rows = centres[rng.integers(0, len(centres), n)] + rng.standard_normal((n, d)) * rng.uniform(0, 0.7, (n, 1))
    rows[rng.integers(0, n, n // 8)] = rows[rng.integers(0, n, n // 8)]
    return normalise(rows)


def make_row_ids(n, seed):
    """Row ids as the pipeline makes them (unit << 32 | row), in no order."""
    return np.random.default_rng(seed).permutation(n).astype(np.uint64) * np.uint64((1 << 32) + 1)


def all_pairs(vectors, ids, threshold, shift=0):
    """{(a, b): cosine}, by the definition."""
    wide = vectors.astype(np.float64)
    cosines = np.round(wide @ wide.T, 6)
    cosine_of = {}
    for i, j in zip(*np.nonzero(cosines >= threshold), strict=True):
        a, b = int(ids[i]), int(ids[j])
        if a < b and a >> shift != b >> shift:
            cosine_of[a, b] = float(cosines[i, j])
    return cosine_of


def as_dict(edges):
    return dict(zip(zip(edges.a.tolist(), edges.b.tolist(), strict=True), edges.similarity.tolist(), strict=True))


def forest_of(pairs):
    table = np.array(sorted(pairs), dtype=np.uint64).reshape(-1, 2)
    return components.build_forest(table[:, 0], table[:, 1])


def one_cell(vectors, ids):
    return VectorTable(vectors, ids, np.zeros((len(ids), 1), dtype=np.int32))


def join_edges(blocks):
    """All edges, ascending by (a, b), each once."""
    none = Edges(np.zeros(0, np.uint64), np.zeros(0, np.uint64), np.zeros(0, np.float64))
    a, b, similarity = (np.concatenate(column) for column in zip(none, *blocks, strict=True))
    order = np.lexsort((b, a))
    a, b, similarity = a[order], b[order], similarity[order]
    first = np.r_[True, (np.diff(a) != 0) | (np.diff(b) != 0)][: len(a)]
    return Edges(a[first], b[first], similarity[first])


def search_cell(vectors, ids, threshold, **options):
    """All pairs over the threshold, in one cell."""
    rows = one_cell(vectors, ids)
    return join_edges(dedup.search_cells(rows, rows, threshold, **options))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.sampled_from([3, 8, 32]), st.integers(0, 10**6), st.sampled_from([1, 7, 100, 1 << 20]))
def test_search_finds_exactly_the_pairs_over_the_threshold(n, d, seed, tile):
    vectors, ids = make_crowded_rows(n, d, seed), make_row_ids(n, seed)
    edges = search_cell(vectors, ids, THRESHOLD, tile=tile)
    assert as_dict(edges) == all_pairs(vectors, ids, THRESHOLD)
    assert list(as_dict(edges)) == sorted(as_dict(edges))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.sampled_from([3, 8, 32]), st.integers(0, 10**6), st.sampled_from([1, 7, 100, 1 << 20]))
def test_links_are_the_components_of_all_pairs(n, d, seed, tile):
    vectors, ids = make_crowded_rows(n, d, seed), make_row_ids(n, seed)
    expected = forest_of(all_pairs(vectors, ids, THRESHOLD))
    rows = one_cell(vectors, ids)
    assert np.array_equal(dedup.link_cells(rows, rows, THRESHOLD, tile=tile), expected)
    half = n // 2
    query_blocks = [one_cell(vectors[:half], ids[:half]), one_cell(vectors[half:], ids[half:])]
    forest = components.Forest()
    for queries in query_blocks:  # queries in blocks, as from files
        forest.add(*dedup.link_cells(rows, queries, THRESHOLD, tile=tile))
    assert np.array_equal(forest.reduce(), expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 80), st.integers(0, 10**6), st.integers(1, 4))
def test_pairs_are_compared_exactly_when_they_share_a_probed_cell(n, seed, probes):
    """A pair is compared if and only if one of the two probes the home of the other; partitions add up."""
    vectors, ids = make_crowded_rows(n, 8, seed), make_row_ids(n, seed)
    centroids = normalise(np.random.default_rng(seed).standard_normal((7, 8))).astype(np.float32)
    cells = dedup_cells.nearest_cells(vectors, centroids, probes)
    row_of = {int(name): row for row, name in enumerate(ids)}

    def share_cell(a, b):
        a, b = cells[row_of[a]], cells[row_of[b]]
        return a[0] in b or b[0] in a

    expected = {pair: cosine for pair, cosine in all_pairs(vectors, ids, THRESHOLD).items() if share_cell(*pair)}
    rows = VectorTable(vectors, ids, cells)
    assert as_dict(join_edges(dedup.search_cells(rows, rows, THRESHOLD))) == expected
    forest = components.Forest()
    for partition in range(3):
        base = cells[:, 0] % 3 == partition
        query = ((cells % 3 == partition) & (cells >= 0)).any(axis=1)
        base_and_queries = [VectorTable(vectors[some], ids[some], cells[some]) for some in (base, query)]
        forest.add(*dedup.link_cells(*base_and_queries, THRESHOLD))
    # identical vectors in one partition are joined whatever their home cells
    same = {pair for pair, cosine in all_pairs(vectors, ids, 0.99).items()
            if (vectors[row_of[pair[0]]] == vectors[row_of[pair[1]]]).all()}  # fmt: skip
    assert np.array_equal(forest.reduce(), forest_of(set(expected) | same))


def test_equal_to_the_threshold_is_an_edge_and_just_below_is_not():
    step = 2.0**-11
    vectors = np.zeros((4, 4), dtype=np.float16)
    vectors[:, 0] = [1.0, 0.75, 0.75 - step, 0.75 + step]
    vectors[1:, 1:] = np.diag(np.sqrt(1 - vectors[1:, 0].astype(float) ** 2))
    ids = np.arange(4, dtype=np.uint64)
    assert [(a, b) for a, b in as_dict(search_cell(vectors, ids, 0.75)) if a == 0] == [
        (0, 1),
        (0, 3),
    ]
    rows = one_cell(vectors[:3], ids[:3])
    assert [side.tolist() for side in dedup.link_cells(rows, rows, 0.75)] == [[0], [1]]


def test_rounding_to_six_decimals_comes_before_the_comparison():
    near = np.array([[1.0, 0.0], [0.8999997, np.sqrt(1 - 0.8999997**2)], [0.8999993, -np.sqrt(1 - 0.8999993**2)]])
    ids = np.arange(3, dtype=np.uint64)
    edges = as_dict(search_cell(near.astype(np.float32), ids, 0.9))
    assert edges == {(0, 1): 0.9}


def test_a_chain_merges_its_ends():
    angle = np.arccos(0.8)
    vectors = normalise([[np.cos(i * angle), np.sin(i * angle)] for i in range(3)])
    ids = np.array([9, 5, 7], dtype=np.uint64)
    assert set(as_dict(search_cell(vectors, ids, THRESHOLD))) == {(5, 9), (5, 7)}
    assert [side.tolist() for side in dedup.find_edges(vectors, ids, THRESHOLD, seed=0)] == [[5, 5], [7, 9]]


def test_frames_of_one_video_are_no_pair():
    vectors = normalise(np.ones((6, 4)))
    ids = np.array([1 << 8, 1 << 8 | 1, 1 << 8 | 2, 2 << 8, 2 << 8 | 1, 3 << 8], dtype=np.uint64)
    edges = as_dict(search_cell(vectors, ids, THRESHOLD, shift=8))
    assert set(edges) == set(all_pairs(vectors, ids, THRESHOLD, shift=8))
    assert len(edges) == 3 * 2 + 3 * 1 + 2 * 1


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_a_huge_clique_is_a_forest(noise, monkeypatch):
    """4,000 copies, identical or merely alike: 8 million edges, of which next to none are measured twice."""
    monkeypatch.setattr(dedup, "PENDING", 10_000)
    measured = []
    exact = dedup._cosines
    monkeypatch.setattr(dedup, "_cosines", lambda *args: measured.append(len(args[1])) or exact(*args))
    rng = np.random.default_rng(0)
    vectors = normalise(np.eye(1, 32) + noise * rng.standard_normal((4000, 32)) / np.sqrt(32))
    ids = np.arange(4000, dtype=np.uint64)
    rows = one_cell(vectors, ids)
    a, b = dedup.link_cells(rows, rows, THRESHOLD)
    assert not a.any() and np.array_equal(b, ids[1:])
    assert sum(measured) < 4000


def test_identical_vectors_are_one_star_in_whatever_cells():
    vectors = np.repeat(normalise(np.eye(2)), [5, 4], axis=0)
    ids = np.arange(9, dtype=np.uint64)[::-1].copy()
    rows = VectorTable(vectors, ids, np.arange(9, dtype=np.int32)[:, None])
    assert [side.tolist() for side in dedup.link_cells(rows, rows, THRESHOLD)] == [
        [0, 0, 0, 4, 4, 4, 4],
        [1, 2, 3, 5, 6, 7, 8],
    ]


def test_search_joins_all_copies_of_equal_vectors_to_what_is_like_one_of_them():
    vectors = normalise([[1, 0], [1, 0], [0.8, 0.6], [0, 1], [0.8, 0.6]])
    ids = np.array([3, 1, 4, 0, 2], dtype=np.uint64)
    rows = one_cell(vectors, ids)
    expected = forest_of(all_pairs(vectors, ids, THRESHOLD))
    assert np.array_equal(dedup.link_cells(rows, rows, THRESHOLD), expected)


def test_cells_of_a_row_do_not_depend_on_the_rows_beside_it():
    rng = np.random.default_rng(1)
    vectors, centroids = (
        normalise(rng.standard_normal((2500, 48))),
        normalise(rng.standard_normal((96, 48))).astype(np.float32),
    )
    whole = dedup_cells.nearest_cells(vectors, centroids, 4, margin=0.1, most=16)
    assert whole.dtype == np.int32 and whole.shape == (2500, 16)
    pieces = [
        dedup_cells.nearest_cells(rows, centroids, 4, margin=0.1, most=16) for rows in np.split(vectors, [1, 700, 1999])
    ]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_cells_are_home_then_probes_then_what_the_margin_admits():
    rng = np.random.default_rng(2)
    vectors, centroids = (
        normalise(rng.standard_normal((300, 16))),
        normalise(rng.standard_normal((40, 16))).astype(np.float32),
    )
    near = vectors.astype(np.float64) @ centroids.astype(np.float64).T
    order = np.argsort(-near, axis=1)
    assert np.array_equal(dedup_cells.nearest_cells(vectors, centroids, 3), order[:, :3])
    assert np.array_equal(dedup_cells.nearest_cells(vectors, centroids, 99), order)
    cells = dedup_cells.nearest_cells(vectors, centroids, 2, margin=0.2, most=12)
    for row in range(300):
        close = int((near[row] >= near[row].max() - 0.2).sum())
        count = min(12, max(2, close))
        assert np.array_equal(cells[row, :count], order[row, :count]) and (cells[row, count:] == -1).all()


def test_training_is_repeatable_and_gives_unit_rows():
    sample = make_crowded_rows(1500, 24, 3)
    centroids, again = (dedup_cells.train_centroids(sample, 16, seed=5) for _ in range(2))
    assert centroids.dtype == np.float32 and centroids.shape == (16, 24)
    assert np.array_equal(centroids, again)
    assert not np.array_equal(centroids, dedup_cells.train_centroids(sample, 16, seed=6))
    assert np.allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    assert dedup_cells.train_centroids(sample, 1, seed=5).shape == (1, 24)
    with pytest.raises(ValueError, match="16 centroids"):
        dedup_cells.train_centroids(sample[:15], 16, seed=5)


def test_sample_does_not_depend_on_order_and_can_be_drawn_in_parts():
    ids = make_row_ids(3000, 4)
    sample = ids[dedup_cells.sample_rows(ids, 200, seed=1)]
    assert len(sample) == 200 and (np.diff(sample.astype(np.int64)) > 0).all()
    shuffled = np.random.default_rng(5).permutation(ids)
    assert np.array_equal(shuffled[dedup_cells.sample_rows(shuffled, 200, seed=1)], sample)
    subset_samples = np.concatenate(
        [subset[dedup_cells.sample_rows(subset, 200, seed=1)] for subset in np.split(ids, 3)]
    )
    assert np.array_equal(subset_samples[dedup_cells.sample_rows(subset_samples, 200, seed=1)], sample)
    assert not np.array_equal(ids[dedup_cells.sample_rows(ids, 200, seed=2)], sample)
    assert len(dedup_cells.sample_rows(ids[:50], 200, seed=1)) == 50


def test_draws_are_spread_evenly():
    draws = dedup_cells.draw_rows(np.arange(64_000, dtype=np.uint64), 0, "x")
    counts = np.bincount((draws >> np.uint64(58)).astype(int), minlength=64)
    assert ((counts - 1000) ** 2 / 1000).sum() < 110  # chi-square, 63 degrees of freedom: p < 0.001


def test_cluster_count_is_the_power_of_two_nearest_to_the_root():
    assert [dedup_cells.cluster_count(n) for n in (0, 1, 4096, 4097, 20_000, 200_000, 10**6, 10**8)] == [
        1, 1, 1, 64, 128, 512, 1024, 8192,
    ]  # fmt: skip
    assert dedup_cells.sample_size(512) == 32_768


def make_planted_rows(n, d, clumps, seed):
    """n unit rows, evenly spread or in clumps, of which a tenth lie at a cosine of 0.75 to 0.99 from another."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n - n // 10, d))
    if clumps:
        rows = normalise(rows) * np.sqrt(0.55) + normalise(rng.standard_normal((clumps, d)))[
            rng.integers(0, clumps, len(rows))
        ] * np.sqrt(0.45)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rng.uniform(0.75, 0.99, (n // 10, 1))
    away = rng.standard_normal((n // 10, d))
    away -= (away * rows[: n // 10]).sum(axis=1, keepdims=True) * rows[: n // 10]
    twins = cosine * rows[: n // 10] + np.sqrt(1 - cosine**2) * away / np.linalg.norm(away, axis=1, keepdims=True)
    return normalise(np.concatenate([rows, twins]))


@pytest.mark.parametrize("clumps", [0, 60])
def test_recall_of_cells_against_all_pairs(clumps):
    """Through training, calibration and probing: the recall of pairs against all pairs, and what it took."""
    n = 6000
    vectors, ids = make_planted_rows(n, 128, clumps, 7), make_row_ids(n, 7)
    expected = all_pairs(vectors, ids, THRESHOLD)
    assert len(expected) > 500
    a, b = dedup.find_edges(vectors, ids, THRESHOLD, seed=0)
    root = dict(zip(b.tolist(), a.tolist(), strict=True))
    together = sum(root.get(x, x) == root.get(y, y) for x, y in expected)
    assert together / len(expected) >= 0.995
    true_root = dict(zip(*(side.tolist() for side in forest_of(expected)[::-1]), strict=True))
    assert all(true_root[x] == true_root.get(y, y) for x, y in root.items())  # and nothing else is joined


@pytest.mark.parametrize("scale", [(1, 1), (20, 1), (1, 20)])
@pytest.mark.parametrize("clumps", [0, 5])
def test_ruling_out_by_half_of_a_vector_loses_no_pair(scale, clumps):
    """Whether the first half of the places tells vectors apart, tells nothing, or is all there is."""
    vectors = make_planted_rows(1500, 128, clumps, 12).astype(np.float64)
    vectors = normalise(vectors * np.repeat(scale, 64))
    ids = make_row_ids(1500, 12)
    expected = all_pairs(vectors, ids, THRESHOLD)
    assert len(expected) > 100
    assert as_dict(search_cell(vectors, ids, THRESHOLD, tile=100_000)) == expected


def test_margin_is_wide_where_data_is_even_and_narrow_where_it_is_clumped():
    probes = {}
    for clumps in (0, 60):
        vectors = make_planted_rows(6000, 128, clumps, 8)
        train, calibration = dedup_cells.split_sample(vectors[:4096])
        centroids = dedup_cells.train_centroids(train, 64, seed=0)
        margin = dedup_cells.probe_margin(calibration, centroids, THRESHOLD)
        assert margin == dedup_cells.probe_margin(calibration, centroids, THRESHOLD)
        assert margin >= dedup_cells.probe_margin(calibration, centroids, THRESHOLD, recall=0.9)
        assert margin >= dedup_cells.probe_margin(calibration, centroids, 0.9)
        cells = dedup_cells.nearest_cells(vectors, centroids, 1, margin=margin)
        probes[clumps] = (cells >= 0).sum(axis=1).mean()
    assert probes[0] > 3 * probes[60]


def test_result_does_not_depend_on_the_order_of_rows():
    vectors, ids = make_planted_rows(5000, 32, 40, 9), make_row_ids(5000, 9)
    shuffled = np.random.default_rng(0).permutation(5000)
    forest = dedup.find_edges(vectors, ids, THRESHOLD, seed=3)
    assert len(forest[0]) > 400
    assert np.array_equal(dedup.find_edges(vectors[shuffled], ids[shuffled], THRESHOLD, seed=3), forest)


@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_compare(n):
    vectors, ids = normalise(np.ones((n, 4))) if n else np.zeros((0, 4), np.float16), make_row_ids(n, 0)
    assert [len(side) for side in dedup.find_edges(vectors, ids, THRESHOLD, seed=0)] == [0, 0]
    assert [len(side) for side in search_cell(vectors, ids, THRESHOLD)] == [0, 0, 0]
    rows = one_cell(vectors, ids)
    assert [len(side) for side in dedup.link_cells(rows, rows, THRESHOLD)] == [0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0, 2.0])
def test_rows_that_are_not_of_unit_length_are_refused(bad):
    vectors = np.eye(3, dtype=np.float32)
    vectors[1, 1] = bad
    with pytest.raises(ValueError, match="row 1 "):
        search_cell(vectors, make_row_ids(3, 0), THRESHOLD)
