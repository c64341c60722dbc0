from __future__ import annotations

import asyncio
import multiprocessing
import random
import signal
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import BadSample, ConfigError, StageError
from infra.hashing import digest
from infra.llm.requests import CachedClient, Completion, Request, RequestCache
from infra.llm.servers import Endpoint, Servers
from tests.fake_server import FakeServer, running, words

SPAWN = multiprocessing.get_context("spawn")

texts = st.text(st.characters(exclude_categories=[]))  # with halves of surrogate pairs
answers = st.builds(
    Completion,
    st.lists(texts).map(tuple),
    st.lists(texts).map(tuple),
    texts,
    st.integers(0, 2**31),
    st.integers(0, 2**31),
    st.integers(0, 2**31),
    st.none() | texts.map(lambda text: f"refused: {text}"),
)


@contextmanager
def open_cache() -> Iterator[RequestCache]:
    with tempfile.TemporaryDirectory() as folder, RequestCache(Path(folder) / "cache") as cache:
        yield cache


def make_request(number: int, **changes: Any) -> Request:
    return Request({"model": "fake", "messages": [{"role": "user", "content": f"question {number}"}], **changes})


def answer(text: str = "text") -> Completion:
    return Completion((text,), ("stop",), "fake", 10, 5, 2)


# -- requests -------------------------------------------------------------------------------------------------------


def test_a_key_covers_all_that_is_sent_and_nothing_else() -> None:
    sent = Request({"model": "m", "messages": [], "temperature": 0.0})
    assert sent.key == Request({"model": "m", "messages": [], "temperature": 0.0}).key == digest(sent.payload)
    assert len(sent.key) == 16 and sent.payload == b'{"model":"m","messages":[],"temperature":0.0}'
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}
    others: list[dict[str, Any]] = [
        {"model": "n"},
        {"messages": [{"role": "user", "content": ""}]},
        {"temperature": 0.1},
        {"seed": 1},
        {"response_format": schema},
    ]
    assert len({sent.key, *(Request({**sent.body, **change}).key for change in others)}) == 6


def test_properties_of_a_schema_are_sent_in_their_order() -> None:
    # Engines write an answer's properties in the schema's order: sorted, an answer would come before its question.
    schema = {"properties": {"question": {}, "answer": {}, "evidence": {}}}
    sent = Request({"model": "m", "response_format": {"json_schema": {"schema": schema}}}).payload
    assert sent.index(b"question") < sent.index(b"answer") < sent.index(b"evidence")


def test_half_a_surrogate_pair_is_the_samples_fault() -> None:
    with pytest.raises(BadSample, match="surrogate"):
        _ = Request({"model": "m", "messages": "a\ud800"}).key


# -- cache ----------------------------------------------------------------------------------------------------------


@given(answers)
def test_answers_survive_the_cache(completion: Completion) -> None:
    assert Completion.from_json(completion.to_json()) == completion
    with open_cache() as cache:
        sent = make_request(1)
        assert cache.get(sent.key) is None and len(cache) == 0
        assert cache.put(sent.key, sent.model, completion) == completion
        assert cache.get(sent.key) == completion and len(cache) == 1


def test_the_first_answer_stays(tmp_path: Path) -> None:
    sent = make_request(1)
    with (
        RequestCache(tmp_path / "below" / "cache") as cache,
        RequestCache(tmp_path / "below" / "cache") as second_cache,
    ):
        assert cache.put(sent.key, sent.model, answer("first")) == answer("first")
        assert second_cache.put(sent.key, sent.model, answer("second")) == answer("first")
        assert second_cache.put(sent.key, "fake", answer("third")) == answer("first")
        assert second_cache.get(sent.key) == cache.get(sent.key) == answer("first")
        assert (
            cache.put(make_request(2).key, "fake", answer("read"))
            == answer("read")
            == second_cache.get(make_request(2).key)
        )
    with RequestCache(tmp_path / "below" / "cache") as cache:
        assert cache.get(sent.key) == answer("first")


def test_requests_that_were_given_up_are_never_cached() -> None:
    with open_cache() as cache, pytest.raises(ValueError, match="not a cacheable completion"):
        cache.put(make_request(1).key, "fake", Completion((), (), "fake", error="gave_up: 500"))


def _other_format(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=7")
    database.close()


def _other_tables(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE mine (value TEXT)")
    database.commit()
    database.close()


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)


@pytest.mark.parametrize("spoil", [_other_format, _other_tables, _garbage, Path.mkdir])
def test_a_file_that_is_no_cache_is_left_alone(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "cache"
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StageError) as caught:
        RequestCache(path)
    assert caught.value.where == str(path) and caught.value.hint
    assert not path.is_file() or path.read_bytes() == before
    assert [results_.name for results_ in tmp_path.iterdir()] == ["cache"]


def test_a_cache_at_a_remote_location_is_refused() -> None:
    with pytest.raises(ConfigError, match="local disk"):
        RequestCache("s3://bucket/cache")


def test_a_row_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    with RequestCache(path) as cache:
        for number, raw in enumerate([b"{", b"[]", b'{"texts": 1}', b'{"texts": [], "finish": [], "other": 1}']):
            key = bytes([number]) * 16
            with sqlite3.connect(path) as database:
                database.execute("INSERT INTO answers VALUES (?, 'm', ?)", (key, raw))
            with pytest.raises(StageError, match=key.hex()):
                cache.get(key)


def put_own(path: str, name: str, count: int, results: Any) -> None:
    with RequestCache(path) as cache:
        order = random.Random(name).sample(range(count), count)
        got = {number: cache.put(make_request(number).key, "fake", answer(name)).texts[0] for number in order}
    results.put(got)


def test_processes_that_make_and_fill_one_cache_at_once_agree(tmp_path: Path) -> None:
    path, count = str(tmp_path / "cache"), 400
    results = SPAWN.Queue()
    workers = [SPAWN.Process(target=put_own, args=(path, f"worker {i}", count, results)) for i in range(3)]
    for worker in workers:
        worker.start()
    results_ = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    assert results_[0] == results_[1] == results_[2]
    with RequestCache(path) as cache:
        assert len(cache) == count
        for number, name in results_[0].items():
            assert cache.get(make_request(number).key) == answer(name)


# -- client -----------------------------------------------------------------------------------------------------------


class Counting:
    """An engine that answers after a few turns of the loop, or raises."""

    retries = 3

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: Counter[bytes] = Counter()
        self.error = error

    async def complete(self, request: Request) -> Completion:
        self.asked[request.key] += 1
        for _ in range(5):
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return answer(words(dict(request.body)))


def test_what_is_in_flight_or_in_the_cache_is_not_sent_again() -> None:
    async def job() -> None:
        engine = Counting()
        with open_cache() as cache:
            client = CachedClient(cache, engine)
            got = await asyncio.gather(*(client.complete(make_request(i % 4)) for i in range(12)))
            got += await asyncio.gather(*(client.complete(make_request(i % 4)) for i in range(4)))
            assert [completion.texts for completion in got] == [
                (words(dict(make_request(i % 4).body)),) for i in range(16)
            ]
            assert set(engine.asked.values()) == {1} and len(cache) == 4
            assert (client.sent, client.hits, client.retries, client.gave_up) == (4, 12, 3, 0)
            assert (client.tokens_in, client.tokens_out, client.tokens_cached) == (40, 20, 8)
            assert client.counters() == {"sent": 4, "hits": 12, "retries": 3, "gave_up": 0, "tokens_in": 40,
                                       "tokens_out": 20, "tokens_cached": 8}  # fmt: skip

    asyncio.run(job())


def test_an_engines_failure_reaches_everyone_who_waits() -> None:
    async def job() -> None:
        engine = Counting(StageError("no server"))
        with open_cache() as cache:
            client = CachedClient(cache, engine)
            got = await asyncio.gather(*(client.complete(make_request(1)) for _ in range(3)), return_exceptions=True)
            assert [str(error) for error in got] == ["no server"] * 3
            assert engine.asked.total() == 1 and len(cache) == 0
            engine.error = None
            assert await client.complete(make_request(1)) == await client.complete(make_request(1))

    asyncio.run(job())


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), max_size=8))
def test_cancelling_one_never_costs_another(cancelled: list[tuple[int, int]]) -> None:
    async def job() -> None:
        with open_cache() as cache:
            engine = Counting()
            client = CachedClient(cache, engine)
            tasks = [asyncio.create_task(client.complete(make_request(i % 3))) for i in range(9)]
            for number, rounds in cancelled:
                for _ in range(rounds):
                    await asyncio.sleep(0)
                tasks[number].cancel()
            got = await asyncio.gather(*tasks, return_exceptions=True)
            cancelled_numbers = {number for number, _ in cancelled}
            for number, outcome in enumerate(got):
                assert number in cancelled_numbers or outcome == cache.get(make_request(number % 3).key)
            assert not client._in_flight
            assert client.sent == engine.asked.total() <= 3 + len(cancelled_numbers)

    asyncio.run(job())


async def work(
    url: str, cache: RequestCache, numbers: list[int], in_flight: int, done: Callable[[Request, Completion], object]
) -> None:
    async with Servers([Endpoint(url=url, in_flight=in_flight)], print) as engine:
        client = CachedClient(cache, engine)

        remaining = iter(numbers)

        async def worker() -> None:
            for number in remaining:
                done(make_request(number), await client.complete(make_request(number)))

        await asyncio.gather(*(worker() for _ in range(2 * in_flight)))


def run_worker(url: str, path: str, numbers: list[int], in_flight: int, report: str) -> None:
    """What a worker does: requests, and writes the key of each answer that it was given."""
    with RequestCache(path) as cache, open(report, "ab", buffering=0) as file:
        asyncio.run(work(url, cache, numbers, in_flight, lambda request, got: file.write(request.key + b"\n")))


def start_worker(url: str, path: Path, numbers: list[int], in_flight: int, report: Path) -> SpawnProcess:
    report.touch()
    worker = SPAWN.Process(target=run_worker, args=(url, str(path), numbers, in_flight, str(report)))
    worker.start()
    return worker


def read_report(report: Path) -> list[bytes]:
    raw = report.read_bytes()
    return [raw[at : at + 16] for at in range(0, len(raw) - 16, 17)]


def test_killed_anywhere_only_what_was_in_flight_is_paid_again(tmp_path: Path) -> None:
    in_flight, numbers = 8, list(range(800))
    path = tmp_path / "cache"
    with running("--delay", "0.03") as server:
        committed: dict[bytes, int] = {}
        kills = (1, 40, 90, 130)
        for number, until in enumerate(kills):
            report = tmp_path / f"report {number}"
            worker = start_worker(server.url, path, numbers, in_flight, report)
            while len(set(read_report(report)) - set(committed)) < until - (kills[number - 1] if number else 0):
                assert worker.is_alive()
                time.sleep(0.002)
            worker.kill()
            worker.join()
            assert worker.exitcode == -signal.SIGKILL
            received = server.counts()["received"]
            assert server.counts()["most_in_flight"] <= in_flight
            with RequestCache(path) as cache:
                cached_keys = {make_request(i).key for i in numbers if cache.get(make_request(i).key) is not None}
                assert set(read_report(report)) <= cached_keys and len(cache) == len(cached_keys)
            for key in cached_keys - set(committed):
                committed[key] = received[key.hex()]
        last = start_worker(server.url, path, numbers, in_flight, tmp_path / "report")
        last.join()
        assert last.exitcode == 0 and len(read_report(tmp_path / "report")) == len(numbers)
        received = server.counts()["received"]
        # No request whose completion was committed went out again …
        assert {key: received[key.hex()] for key in committed} == committed
        # … and at most those in flight went out twice, for each kill.
        again = sum(count - 1 for count in received.values())
        assert len(received) == len(numbers) and again <= in_flight * len(kills)
        with RequestCache(path) as cache:
            for i in numbers:
                assert cache.get(make_request(i).key) is not None
        before = server.counts()
        third = start_worker(server.url, path, numbers, in_flight, tmp_path / "finished")
        third.join()
        assert len(read_report(tmp_path / "finished")) == len(numbers) and server.counts() == before


def test_two_processes_on_one_cache_end_with_the_same(tmp_path: Path) -> None:
    numbers = list(range(150))
    with running("--delay", "0.01") as server:
        orders = [numbers, numbers[::-1]]
        workers = [
            start_worker(server.url, tmp_path / "cache", order, 4, tmp_path / f"{i}") for i, order in enumerate(orders)
        ]
        for worker in workers:
            worker.join()
            assert worker.exitcode == 0
        received = server.counts()["received"]
        assert len(received) == len(numbers) and max(received.values()) <= 2
        # What one process had committed the other did not request: they meet in the middle.
        assert sum(received.values()) < 2 * len(numbers)
        with RequestCache(tmp_path / "cache") as cache:
            assert len(cache) == len(numbers)
            for i in numbers:
                results_ = cache.get(make_request(i).key)
                assert results_ is not None and results_.texts == (words(dict(make_request(i).body)),)


def test_an_answer_is_committed_before_its_slot_is_used_again(tmp_path: Path) -> None:
    """Whenever a request arrives, all that had left the same slot before it is in the cache."""

    async def job() -> None:
        path = tmp_path / "cache"
        with RequestCache(path) as cache, RequestCache(path) as watching:
            lost: list[int] = []

            def look(body: dict[str, Any]) -> str:
                if fake.received.total() - len(watching) > 3:
                    lost.append(fake.received.total())
                return words(body)

            async with FakeServer(answer=look) as fake:
                await work(fake.url, cache, list(range(60)), 3, lambda request, got: None)
            assert lost == [] and fake.received.total() == len(cache) == 60

    asyncio.run(job())
