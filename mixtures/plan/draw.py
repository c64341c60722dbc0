"""Which samples are taken, and where they stand: keyed and stable, all of it arithmetic on whole columns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.hashing import mix64


def draw_keys(seed: int, purpose: str, keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """uint64 (n,): one draw a key, a function of (seed, purpose, key) and nothing else.

    keys: uint8 (n, width). A key is itself the text of a hash, so that a mixer keyed by (seed, purpose) is enough and
    a million keys take milliseconds.
    """
    rows, width = keys.shape
    words = -(-width // 8)
    padded = np.zeros((rows, words * 8), dtype=np.uint8)
    padded[:, :width] = keys
    columns = padded.view("<u8")
    head = hashlib.blake2b(f"{seed}\x00{purpose}\x00".encode(), digest_size=8 * (words + 1)).digest()
    salt = np.frombuffer(head, dtype="<u8").astype(np.uint64)
    state = np.full(rows, salt[words], dtype=np.uint64)
    for word in range(words):
        state = mix64(state ^ columns[:, word] ^ salt[word])
    return state


def sort_groups(by_draw: NDArray[np.int64], group: NDArray[np.int32], groups: int) -> list[NDArray[np.int64]]:
    """For each group its rows by draw; the first n of them are what a plan of n samples takes.

    by_draw: all rows by draw; group: of each row.
    """
    of = group[by_draw]
    grouped = np.argsort(of.astype(np.uint16) if groups <= 2**16 else of, kind="stable")  # radix for 16 bits
    rows = by_draw[grouped]
    counts = np.bincount(group, minlength=groups)
    return np.split(rows, np.cumsum(counts)[:-1]) if groups else []


def count_nearest(amounts: NDArray[np.float64], target: float) -> int:
    """How many draws come nearest to `target`: full passes over `amounts` (in drawn order), then the first few.

    Off by at most half the largest amount.
    """
    total = float(amounts.sum())
    if total <= 0 or target <= 0:
        return 0
    passes = int(target // total)
    sums = np.concatenate(([0.0], np.cumsum(amounts, dtype=np.float64)))
    left = target - passes * total
    at = int(np.searchsorted(sums, left))
    if at > 0 and (at == len(sums) or left - sums[at - 1] <= sums[at] - left):
        at -= 1
    return passes * len(amounts) + at


@dataclass(frozen=True)
class Selection:
    """What stands in a mixture, by (vshard, position). All arrays (n,).

    row: of the index; repeat: 0 for the first time; group, vshard, position as in infra.tables.MIXTURE.
    """

    row: NDArray[np.int64]
    repeat: NDArray[np.int32]
    group: NDArray[np.int32]
    vshard: NDArray[np.int32]
    position: NDArray[np.int32]


def order_shards(seed: int, names: Sequence[str], rows: Sequence[int]) -> NDArray[np.int64]:
    """Rows of an index in (hash(seed, shard), offset) order; shards lie one after another in it, so many rows each.

    names: of shards, unique among all parents.
    """
    head = f"{seed}\x00shard\x00".encode()
    hashes = [hashlib.blake2b(head + name.encode(), digest_size=8).digest() for name in names]
    order = sorted(range(len(names)), key=lambda i: (hashes[i], i))
    counts = np.asarray(rows, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    taken = counts[order]
    first = np.repeat(starts[order] - (np.cumsum(taken) - taken), taken)
    return first + np.arange(len(first), dtype=np.int64)


def cut_evenly(amounts: NDArray[np.float64] | None, count: int, parts: int) -> NDArray[np.int64]:
    """int64 (parts + 1,): where `count` rows are cut into near-equal runs.

    In samples (amounts None) runs differ by at most one. Otherwise each cut lies where the sum of amounts is nearest to
    its equal share, so a run is off by at most the largest amount.
    """
    if amounts is None or not count:
        return np.arange(parts + 1, dtype=np.int64) * count // parts
    sums = np.concatenate(([0.0], np.cumsum(amounts, dtype=np.float64)))
    if sums[-1] <= 0:
        return np.arange(parts + 1, dtype=np.int64) * count // parts
    wanted = sums[-1] * np.arange(parts + 1) / parts
    at = np.clip(np.searchsorted(sums, wanted), 1, count)
    at -= wanted - sums[at - 1] <= sums[at] - wanted
    at[0], at[-1] = 0, count
    return np.maximum.accumulate(at)


def lay_out(
    orders: Sequence[NDArray[np.int64]],
    counts: Sequence[int],
    lie: NDArray[np.int64],
    vshards: int,
    amounts: NDArray[np.float64] | None = None,
) -> Selection:
    """Take the first `counts[g]` of each group (full passes, then the first few) and lay them out.

    orders: rows of each group by draw; lie: all rows as `shard_order` gives them; amounts: of each row in the unit that
    binds, None for samples. Virtual shard v is the v-th run of every group, interleaved; the passes over a group follow
    one another, so that a sample's repeats lie far apart and what is near in a tar stays near.
    """
    place = np.empty(len(lie), dtype=np.int64)
    place[lie] = np.arange(len(lie), dtype=np.int64)
    rows: list[NDArray[np.int64]] = []
    repeats: list[NDArray[np.int32]] = []
    vshard: list[NDArray[np.int32]] = []
    spot: list[NDArray[np.float64]] = []
    sizes: list[int] = []
    for order, count in zip(orders, counts, strict=True):
        passes, rest = divmod(count, len(order)) if len(order) else (0, 0)
        whole = lie[np.sort(place[order])] if passes else order[:0]
        some = lie[np.sort(place[order[:rest]])]
        mine = np.concatenate([*[whole] * passes, some])
        cuts = cut_evenly(None if amounts is None else amounts[mine], len(mine), vshards)
        length = np.diff(cuts)
        rows.append(mine)
        repeats.append(np.repeat(np.arange(passes + 1, dtype=np.int32), [*[len(whole)] * passes, rest]))
        vshard.append(np.repeat(np.arange(vshards, dtype=np.int32), length))
        within = np.arange(len(mine)) - np.repeat(cuts[:-1], length)
        spot.append((within + 0.5) / np.repeat(length, length))
        sizes.append(len(mine))
    shard = np.concatenate(vshard) if vshard else np.empty(0, dtype=np.int32)
    # Each group's rows ascend already, so a stable sort has only to merge them; equal spots keep the groups' order.
    final = np.argsort(shard + (np.concatenate(spot) if spot else np.empty(0)), kind="stable")
    shard = shard[final]
    starts = np.searchsorted(shard, np.arange(vshards, dtype=np.int32))
    return Selection(
        (np.concatenate(rows) if rows else np.empty(0, dtype=np.int64))[final],
        (np.concatenate(repeats) if repeats else np.empty(0, dtype=np.int32))[final],
        np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[final],
        shard,
        (np.arange(len(shard)) - starts[shard]).astype(np.int32),
    )
