"""Select samples by a deterministic pseudo-random draw per key, and lay them out in virtual shards."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.hashing import mix64


def draw_keys(seed: int, purpose: str, keys: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """uint64 (n,): one draw per key, a function of (seed, purpose, key) only.

    keys: uint8 (n, width). A key is itself the text of a hash, so a mixer keyed by (seed, purpose) suffices, and a
    million keys take milliseconds.
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
    """List the rows of each group by draw; a plan of n samples takes the first n.

    by_draw: all rows by draw; group: of each row.
    """
    drawn_groups = group[by_draw]
    narrow = drawn_groups.astype(np.uint16) if groups <= 2**16 else drawn_groups  # radix sort for 16 bits
    rows = by_draw[np.argsort(narrow, kind="stable")]
    counts = np.bincount(group, minlength=groups)
    return np.split(rows, np.cumsum(counts)[:-1]) if groups else []


def count_nearest(amounts: NDArray[np.float64], target: float) -> int:
    """Count how many draws come nearest to `target`: full passes over `amounts` (in drawn order), then the first few.

    The sum is off by at most half the largest amount.
    """
    total = float(amounts.sum())
    if total <= 0 or target <= 0:
        return 0
    passes = int(target // total)
    sums = np.concatenate(([0.0], np.cumsum(amounts, dtype=np.float64)))
    remainder = target - passes * total
    count = int(np.searchsorted(sums, remainder))
    if count > 0 and (count == len(sums) or remainder - sums[count - 1] <= sums[count] - remainder):
        count -= 1
    return passes * len(amounts) + count


@dataclass(frozen=True)
class Selection:
    """The samples of a mixture, by (vshard, position). All arrays (n,).

    row: in the index; repeat: 0 for the first copy; group, vshard, position as in infra.tables.MIXTURE.
    """

    row: NDArray[np.int64]
    repeat: NDArray[np.int32]
    group: NDArray[np.int32]
    vshard: NDArray[np.int32]
    position: NDArray[np.int32]


def order_shards(seed: int, names: Sequence[str], rows: Sequence[int]) -> NDArray[np.int64]:
    """Rows of an index by (hash(seed, shard), offset). Shards are contiguous in the index; rows: count of each.

    names: of shards, unique among all parents.
    """
    head = f"{seed}\x00shard\x00".encode()
    hashes = [hashlib.blake2b(head + name.encode(), digest_size=8).digest() for name in names]
    order = sorted(range(len(names)), key=lambda i: (hashes[i], i))
    counts = np.asarray(rows, dtype=np.int64)
    starts = np.cumsum(counts) - counts
    ordered = counts[order]
    first = np.repeat(starts[order] - (np.cumsum(ordered) - ordered), ordered)
    return first + np.arange(len(first), dtype=np.int64)


def cut_evenly(amounts: NDArray[np.float64] | None, count: int, runs: int) -> NDArray[np.int64]:
    """int64 (runs + 1,): boundaries that cut `count` rows into near-equal runs.

    In samples (amounts None) runs differ by at most one. Otherwise each cut is where the sum of amounts is nearest to
    its equal share, so a run is off by at most the largest amount.
    """
    sums = np.concatenate(([0.0], np.cumsum(amounts, dtype=np.float64))) if amounts is not None else np.zeros(1)
    if not count or sums[-1] <= 0:
        return np.arange(runs + 1, dtype=np.int64) * count // runs
    targets = sums[-1] * np.arange(runs + 1) / runs
    cuts = np.clip(np.searchsorted(sums, targets), 1, count)
    cuts -= targets - sums[cuts - 1] <= sums[cuts] - targets
    cuts[0], cuts[-1] = 0, count
    return np.maximum.accumulate(cuts)


def lay_out(
    orders: Sequence[NDArray[np.int64]],
    counts: Sequence[int],
    on_disk: NDArray[np.int64],
    vshards: int,
    amounts: NDArray[np.float64] | None = None,
) -> Selection:
    """Take the first `counts[g]` samples of each group (full passes, then the first few) and lay them out.

    orders: rows of each group by draw; on_disk: all rows in the order of `order_shards`; amounts: of each row in the
    recipe's unit, None for samples. Virtual shard v is the v-th run of every group, interleaved; those that no group
    fills are left out. The passes over a group follow one another, so repeats of a sample are far apart and samples
    near in a tar stay near.
    """
    rank = np.empty(len(on_disk), dtype=np.int64)
    rank[on_disk] = np.arange(len(on_disk), dtype=np.int64)
    rows, repeats = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int32)]
    vshard, spot = [np.empty(0, dtype=np.int32)], [np.empty(0)]
    for order, count in zip(orders, counts, strict=True):
        passes, rest = divmod(count, len(order)) if len(order) else (0, 0)
        full_pass = on_disk[np.sort(rank[order])] if passes else order[:0]
        group_rows = np.concatenate([*[full_pass] * passes, on_disk[np.sort(rank[order[:rest]])]])
        cuts = cut_evenly(None if amounts is None else amounts[group_rows], len(group_rows), vshards)
        lengths = np.diff(cuts)
        rows.append(group_rows)
        repeats.append(np.repeat(np.arange(passes + 1, dtype=np.int32), [*[len(full_pass)] * passes, rest]))
        vshard.append(np.repeat(np.arange(vshards, dtype=np.int32), lengths))
        within = np.arange(len(group_rows)) - np.repeat(cuts[:-1], lengths)
        spot.append((within + 0.5) / np.repeat(lengths, lengths))
    shard = np.concatenate(vshard)
    # Each group's rows ascend already, so a stable sort only merges them; equal spots keep the groups' order.
    final = np.argsort(shard + np.concatenate(spot), kind="stable")
    _, numbers = np.unique(shard[final], return_inverse=True)  # small groups leave some virtual shards without samples
    shard = numbers.astype(np.int32)
    starts = np.searchsorted(shard, np.arange(vshards, dtype=np.int32))
    return Selection(
        np.concatenate(rows)[final],
        np.concatenate(repeats)[final],
        np.repeat(np.arange(len(counts), dtype=np.int32), [len(group_rows) for group_rows in rows[1:]])[final],
        shard,
        (np.arange(len(shard)) - starts[shard]).astype(np.int32),
    )
