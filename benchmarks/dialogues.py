"""Test dialogue requests at scale: losses and duplicates, speed against a bare loop, CPU time. Prints one JSON object
as its last line.

    python -m benchmarks.dialogues [--quick] [--server URL --model NAME] [--in-flight 64] [--tokens 1024]

faults: prompts of 2 kB (half of it the same in all, as instructions are) and answers of 1 kB, through client, cache and
servers. 10,000 requests, a share of 5 % failing with each of the ten classes of faults (one or two times in a row, by a
keyed hash), 128 in flight. lost: pending that did not end in the right answer, given once and cached; duplicated: right
answers that the server delivered for a request beyond the first. rss_mb: resident memory after a fifth, and at the end.

The rest is what a worker of `reelmill annotate` does, all of it: evidence sheets from samples and signals, requests,
answers, checks with language, rows, committed units of 500. Prompts are the kind conversation's (request_bytes says how
large), captions 900 letters, answers 1 kB read off the evidence so that they pass. The blind check is off: it would be
more requests of the same sort.
efficiency: tokens per second of A without the sheets over those of B, a loop of aiohttp posts of the same
requests with as many in flight; neither makes its sheets while timed, which in a run are a job of their own; medians,
in the order A B B A, twice, after one turn of B that is not counted. The cache is new in each turn. A fake server
takes 0.5 s for each; the prefix cache of a real one is reset before each turn, which vLLM does in its development
mode only (prefix_cache says whether it did). --tokens 128 cuts nearly every answer of a model of random weights: then
all are of one length.
cpu_ms_per_request: CPU of this process for A over 10,000 requests; the server takes 50 ms. cpu_ms_bare: the same of B.
The server is tests/fake_server.py in a process of its own, whose answer is a function of the request; --server names a
real one for `efficiency`.
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
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that its path can be given, too

from annotators.dialogues import dialogue, evidence
from annotators.dialogues.kinds import load_kinds, supports
from infra import tables
from infra.commit import unit_name
from infra.llm.requests import CachedClient, Request, RequestCache
from infra.llm.servers import Endpoint, Servers
from pipelines.annotate.annotate import write_span
from pipelines.annotate.evidence_sheets import SHEETS
from pipelines.core.run import Run, open_run
from tests import fake_server

SERVICE_S = 0.5
TOKENS = 1024
#: Answers that pass the checks: read off the evidence, 1 kB.
SAYS = ("--answer", "tests.answers:answer_from_evidence")


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


async def at_work(workers: int, pending: Iterator[Request], send: Callable[[Request], Awaitable[None]]) -> None:
    async def worker() -> None:
        for request in pending:
            await send(request)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())


# -- the two ways -------------------------------------------------------------------------------------------------


def sample(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A video as samples and signals have it, with a caption of 900 letters and one second caption."""
    words = [WORDS[(number * 31 + i * 7 + i * i) % len(WORDS)] for i in range(140)]
    caption = f"Video {number} shows how {' '.join(words)}"[:900]
    extra = {"dense_captions": [{"start": 1.0, "end": 2.0, "text": f"A {words[3]} {words[9]} near a {words[5]}."}]}
    row = {"key": f"k{number:025d}", "modality": "video", "text": caption, "extra": json.dumps(extra)}
    return row, {"facts.duration": 12.5, "motion.score": 0.01, "clean.text": caption}


WORDS = (
    *("amber", "basket", "candle", "dragon", "ember", "feather", "garden", "harbour", "island", "jacket", "kettle"),
    *("lantern", "marble", "needle", "orchard", "pebble", "quilt", "ribbon", "saddle", "timber", "umbrella", "velvet"),
    *("willow", "yarn", "anchor", "blanket", "copper", "drawer", "engine", "fountain", "glacier", "hammer", "ivory"),
    *("jungle", "kitchen", "ladder", "meadow", "nickel", "oyster", "pillow", "quarry", "rocket", "silver", "tunnel"),
)


class GenerationJob:
    """A: what a worker of `reelmill annotate` does, from samples and signals to committed units."""

    def __init__(self, folder: str, url: str, model: str, in_flight: int, tokens: int = TOKENS) -> None:
        self.run = open_benchmark_run(folder, url, model, in_flight, tokens)
        self.names: list[str] = []
        self.count = 0

    def sheets(self, videos: list[Any], rows_a_unit: int = 500) -> None:
        """Evidence sheets, unit by unit: the stage's first job."""
        for start in range(0, len(videos), rows_a_unit):
            self.names.append(unit_name(len(self.names)))
            sheets = []
            for row, signals in videos[start : start + rows_a_unit]:
                sheet = evidence.build_sheet(row, signals, evidence.EvidenceSettings())
                assert supports("conversation", sheet)
                sheets.append(
                    {
                        "key": row["key"],
                        "seconds": sheet.seconds,
                        "items": sheet.to_rows(),
                        "supports": ["conversation"],
                    }
                )
            uri = self.run.work("evidence", f"{self.names[-1]}.parquet")
            tables.write(uri, pa.Table.from_pylist(sheets, schema=SHEETS))
        self.count = len(videos)

    def write(self) -> int:
        """The second: requests, answers, checks, rows, committed units; tokens answered."""
        odds = {"conversation": {"conversation": 1.0}}
        counts = write_span(self.run, dict.fromkeys(self.names, ""), odds, 1, " ".join(self.names))
        assert counts["videos"] == counts["sent"] == self.count and counts["hits"] == 0, counts
        units = [tables.read_footer(self.run.at("dialogues", f"{name}.parquet")) for name in self.names]
        assert sum(unit[1] for unit in units if unit is not None) == self.count
        return counts["tokens_out"]


def open_benchmark_run(folder: str, url: str, model: str, in_flight: int, tokens: int) -> Run:
    annotate = {
        "model": model,
        "endpoints": [{"url": url, "in_flight": in_flight}],
        "kinds": {"conversation": 1},
        "blind": None,
        "sampling": {"max_tokens": tokens},
    }
    document = {
        "name": "bench", "store": f"{folder}/store", "out": f"{folder}/out",
        "sources": [{"name": "v", "path": folder, "modality": "video"}], "annotate": annotate,
    }  # fmt: skip
    path = Path(folder) / "config.yaml"
    path.write_text(json.dumps(document))
    return open_run(str(path), quiet=True)


def requests(model: str, count: int, tokens: int = TOKENS) -> list[Request]:
    """The same requests that `pipeline` sends."""
    sampling = {"temperature": 0.7, "top_p": 0.9, "max_tokens": tokens}
    bodies = []
    for number in range(count):
        row, signals = sample(number)
        sheet = evidence.build_sheet(row, signals, evidence.EvidenceSettings())
        bodies.append(Request(dialogue.build_generation_body(load_kinds()["conversation"], sheet, model, sampling, 1)))
    return bodies


async def bare(url: str, pending: list[Request], in_flight: int) -> int:
    """B: a loop of posts with as many in flight; tokens answered."""
    import aiohttp

    tokens = 0
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def send(request: Request) -> None:
            nonlocal tokens
            headers = {"Content-Type": "application/json"}
            async with session.post(f"{url}/v1/chat/completions", data=request.payload, headers=headers) as response:
                tokens += int(json.loads(await response.read())["usage"]["completion_tokens"])

        await at_work(in_flight, iter(pending), send)
    return tokens


# -- what is measured ---------------------------------------------------------------------------------------------


def faults(count: int) -> dict[str, Any]:
    """lost, duplicated, and memory."""
    process, rss = psutil.Process(), []
    right: Counter[bytes] = Counter()
    keys: set[bytes] = set()

    def note() -> None:
        gc.collect()
        rss.append(round(process.memory_info().rss / 2**20, 1))

    async def job(url: str, cache: RequestCache) -> int:
        endpoint = Endpoint(url=url, in_flight=128)
        async with Servers([endpoint], say, timeout_s=5.0, pause_s=0.1, max_bytes=2**20) as servers:
            client = CachedClient(cache, servers)

            async def send(request: Request) -> None:
                answer = await client.complete(request)
                keys.add(request.key)
                right[request.key] += answer.error is None and answer.texts == (fake_server.words(dict(request.body)),)
                if right.total() == count // 5:
                    note()

            await at_work(256, (Request(body(number, "fake")) for number in range(count)), send)
            return servers.retries

    with fake_server.running("--faults", "0.05") as server, tempfile.TemporaryDirectory() as folder:
        with RequestCache(Path(folder) / "cache") as cache:
            retries = asyncio.run(job(server.url, cache))
            note()
            lost = count - sum(right[key] == 1 and cache.get(key) is not None for key in keys)
        counts = server.counts()
    duplicated = sum(max(0, counts["answered"].get(key.hex(), 0) - 1) for key in keys)
    return {"lost": lost, "duplicated": duplicated, "retries": retries, "faults": counts["faults"], "rss_mb": rss}


def efficiency(url: str, model: str, count: int, in_flight: int, order: str, tokens: int = TOKENS) -> dict[str, Any]:
    pending, videos = requests(model, count, tokens), [sample(number) for number in range(count)]
    rates: dict[str, list[float]] = {"A": [], "B": []}
    forgot = True
    for turn, who in enumerate("B" + order):
        forgot = _forget(url) and forgot
        with tempfile.TemporaryDirectory() as folder:
            job = GenerationJob(folder, url, model, in_flight, tokens)
            job.sheets(videos if who == "A" else [])
            begun = time.monotonic()
            answered = job.write() if who == "A" else asyncio.run(bare(url, pending, in_flight))
            seconds = time.monotonic() - begun
        if turn:
            rates[who].append(answered / seconds)
            say(f"{who}: {rates[who][-1]:,.1f} tokens/s")
    a, b = (statistics.median(rates[who]) for who in "AB")
    return {
        "efficiency": round(a / b, 4),
        "tokens_per_s": round(a, 1),
        "tokens_per_s_bare": round(b, 1),
        "prefix_cache": "emptied before each turn" if forgot else "as the server has it",
    }


def _forget(url: str) -> bool:
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/reset_prefix_cache", method="POST")):
            return True
    except urllib.error.HTTPError:
        return False


def cpu(url: str, count: int, in_flight: int) -> dict[str, float]:
    pending, videos = requests("fake", count), [sample(number) for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        job = GenerationJob(folder, url, "fake", in_flight)
        job.sheets(videos)
        job.write()
    middle = time.process_time()
    asyncio.run(bare(url, pending, in_flight))
    end = time.process_time()
    sizes = [len(request.payload) for request in pending]
    return {
        "cpu_ms_per_request": round((middle - begun) / count * 1000, 4),
        "cpu_ms_bare": round((end - middle) / count * 1000, 4),
        "request_bytes": round(sum(sizes) / count),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests, one A B B A")
    parser.add_argument("--server", metavar="URL", help="a real server, for efficiency")
    parser.add_argument("--model", default="fake")
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="where a real server's answers are cut")
    arguments = parser.parse_args()
    many = 1_000 if arguments.quick else 10_000
    figures: dict[str, Any] = {"requests": many, **faults(many)}
    say(f"faults: {figures}")
    with ExitStack() as stack:
        quick = stack.enter_context(fake_server.running("--delay", "0.05", *SAYS))
        figures |= cpu(quick.url, many, arguments.in_flight)
        say(f"CPU: {figures['cpu_ms_per_request']} ms a request, of a bare loop {figures['cpu_ms_bare']}")
        url = arguments.server
        if url is None:
            url = stack.enter_context(fake_server.running("--delay", str(SERVICE_S), *SAYS)).url
        turns = arguments.in_flight * (5 if arguments.quick else 20)
        url = Endpoint(url=url).url
        figures |= efficiency(
            url, arguments.model, turns, arguments.in_flight, "ABBA" * (1 if arguments.quick else 2), arguments.tokens
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
