"""Order of an epoch and its split over ranks: pure arithmetic, so any position is computed, not replayed.

The global stream of an epoch is a permutation of the mixture's rows: virtual shards in an order drawn from (seed,
epoch), rows permuted inside windows of `window` virtual shards, so that samples read together lie together. Step t of
rank r takes `batch` rows from position start + t·world·batch + r·batch; workers take a rank's steps in turn.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError
from infra.hashing import digest, mix64

#: Virtual shards that are shuffled together (ours). More mix better and spread reads over more bytes.
WINDOW = 8

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_CACHED_WINDOWS = 4

Rows = NDArray[np.int64]
_NO_ROWS: Rows = np.zeros(0, dtype=np.int64)


def mix_counter(numbers: NDArray[np.integer], key: int) -> NDArray[np.uint64]:
    """uint64 (n,): one draw per number by the counter hash splitmix64 (Steele et al., 2014), keyed by `key`."""
    return mix64(np.asarray(numbers).astype(np.uint64) * _GOLDEN + np.uint64(key))


def _derive_key(seed: int, epoch: int, purpose: str) -> int:
    return int.from_bytes(digest(f"{seed}/{epoch}".encode(), purpose.encode(), size=8), "little")


class Order:
    """Order of every epoch of a mixture.

    counts: int64 (V,): rows of each virtual shard; row i of the mixture is the i-th by (vshard, position).
    """

    def __init__(self, counts: Rows, seed: int, window: int = WINDOW) -> None:
        if window < 1:
            raise ConfigError(f"window is {window}", where="loader", hint="shuffle at least 1 virtual shard at a time")
        self.counts = np.asarray(counts, dtype=np.int64)
        self.total = int(self.counts.sum())
        self.seed = seed
        self.window = window
        self._first = np.cumsum(self.counts) - self.counts
        self._epoch = -1
        self._shards = _NO_ROWS
        self._edges = np.zeros(1, dtype=np.int64)
        self._windows: OrderedDict[int, Rows] = OrderedDict()
        self._latest = 0, _NO_ROWS  # (position at which it begins, rows) of the window last read

    def rows(self, epoch: int, start: int, stop: int) -> Rows:
        """int64 (stop - start,): the rows at these positions of an epoch; the cost is that of their windows."""
        begin, rows = self._latest
        if epoch == self._epoch and begin <= start <= stop <= begin + len(rows):  # nearly always
            return rows[start - begin : stop - begin]
        self._open_epoch(epoch)
        stop = min(stop, self.total)
        if start >= stop:
            return _NO_ROWS
        first = int(np.searchsorted(self._edges, start, side="right")) - 1
        last = int(np.searchsorted(self._edges, stop, side="left")) - 1
        slices = []
        for window in range(first, last + 1):
            begin, rows = int(self._edges[window]), self._load_window(window)
            slices.append(rows[max(0, start - begin) : stop - begin])
        self._latest = begin, rows
        return slices[0] if len(slices) == 1 else np.concatenate(slices)

    def split_prefix(self, epoch: int, stop: int) -> tuple[Rows, Rows]:
        """The first `stop` positions as (virtual shards in whole windows, rows of the window in which they end)."""
        self._open_epoch(epoch)
        window = int(np.searchsorted(self._edges, min(stop, self.total), side="right")) - 1
        begin = int(self._edges[window])
        return self._shards[: window * self.window], self.rows(epoch, begin, stop)

    def _open_epoch(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        draws = mix_counter(np.arange(len(self.counts)), _derive_key(self.seed, epoch, "vshards"))
        self._shards = np.argsort(draws, kind="stable")
        ends = np.cumsum(self.counts[self._shards])
        last = ends[self.window - 1 :: self.window]
        if len(self.counts) % self.window:
            last = np.append(last, ends[-1])
        self._edges = np.concatenate([np.zeros(1, dtype=np.int64), last])
        self._epoch = epoch
        self._windows.clear()
        self._latest = 0, _NO_ROWS

    def _load_window(self, window: int) -> Rows:
        if window in self._windows:
            self._windows.move_to_end(window)
            return self._windows[window]
        shards = self._shards[window * self.window : (window + 1) * self.window]
        counts = self.counts[shards]
        before = np.cumsum(counts) - counts
        rows: Rows = np.arange(int(counts.sum())) + np.repeat(self._first[shards] - before, counts)
        rows.sort()  # the order depends on which rows share a window, not on the order of its virtual shards
        draws = mix_counter(rows, _derive_key(self.seed, self._epoch, "rows"))
        rows = rows[np.argsort(draws, kind="stable")]
        self._windows[window] = rows
        while len(self._windows) > _CACHED_WINDOWS:
            self._windows.popitem(last=False)
        return rows


@dataclass(frozen=True)
class RankShare:
    """The positions that one of `world` ranks reads of those that remain, `batch` samples per step.

    The last positions, fewer than world·batch, are dealt out in runs that differ by at most one, so ranks differ by at
    most one sample; the first ranks may have one step more than the others. With drop_last they are omitted.
    """

    rank: int = 0
    world: int = 1
    batch: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise ConfigError(f"there is no rank {self.rank} of {self.world}", where="loader", hint="0 ≤ rank < world")
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}", where="loader", hint="use at least 1 sample per step")

    @property
    def stride(self) -> int:
        """Positions that one step of all ranks takes."""
        return self.world * self.batch

    def steps(self, remaining: int) -> int:
        """Number of steps of this rank."""
        full = remaining // self.stride
        low, high = self.run(remaining, full)
        return full + (high > low)

    def most_steps(self, remaining: int) -> int:
        """Number of steps of the rank that has the most."""
        return remaining // self.stride if self.drop_last else -(-remaining // self.stride)

    def run(self, remaining: int, step: int) -> tuple[int, int]:
        """Positions [low, high), from the start, that this rank takes in a step; empty beyond its last."""
        full, tail = divmod(remaining, self.stride)
        if step < full:
            low = step * self.stride + self.rank * self.batch
            return low, low + self.batch
        if step > full or self.drop_last:
            return remaining, remaining
        each, extra = divmod(tail, self.world)  # the first ranks take one more, so none has more steps than rank 0
        low = full * self.stride + each * self.rank + min(self.rank, extra)
        return low, low + each + (self.rank < extra)
