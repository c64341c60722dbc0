from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.hashing import sample_key
from mixtures.plan import draw


def keys_of(count: int, tag: str = "") -> NDArray[np.uint8]:
    text = "".join(sample_key("s", tag, str(i), "", "") for i in range(count))
    return np.frombuffer(text.encode(), dtype=np.uint8).reshape(count, 26)


def test_a_draw_depends_on_seed_purpose_and_every_character_of_the_key_and_on_nothing_else() -> None:
    keys = keys_of(50)
    draws = draw.draw_keys(1, "mix", keys)
    assert (draws[::-1] == draw.draw_keys(1, "mix", keys[::-1])).all()  # whatever stands beside it
    assert (draws[7:9] == draw.draw_keys(1, "mix", keys[7:9])).all()
    for others in (draw.draw_keys(2, "mix", keys), draw.draw_keys(1, "mixx", keys), draw.draw_keys(12, "ix", keys)):
        assert not (draws == others).any()
    for position in range(26):
        changed = keys.copy()
        changed[:, position] ^= 1
        assert not (draws == draw.draw_keys(1, "mix", changed)).any()


def test_draws_are_evenly_spread_and_flip_half_of_their_bits() -> None:
    keys = keys_of(20_000)
    draws = draw.draw_keys(3, "mix", keys)
    counts = np.bincount((draws >> np.uint64(58)).astype(np.int64), minlength=64)
    assert ((counts - 312.5) ** 2 / 312.5).sum() < 120  # chi-square, 63 degrees of freedom: 103.4 is the 0.1 % point
    changed = keys.copy()
    changed[:, 25] ^= 1
    flipped = np.bitwise_count(draws ^ draw.draw_keys(3, "mix", changed))
    assert abs(float(flipped.mean()) - 32) < 0.2 and int(flipped.min()) > 5


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=60))
def test_rows_of_each_group_are_sorted_by_draw(pairs: list[tuple[int, int]]) -> None:
    group = np.array([g for g, _ in pairs], dtype=np.int32)
    drawn = np.array([v for _, v in pairs], dtype=np.uint64)
    sorted_rows = draw.sort_groups(np.argsort(drawn, kind="stable"), group, 4)
    for g in range(4):
        expected = sorted((i for i in range(len(pairs)) if pairs[i][0] == g), key=lambda i: (pairs[i][1], i))
        assert sorted_rows[g].tolist() == expected


amounts = st.lists(st.integers(0, 30), min_size=1, max_size=12)


@example([1], 51.0)
@given(amounts, st.floats(0, 200))
def test_the_nearest_count_is_the_nearest_of_all(values: list[int], target: float) -> None:
    count = draw.count_nearest(np.array(values, dtype=np.float64), target)
    if not sum(values):
        assert count == 0
        return
    rounds = int(target // sum(values)) + 2
    off = np.abs(np.cumsum([0, *(values * rounds)]) - target)[:-1]
    assert off[count] == pytest.approx(off.min(), abs=1e-9)
    assert off[count] <= max(values) / 2 + 1e-9


@given(amounts, st.integers(1, 9))
def test_runs_have_nearly_equal_lengths(values: list[int], parts: int) -> None:
    plain = draw.cut_evenly(None, len(values), parts)
    length = np.diff(plain)
    assert plain[0] == 0 and plain[-1] == len(values) and length.max() - length.min() <= 1
    cuts = draw.cut_evenly(np.array(values, dtype=np.float64), len(values), parts)
    assert cuts[0] == 0 and cuts[-1] == len(values) and (np.diff(cuts) >= 0).all()
    if sum(values):
        sums = np.array([sum(values[a:b]) for a, b in itertools.pairwise(cuts)])
        assert (np.abs(sums - sum(values) / parts) <= max(values) + 1e-9).all()
        # And so is everything up to any cut: a prefix of whole virtual shards is as good as each of them.
        assert (np.abs(np.cumsum(sums) - sum(values) * np.arange(1, parts + 1) / parts) <= max(values) / 2 + 1e-9).all()


def draw_plainly(
    orders: list[list[int]], counts: list[int], lie: list[int], vshards: int
) -> list[tuple[int, int, int, int]]:
    """(row, repeat, group, vshard) in order, the way the design says it, with plain lists."""
    laid = []
    for group, (order, count) in enumerate(zip(orders, counts, strict=True)):
        drawn = [(i // len(order), order[i % len(order)]) for i in range(count)]
        drawn.sort(key=lambda entry: (entry[0], lie.index(entry[1])))
        for v in range(vshards):
            run = drawn[v * count // vshards : (v + 1) * count // vshards]
            laid += [(v, (i + 0.5) / len(run), group, row, repeat) for i, (repeat, row) in enumerate(run)]
    number = {v: i for i, v in enumerate(sorted({entry[0] for entry in laid}))}  # without those that are empty
    return [(row, repeat, group, number[v]) for v, _, group, row, repeat in sorted(laid, key=lambda entry: entry[:3])]


@given(st.data(), st.integers(1, 40), st.integers(1, 4), st.integers(1, 6))
def test_the_layout_is_that_of_plain_lists(data: st.DataObject, rows: int, groups: int, vshards: int) -> None:
    group = data.draw(st.lists(st.integers(0, groups - 1), min_size=rows, max_size=rows))
    order = data.draw(st.permutations(range(rows)))
    lie = data.draw(st.permutations(range(rows)))
    orders = [[row for row in order if group[row] == g] for g in range(groups)]
    counts = [data.draw(st.integers(0, 3 * len(rows_of_group))) for rows_of_group in orders]
    arrays = [np.array(rows_of_group, dtype=np.int64) for rows_of_group in orders]
    layout = draw.lay_out(arrays, counts, np.array(lie, dtype=np.int64), vshards)
    plain_layout = draw_plainly(orders, counts, list(lie), vshards)
    columns = (layout.row, layout.repeat, layout.group, layout.vshard)
    assert list(zip(*(x.tolist() for x in columns), strict=True)) == plain_layout
    for v in range(vshards):
        assert layout.position[layout.vshard == v].tolist() == list(range(int((layout.vshard == v).sum())))
    # Every prefix of a virtual shard has of each group what its length lets expect, within one sample.
    for v in range(vshards):
        in_shard = layout.group[layout.vshard == v]
        for g in range(groups):
            here = np.cumsum(in_shard == g)
            expected = (in_shard == g).sum() * np.arange(1, len(in_shard) + 1) / max(len(in_shard), 1)
            assert len(in_shard) == 0 or np.abs(here - expected).max() <= groups


@given(st.data(), st.integers(1, 30), st.integers(1, 5))
def test_growing_a_share_keeps_what_was_in_it(data: st.DataObject, rows: int, vshards: int) -> None:
    order = np.array(data.draw(st.permutations(range(rows))), dtype=np.int64)
    lie = np.arange(rows, dtype=np.int64)
    small = data.draw(st.integers(0, 2 * rows))
    large = data.draw(st.integers(small, 3 * rows))
    sets = []
    for count in (small, large):
        layout = draw.lay_out([order], [count], lie, vshards)
        sets.append(set(zip(layout.row.tolist(), layout.repeat.tolist(), strict=True)))
        assert len(sets[-1]) == count
    assert sets[0] <= sets[1]


@given(st.data(), st.integers(1, 6))
def test_in_other_units_each_run_is_within_the_largest_sample(data: st.DataObject, vshards: int) -> None:
    sizes = np.array(data.draw(st.lists(st.integers(1, 1000), min_size=1, max_size=60)), dtype=np.float64)
    group = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(sizes), max_size=len(sizes))))
    orders = [np.flatnonzero(group == g) for g in (0, 1)]
    counts = [data.draw(st.integers(0, 2 * len(rows_of_group))) for rows_of_group in orders]
    layout = draw.lay_out(orders, counts, np.arange(len(sizes)), vshards, sizes)
    for g in (0, 1):
        in_group = layout.group == g
        sums = np.bincount(layout.vshard[in_group], weights=sizes[layout.row[in_group]], minlength=vshards)
        largest = sizes[layout.row[in_group]].max() if in_group.any() else 0
        assert (np.abs(sums - sums.sum() / vshards) <= largest + 1e-9).all()


def test_shards_are_ordered_by_hash_and_rows_within_them_as_before() -> None:
    names, rows = ["a", "b", "c", "d"], [3, 0, 2, 4]
    order = draw.order_shards(5, names, rows).tolist()
    starts = {"a": 0, "b": 3, "c": 3, "d": 5}
    hashes = {n: hashlib.blake2b(f"5\x00shard\x00{n}".encode(), digest_size=8).digest() for n in names}
    expected = [starts[n] + i for n in sorted(names, key=hashes.__getitem__) for i in range(rows[names.index(n)])]
    assert order == expected and order != list(range(9))


def test_virtual_shards_that_no_group_fills_are_left_out() -> None:
    """Five virtual shards for two groups of two rows: in each the same runs are empty."""
    on_disk = np.arange(4, dtype=np.int64)
    orders = [on_disk[:2], on_disk[2:]]
    selection = draw.lay_out(orders, [2, 2], on_disk, 5)
    assert selection.vshard.tolist() == [0, 0, 1, 1]
    assert selection.position.tolist() == [0, 1, 0, 1]
