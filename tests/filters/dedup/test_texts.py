"""Near-duplicate texts against all pairs of signatures."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.dedup import components, texts


def signatures(n, places, seed, dtype=np.uint32):
    """Rows that share anything from no to all places with another."""
    rng = np.random.default_rng(seed)
    source = rng.integers(0, 2**32, (max(1, n // 4), places), dtype=np.uint64)
    rows = source[rng.integers(0, len(source), n)]
    fresh = rng.random((n, places)) < rng.choice([0.0, 0.05, 0.1, 0.5], (n, 1))
    return np.where(fresh, rng.integers(0, 2**32, (n, places), dtype=np.uint64), rows).astype(dtype)


def all_pairs(table, ids, threshold, allowed=lambda i, j: True):
    pairs = [
        (ids[i], ids[j])
        for i in range(len(ids))
        for j in range(i)
        if (table[i] == table[j]).sum() >= threshold * table.shape[1] and allowed(i, j)
    ]
    edges = np.array(pairs, dtype=np.uint64).reshape(-1, 2)
    return components.build_forest(edges[:, 0], edges[:, 1])


def find_text_edges(signatures, ids, threshold):
    """Bands, buckets and check in one call, as a forest."""
    bands = texts.hash_bands(signatures, texts.longest_band(threshold, signatures.shape[1]))
    forest = components.Forest()
    for band in range(bands.shape[1]):
        forest.add(*texts.link_buckets(bands[:, band], ids, signatures, threshold))
    return forest.reduce()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6), st.sampled_from([np.uint32, np.uint64]))
def test_groups_are_those_of_all_pairs_that_share_a_band(n, seed, dtype):
    table = signatures(n, 32, seed, dtype)
    ids = np.random.default_rng(seed).permutation(n).astype(np.uint64)
    rows = texts.longest_band(0.8, 32)
    bands = table[:, : 32 // rows * rows].reshape(n, -1, rows)

    def share_band(i, j):
        return bool((bands[i] == bands[j]).all(axis=1).any())

    forest = find_text_edges(table, ids, 0.8)
    assert np.array_equal(forest, all_pairs(table, ids, 0.8, share_band))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 5))
def test_every_bucket_is_searched_completely(n, seed, buckets):
    table = signatures(n, 16, seed)
    rng = np.random.default_rng(seed)
    ids, keys = rng.permutation(n).astype(np.uint64), rng.integers(0, buckets, n).astype(np.uint64)
    forest = texts.link_buckets(keys, ids, table, 0.75)
    assert np.array_equal(forest, all_pairs(table, ids, 0.75, lambda i, j: keys[i] == keys[j]))


def test_agreement_equal_to_the_threshold_is_an_edge():
    table = np.zeros((3, 10), dtype=np.uint32)
    table[1, :3], table[2, :4] = 1, 2
    ids = np.arange(3, dtype=np.uint64)
    forest = texts.link_buckets(np.zeros(3, np.uint64), ids, table, 0.7)
    assert [side.tolist() for side in forest] == [[0], [1]]


def test_a_bucket_of_near_copies_is_one_group():
    rng = np.random.default_rng(0)
    table = np.tile(rng.integers(0, 2**32, 64, dtype=np.uint32), (20_000, 1))
    table[np.arange(20_000), rng.integers(0, 64, 20_000)] = rng.integers(0, 2**32, 20_000, dtype=np.uint32)
    ids = np.arange(20_000, dtype=np.uint64)
    a, b = texts.link_buckets(np.zeros(20_000, np.uint64), ids, table, 0.9)
    assert not a.any() and np.array_equal(b, ids[1:])


def test_equal_bands_and_only_those_have_equal_keys():
    table = signatures(60, 24, 1)
    keys = texts.hash_bands(table, 5)
    assert keys.shape == (60, 4) and keys.dtype == np.uint64
    same = (table[:, None, :20].reshape(60, 1, 4, 5) == table[None, :, :20].reshape(1, 60, 4, 5)).all(axis=3)
    assert np.array_equal(keys[:, None] == keys[None, :], same)
    flat = texts.hash_bands(np.zeros((1, 24), np.uint32), 5)
    assert len(np.unique(flat)) == 4  # the same values in another band are another bucket


def test_longest_band_that_keeps_the_recall():
    for threshold in (0.5, 0.7, 0.8, 0.95):
        rows = texts.longest_band(threshold, 128)
        assert 1 - (1 - threshold**rows) ** (128 // rows) >= 0.99
        assert all(1 - (1 - threshold**r) ** (128 // r) < 0.99 for r in range(rows + 1, 129))
    assert texts.longest_band(0.05, 4) == 1


def test_pairs_at_the_threshold_are_found_as_often_as_promised():
    rng = np.random.default_rng(3)
    first = rng.integers(0, 2**32, (2000, 128), dtype=np.uint32)
    second = first.copy()
    for row in range(2000):
        second[row, rng.permutation(128)[:25]] += 1  # 103 of 128 agree: 0.805
    ids = np.arange(4000, dtype=np.uint64)
    _, b = find_text_edges(np.concatenate([first, second]), ids, 0.8)
    assert len(b) >= 0.985 * 2000


def test_empty_input():
    none = find_text_edges(np.zeros((0, 16), np.uint32), np.zeros(0, np.uint64), 0.8)
    assert [len(side) for side in none] == [0, 0]
