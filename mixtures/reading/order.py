"""The order of an epoch and who reads which part of it: pure arithmetic, so that any place is found, not replayed.

The global stream of an epoch is a permutation of the mixture's rows: virtual shards in an order drawn from (seed,
epoch), rows permuted inside windows of `window` virtual shards, so that what is read together lies together. Step t of
rank r takes `batch` rows from place start + t·world·batch + r·batch; workers take a rank's steps in turn.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import ConfigError
from infra.hashing import digest, mix64

#: Virtual shards that are shuffled together; ours. More mix better and reach over more bytes.
WINDOW = 8

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_KEPT = 4  # windows whose rows are kept at hand


def mix_counter(values: NDArray[np.integer], key: int) -> NDArray[np.uint64]:
    """uint64 (n,): one draw a value, a function of (value, key); the counter hash splitmix64 (Steele et al., 2014)."""
    return mix64(np.asarray(values).astype(np.uint64) * _GOLDEN + np.uint64(key))


def _key(seed: int, epoch: int, purpose: str) -> int:
    return int.from_bytes(digest(f"{seed}/{epoch}".encode(), purpose.encode(), size=8), "little")


class Order:
    """The order of every epoch of a mixture.

    counts: int64 (V,): rows of each virtual shard; row i of the mixture is the i-th by (vshard, position).
    """

    def __init__(self, counts: NDArray[np.int64], seed: int, window: int = WINDOW) -> None:
        if window < 1:
            raise ConfigError(f"window is {window}", where="loader", hint="shuffle at least 1 virtual shard at a time")
        self.counts = np.asarray(counts, dtype=np.int64)
        self.total = int(self.counts.sum())
        self.seed = seed
        self.window = window
        self._first = np.cumsum(self.counts) - self.counts
        self._epoch = -1
        self._shards: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._edges: NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._windows: OrderedDict[int, NDArray[np.int64]] = OrderedDict()
        self._near = 0, np.zeros(0, dtype=np.int64)  # the window last asked for, and the place it begins at

    def rows(self, epoch: int, start: int, stop: int) -> NDArray[np.int64]:
        """int64 (stop - start,): the rows at places start… of an epoch's stream; costs the windows they lie in."""
        begin, held = self._near
        if epoch == self._epoch and begin <= start <= stop <= begin + len(held):  # nearly always
            return held[start - begin : stop - begin]
        self._turn_to(epoch)
        stop = min(stop, self.total)
        if start >= stop:
            return np.zeros(0, dtype=np.int64)
        first = int(np.searchsorted(self._edges, start, side="right")) - 1
        last = int(np.searchsorted(self._edges, stop, side="left")) - 1
        parts = []
        for window in range(first, last + 1):
            begin = int(self._edges[window])
            held = self._window(window)
            parts.append(held[max(0, start - begin) : stop - begin])
        self._near = begin, held
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def whole(self, epoch: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The first `stop` places as (virtual shards that lie in them whole, rows of the window that they end in)."""
        self._turn_to(epoch)
        window = int(np.searchsorted(self._edges, min(stop, self.total), side="right")) - 1
        begin = int(self._edges[window])
        return self._shards[: window * self.window], self.rows(epoch, begin, stop)

    def _turn_to(self, epoch: int) -> None:
        if epoch == self._epoch:
            return
        draws = mix_counter(np.arange(len(self.counts)), _key(self.seed, epoch, "vshards"))
        self._shards = np.argsort(draws, kind="stable")
        ends = np.cumsum(self.counts[self._shards])
        last = ends[self.window - 1 :: self.window]
        if len(self.counts) % self.window:
            last = np.append(last, ends[-1])
        self._edges = np.concatenate([np.zeros(1, dtype=np.int64), last])
        self._epoch = epoch
        self._windows.clear()
        self._near = 0, np.zeros(0, dtype=np.int64)

    def _window(self, window: int) -> NDArray[np.int64]:
        found = self._windows.get(window)
        if found is None:
            shards = self._shards[window * self.window : (window + 1) * self.window]
            counts = self.counts[shards]
            before = np.cumsum(counts) - counts
            rows = np.arange(int(counts.sum())) + np.repeat(self._first[shards] - before, counts)
            rows.sort()  # which rows share a window decides their order, not the order of its virtual shards
            found = rows[np.argsort(mix_counter(rows, _key(self.seed, self._epoch, "rows")), kind="stable")]
            self._windows[window] = found
            while len(self._windows) > _KEPT:
                self._windows.popitem(last=False)
        else:
            self._windows.move_to_end(window)
        return found


@dataclass(frozen=True)
class RankShare:
    """What one of `world` ranks reads of `left` places that lie ahead, `batch` samples a step.

    At the end fewer than world·batch places are left: they are dealt out in runs that differ by at most one, so that
    ranks do, too; the first ranks may then have a step more than the others. With drop_last they are left out.
    """

    rank: int = 0
    world: int = 1
    batch: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise ConfigError(f"there is no rank {self.rank} of {self.world}", where="loader", hint="0 ≤ rank < world")
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch}", where="loader", hint="give at least 1 sample a step")

    @property
    def stride(self) -> int:
        """Places that one step of all ranks takes."""
        return self.world * self.batch

    def steps(self, left: int) -> int:
        """Steps that this rank has."""
        full = left // self.stride
        low, high = self.run(left, full)
        return full + (high > low)

    def most_steps(self, left: int) -> int:
        """Steps that the rank with most of them has."""
        return left // self.stride if self.drop_last else -(-left // self.stride)

    def run(self, left: int, step: int) -> tuple[int, int]:
        """Places [low, high), counted from the start, that this rank takes in a step; empty beyond its last."""
        full, tail = divmod(left, self.stride)
        if step < full:
            low = step * self.stride + self.rank * self.batch
            return low, low + self.batch
        if step > full or self.drop_last:
            return left, left
        each, more = divmod(tail, self.world)  # the first ranks take one more, so none has more steps than rank 0
        low = full * self.stride + each * self.rank + min(self.rank, more)
        return low, low + each + (self.rank < more)
