from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigError
from mixtures.reading.order import Order, RankShare, mix_counter

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=14).map(lambda counts: np.array(counts, dtype=np.int64))


def test_the_hash_is_splitmix64() -> None:
    # The first numbers that the reference generator gives for the seed 1234567.
    assert mix_counter(np.arange(1, 6), 1234567).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(COUNTS, st.integers(0, 5), st.integers(0, 3), st.integers(1, 6), st.data())
def test_any_range_of_the_stream_equals_that_range_of_the_whole(
    counts: np.ndarray, seed: int, epoch: int, window: int, data: st.DataObject
) -> None:
    total = int(counts.sum())
    whole = Order(counts, seed, window).rows(epoch, 0, total)
    assert sorted(whole.tolist()) == list(range(total))
    order = Order(counts, seed, window)
    for _ in range(3):
        start = data.draw(st.integers(0, total))
        stop = data.draw(st.integers(start, total + 3))
        another_epoch = data.draw(st.integers(0, 3))
        order.rows(another_epoch, 0, 1)  # wherever it was before
        assert order.rows(epoch, start, stop).tolist() == whole[start:stop].tolist()
        shards, rest = order.split_prefix(epoch, stop)
        first = np.cumsum(counts) - counts
        inside = [row for v in shards for row in range(first[v], first[v] + counts[v])]
        assert sorted([*inside, *rest.tolist()]) == sorted(whole[:stop].tolist())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=14), st.integers(0, 5), st.integers(1, 6))
def test_a_window_holds_whole_virtual_shards(sizes: list[int], seed: int, window: int) -> None:
    counts = np.array(sizes, dtype=np.int64)
    shard_of = np.repeat(np.arange(len(counts)), counts)[Order(counts, seed, window).rows(0, 0, int(counts.sum()))]
    at, seen = 0, 0
    while at < len(shard_of):
        # The next window: the first virtual shards that are met, as many as it holds, and nothing else before its end.
        first_shards = list(dict.fromkeys(shard_of[at:].tolist()))[: min(window, len(counts) - seen)]
        end = at + int(counts[first_shards].sum())
        assert set(shard_of[at:end].tolist()) == set(first_shards)
        at, seen = end, seen + len(first_shards)


def test_seeds_and_epochs_give_other_orders() -> None:
    counts = np.full(20, 10)
    orders = {tuple(Order(counts, seed).rows(epoch, 0, 200).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def runs(values: np.ndarray) -> int:
    return 1 + int((values[1:] != values[:-1]).sum())


@pytest.mark.parametrize("seed", range(4))
def test_modalities_do_not_cluster(seed: int) -> None:
    # Every virtual shard holds its modalities one after the other: the worst that a plan could do.
    kinds = np.tile(np.repeat([0, 1, 2, 3], [40, 33, 15, 12]), 32)
    order = Order(np.full(32, 100), seed)
    observed = runs(kinds[order.rows(0, 0, len(kinds))])
    rng = np.random.default_rng(seed)
    null = [runs(rng.permutation(kinds)) for _ in range(200)]
    assert abs(observed - np.mean(null)) < 4 * np.std(null)
    assert runs(kinds) < 0.1 * np.mean(null)  # the measure sees clusters
    # The longest run of one modality is not longer than chance makes it.
    longest = [max(map(len, "".join(map(str, row)).replace("1", "2").replace("3", "2").split("2"))) for row in
               [kinds[order.rows(0, 0, len(kinds))], *(rng.permutation(kinds) for _ in range(200))]]  # fmt: skip
    assert longest[0] <= max(longest[1:])


SPLIT = (st.integers(0, 90), st.integers(1, 7), st.integers(1, 6), st.booleans())


@given(*SPLIT)
def test_ranks_share_every_position_once(count: int, world: int, batch: int, drop_last: bool) -> None:
    shares = [RankShare(rank, world, batch, drop_last) for rank in range(world)]
    taken = []
    for share in shares:
        spans = [share.run(count, step) for step in range(share.steps(count))]
        assert all(low < high for low, high in spans)
        assert share.run(count, len(spans))[0] == share.run(count, len(spans))[1]
        taken.append([position for low, high in spans for position in range(low, high)])
        for step, (low, high) in enumerate(spans[: count // (world * batch)]):
            begin = step * world * batch + share.rank * batch
            assert (low, high) == (begin, begin + batch)
    whole = count - count % (world * batch) if drop_last else count
    assert sorted(position for positions in taken for position in positions) == list(range(whole))
    assert max(share.steps(count) for share in shares) == shares[0].steps(count) == shares[-1].most_steps(count)
    sizes = [len(positions) for positions in taken]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= (0 if drop_last else 1)


def test_an_impossible_split_is_refused() -> None:
    for rank, world, batch in ((1, 1, 1), (-1, 2, 1), (0, 0, 1), (0, 1, 0)):
        with pytest.raises(ConfigError):
            RankShare(rank, world, batch)
    with pytest.raises(ConfigError, match="window"):
        Order(np.ones(3, dtype=np.int64), 0, 0)
