"""Asking many times: is anything lost or paid twice, how much slower than a bare loop, how much CPU. Prints one JSON
object as its last line.

    python benchmarks/dialogues.py [--quick] [--server URL --model NAME] [--in-flight 64]

Requests are a prompt of 2 kB (half of it the same in all, as instructions are) and an answer of 1 kB. The server is
tests/fake_server.py in a process of its own, whose answer is a function of the request; --server names a real one for
`efficiency`.

lost, duplicated: 10,000 requests, a share of 5 % failing with each of the ten classes of faults (one or two times in a
row, by a keyed hash), 128 in flight. lost: asks that did not end in the right answer, given once and cached;
duplicated: right answers that the server delivered for an ask beyond the first. rss_mb: resident memory after a fifth,
and in the end.
efficiency: tokens a second of A, desk, cache and servers, over those of B, a loop of aiohttp posts with as many in
flight; medians, in the order A B B A, twice, after one turn of B that is not counted. The same requests in all turns,
the cache new in each, answers of fixed length. The fake server takes 0.5 s for each; a real one is told to forget its
prefixes before each turn, which vLLM does in its development mode only (prefix_cache says whether it did).
cpu_ms_per_request: CPU of this process over 10,000 requests, making them, sending, reading and committing; the server
takes 50 ms. cpu_ms_bare: the same of B's loop.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))

from infra.asking import Answer, Ask, Cache, Desk
from infra.servers import Endpoint, Servers
from tests import fake_server

SERVICE_S = 0.5
TOKENS = 250


def body(number: int, model: str) -> dict[str, Any]:
    """A request of 2 kB for TOKENS tokens, no more and no fewer (ignore_eos is vLLM's own)."""
    letters = f"{number * 2654435761 % 2**32:08x} "
    return {
        "model": model,
        "messages": [
            {"role": "system", "content": ("Write a dialogue on what is known of the video. " * 25)[:1000]},
            {"role": "user", "content": (letters * 112)[:1000]},
        ],
        "temperature": 0.0,
        "max_tokens": TOKENS,
        "ignore_eos": True,
    }


def say(text: str) -> None:
    print(text, file=sys.stderr)


async def at_work(workers: int, asks: Iterator[Ask], send: Callable[[Ask], Awaitable[None]]) -> None:
    async def worker() -> None:
        for ask in asks:
            await send(ask)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())


# -- the two ways -------------------------------------------------------------------------------------------------


async def ours(url: str, model: str, numbers: range, in_flight: int, take: Callable[[Ask, Answer], None]) -> None:
    """A. The way from evidence to requests and from answers to rows (pipelines.annotate) goes around the desk here."""
    with tempfile.TemporaryDirectory() as folder, Cache(Path(folder) / "cache") as cache:
        async with Servers([Endpoint(url=url, in_flight=in_flight)], say, timeout_s=600.0) as servers:
            desk = Desk(cache, servers)

            async def send(ask: Ask) -> None:
                take(ask, await desk.ask(ask))

            await at_work(2 * in_flight, (Ask(body(number, model)) for number in numbers), send)


async def bare(url: str, model: str, numbers: range, in_flight: int, take: Callable[[dict[str, Any]], None]) -> None:
    """B."""
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def send(ask: Ask) -> None:
            headers = {"Content-Type": "application/json"}
            async with session.post(f"{url}/v1/chat/completions", data=ask.data, headers=headers) as response:
                take(json.loads(await response.read()))

        await at_work(in_flight, (Ask(body(number, model)) for number in numbers), send)


# -- what is measured ---------------------------------------------------------------------------------------------


def faults(count: int) -> dict[str, Any]:
    """lost, duplicated, and memory."""
    process, rss = psutil.Process(), []
    right: Counter[bytes] = Counter()
    keys: set[bytes] = set()

    def note() -> None:
        gc.collect()
        rss.append(round(process.memory_info().rss / 2**20, 1))

    async def job(url: str, cache: Cache) -> int:
        endpoint = Endpoint(url=url, in_flight=128)
        async with Servers([endpoint], say, timeout_s=5.0, pause_s=0.1, max_bytes=2**20) as servers:
            desk = Desk(cache, servers)

            async def send(ask: Ask) -> None:
                answer = await desk.ask(ask)
                keys.add(ask.key)
                right[ask.key] += answer.error is None and answer.texts == (fake_server.words(dict(ask.body)),)
                if right.total() == count // 5:
                    note()

            await at_work(256, (Ask(body(number, "fake")) for number in range(count)), send)
            return servers.retries

    with fake_server.running("--faults", "0.05") as server, tempfile.TemporaryDirectory() as folder:
        with Cache(Path(folder) / "cache") as cache:
            retries = asyncio.run(job(server.url, cache))
            note()
            lost = count - sum(right[key] == 1 and cache.get(key) is not None for key in keys)
        counts = server.counts()
    duplicated = sum(max(0, counts["answered"].get(key.hex(), 0) - 1) for key in keys)
    return {"lost": lost, "duplicated": duplicated, "retries": retries, "faults": counts["faults"], "rss_mb": rss}


def efficiency(url: str, model: str, count: int, in_flight: int, order: str) -> dict[str, Any]:
    rates: dict[str, list[float]] = {"A": [], "B": []}
    forgot = [_forget(url)]
    for turn, way in enumerate("B" + order):
        tokens = 0

        def ours_took(ask: Ask, answer: Answer) -> None:
            nonlocal tokens
            tokens += answer.tokens_out

        def bare_took(answer: dict[str, Any]) -> None:
            nonlocal tokens
            tokens += answer["usage"]["completion_tokens"]

        forgot.append(_forget(url))
        begun = time.perf_counter()
        if way == "A":
            asyncio.run(ours(url, model, range(count), in_flight, ours_took))
        else:
            asyncio.run(bare(url, model, range(count), in_flight, bare_took))
        rate = tokens / (time.perf_counter() - begun)
        say(f"{way}{' (not counted)' if not turn else ''}: {rate:,.0f} tokens/s, {tokens:,} tokens")
        if turn:
            rates[way].append(rate)
    a, b = statistics.median(rates["A"]), statistics.median(rates["B"])
    return {
        "efficiency": round(a / b, 4),
        "tokens_per_s": round(a),
        "tokens_per_s_bare": round(b),
        "prefix_cache": "reset" if all(forgot) else "not reset",
    }


def _forget(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/reset_prefix_cache", method="POST")):
            return True
    except urllib.error.HTTPError:
        return False


def cpu(url: str, count: int, in_flight: int) -> dict[str, float]:
    def took(*_: Any) -> None:
        pass

    begun = time.process_time()
    asyncio.run(ours(url, "fake", range(count), in_flight, took))
    middle = time.process_time()
    asyncio.run(bare(url, "fake", range(count), in_flight, took))
    end = time.process_time()
    return {
        "cpu_ms_per_request": round((middle - begun) / count * 1000, 4),
        "cpu_ms_bare": round((end - middle) / count * 1000, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests, one A B B A")
    parser.add_argument("--server", metavar="URL", help="a real server, for efficiency")
    parser.add_argument("--model", default="fake")
    parser.add_argument("--in-flight", type=int, default=64)
    given = parser.parse_args()
    many = 1_000 if given.quick else 10_000
    result: dict[str, Any] = {"requests": many, **faults(many)}
    say(f"faults: {result}")
    with ExitStack() as stack:
        quick = stack.enter_context(fake_server.running("--delay", "0.05"))
        result |= cpu(quick.url, many, given.in_flight)
        say(f"CPU: {result['cpu_ms_per_request']} ms a request, of a bare loop {result['cpu_ms_bare']}")
        url = given.server
        if url is None:
            url = stack.enter_context(fake_server.running("--delay", str(SERVICE_S))).url
        turns = given.in_flight * (5 if given.quick else 20)
        url = Endpoint(url=url).url
        result |= efficiency(url, given.model, turns, given.in_flight, "ABBA" * (1 if given.quick else 2))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
