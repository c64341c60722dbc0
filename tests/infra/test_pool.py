from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from infra.pool import Pool


def test_an_item_serves_one_thread_at_a_time_and_no_more_are_made_than_allowed() -> None:
    created: list[threading.Lock] = []

    def create(_: str) -> threading.Lock:
        created.append(threading.Lock())
        return created[-1]

    pool = Pool(create, at_most=3)

    def use(number: int) -> int:
        with pool.borrow("a") as item:
            assert item.acquire(blocking=False)
            item.release()
        return number

    with ThreadPoolExecutor(16) as threads:
        assert sorted(threads.map(use, range(500))) == list(range(500))
    assert len(created) <= 3


def test_items_are_used_again_and_make_room_for_those_of_other_keys() -> None:
    disposed: list[str] = []
    pool = Pool(lambda key: f"{key}{len(disposed)}", disposed.append, at_most=2)
    with pool.borrow("a") as first, pool.borrow("b"):
        pass
    with pool.borrow("a") as again:
        assert again is first
    with pool.borrow("c"):
        pass
    assert disposed == ["b0"]
    pool.clear()
    assert disposed == ["b0", "a0", "c1"]


def test_a_block_that_fails_gives_its_item_back() -> None:
    pool = Pool(lambda key: [key], at_most=1)
    for _ in range(3):
        try:
            with pool.borrow("a"):
                raise ValueError
        except ValueError:
            continue
    with pool.borrow("a") as item:
        assert item == ["a"]
