"""Share what serves one thread at a time among the threads of a process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


def count_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool(Generic[Key, Item]):
    """Items by key, each lent to one thread at a time and used again by later ones. Safe for threads.

    create: makes an item for a key; calls of one pool never overlap. at_most: number of items, those of all keys
    together: a thread that finds all of them lent waits. The default is the number of cores, and 4 where there are
    fewer, since a thread may also wait for storage (ours). dispose: called with an item that makes room for one of
    another key, and by `clear`.
    """

    def __init__(
        self,
        create: Callable[[Key], Item],
        dispose: Callable[[Item], None] = lambda item: None,
        at_most: int | None = None,
    ) -> None:
        self._create = create
        self._dispose = dispose
        self._slots = threading.BoundedSemaphore(max(4, count_cores()) if at_most is None else at_most)
        self._at_most = max(4, count_cores()) if at_most is None else at_most
        self._lock = threading.Lock()
        self._idle: list[tuple[Key, Item]] = []  # the last returned is lent first
        self._lent = 0

    @contextmanager
    def borrow(self, key: Key) -> Iterator[Item]:
        """Lend an item of `key` for the block. Never borrow a second one of the same pool inside: with every item lent,
        all threads would wait for ever."""
        with self._slots:
            with self._lock:
                item = self._take(key)
                self._lent += 1
            try:
                yield item
            finally:
                with self._lock:
                    self._lent -= 1
                    self._idle.append((key, item))

    def _take(self, key: Key) -> Item:
        for index in reversed(range(len(self._idle))):
            if self._idle[index][0] == key:
                return self._idle.pop(index)[1]
        while self._idle and self._lent + len(self._idle) >= self._at_most:
            self._dispose(self._idle.pop(0)[1])
        return self._create(key)

    def clear(self) -> None:
        """Dispose of the items that are not lent."""
        with self._lock:
            for _, item in self._idle:
                self._dispose(item)
            self._idle.clear()
