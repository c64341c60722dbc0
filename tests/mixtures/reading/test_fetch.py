from __future__ import annotations

import asyncio
import gc
import os
import pickle
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StageError
from mixtures.loader import Loader
from mixtures.reading.fetch import ByteRange, Fetcher, fetch_range
from tests.mixtures import small

SIZE = 6000


def tar_content(number: int) -> bytes:
    return np.random.default_rng(number).bytes(SIZE)


@pytest.fixture(scope="module")
def local_tars(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("near")
    for i in range(3):
        (folder / f"{i}.tar").write_bytes(tar_content(i))
    return [str(folder / f"{i}.tar") for i in range(3)]


@pytest.fixture(scope="module")
def remote_tars() -> list[str]:
    for i in range(3):
        fsspec.filesystem("memory").pipe_file(f"/fetch/{i}.tar", tar_content(i))
    return [f"memory://fetch/{i}.tar" for i in range(3)]


SPANS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, SIZE), st.integers(0, 900)).map(
        lambda s: ByteRange(s[0], s[1], min(s[2], SIZE - s[1]), "k")
    ),
    max_size=60,
)


@given(SPANS, st.integers(1, 4000), st.integers(0, 500), st.integers(1, 3000))
def test_bytes_come_in_order_and_within_the_bound(
    local_tars: list[str], remote_tars: list[str], spans: list[ByteRange], cache: int, gap: int, block: int
) -> None:
    whole = [tar_content(i) for i in range(3)]
    for files in (local_tars, remote_tars, [local_tars[0], remote_tars[1], local_tars[2]]):
        fetcher = Fetcher(files, cache_bytes=cache, gap_bytes=gap, block_bytes=block, threads=2)
        read = [(span, bytes(content)) for span, content in fetcher.stream(iter(spans))]
        assert read == [(span, whole[span.file][span.offset : span.offset + span.size]) for span in spans]
        largest = max((span.size for span in spans), default=0)
        assert fetcher.peak <= max(cache, 2 * largest)
        assert fetcher.buffered == 0
        assert (fetcher.requests == 0) == (
            files is local_tars or not any(s.file == 1 or files is remote_tars for s in spans)
        )
        fetcher.close()


def test_neighbours_are_one_request(remote_tars: list[str]) -> None:
    fetcher = Fetcher(remote_tars)
    spans = [ByteRange(1, i * 512, 512, "k") for i in np.random.default_rng(1).permutation(10)]
    assert [bytes(content) for _, content in fetcher.stream(spans)] == [
        tar_content(1)[s.offset : s.offset + 512] for s in spans
    ]
    assert fetcher.requests == 1
    # A hole of 1,000 bytes is read over when that is allowed, and not when it is not.
    for gap, requests in ((1000, 1), (999, 2)):
        fetcher = Fetcher(remote_tars, gap_bytes=gap)
        assert len(list(fetcher.stream([ByteRange(0, 0, 500), ByteRange(0, 1500, 500)]))) == 2
        assert fetcher.requests == requests


def test_reading_continues_while_the_first_ranges_are_used(remote_tars: list[str]) -> None:
    fetcher = Fetcher(remote_tars, cache_bytes=2000)
    stream = fetcher.stream(ByteRange(0, i * 500, 500) for i in range(12))
    next(stream)
    assert fetcher.requests == 2  # two segments of two spans each, neighbours joined
    stream.close()
    assert fetcher.buffered == 0
    assert not [t for t in threading.enumerate() if t.name.startswith("fetch")]


def test_errors_on_missing_and_short_files_name_the_sample(
    local_tars: list[str], remote_tars: list[str], tmp_path: Path
) -> None:
    for files in ([str(tmp_path / "no.tar")], ["memory://fetch/no.tar"]):
        with pytest.raises(StageError, match=r"no\.tar: the shard of sample abc cannot be opened"):
            list(Fetcher(files).stream([ByteRange(0, 0, 10, "abc")]))
    for files in (local_tars, remote_tars):
        stream = Fetcher(files).stream([ByteRange(0, 0, 10, "first"), ByteRange(1, SIZE - 10, 20, "abc")])
        assert bytes(next(stream)[1]) == tar_content(0)[:10]
        with pytest.raises(StageError, match=r"1\.tar: .* 10 of 20 bytes of sample abc from byte 5,990 exist"):
            next(stream)


def test_a_reader_that_is_dropped_leaves_no_file_open(local_tars: list[str]) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    fetcher = Fetcher(local_tars)
    for _ in fetcher.stream(ByteRange(file, 0, 1, "k") for file in range(len(local_tars))):
        pass
    assert set(os.listdir("/proc/self/fd")) > before  # noqa: PTH208
    del fetcher
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_many_files_do_not_stay_open(tmp_path: Path) -> None:
    files = []
    for i in range(200):
        (tmp_path / f"{i}").write_bytes(bytes([i]) * 10)
        files.append(str(tmp_path / f"{i}"))
    fetcher = Fetcher(files)
    assert [content[0] for _, content in fetcher.stream(ByteRange(i % 200, 3, 4) for i in range(400))] == [
        i % 200 for i in range(400)
    ]
    assert len(fetcher._open) <= 128
    copy = pickle.loads(pickle.dumps(fetcher))
    assert [content[0] for _, content in copy.stream([ByteRange(7, 0, 1)])] == [7]
    fetcher.close()
    copy.close()


# -- over HTTP --------------------------------------------------------------------------------------------------


@dataclass
class Server:
    """A real server: /good knows ranges, /whole does not, /shaky fails twice for each address, /closed always."""

    folder: Path
    asked: list[tuple[str, str]] = field(default_factory=list)
    base: str = ""

    async def shaky(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, request.headers.get("Range", "")))
        if sum(path == request.path for path, _ in self.asked) <= 2:
            return web.Response(status=503)
        return web.FileResponse(self.folder / request.match_info["name"])

    async def whole(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=(self.folder / request.match_info["name"]).read_bytes())

    async def closed(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, ""))
        return web.Response(status=int(request.match_info["status"]))

    def application(self) -> web.Application:
        application = web.Application()
        application.router.add_static("/good", self.folder)
        application.router.add_get("/shaky/{name}", self.shaky)
        application.router.add_get("/whole/{name}", self.whole)
        application.router.add_get("/closed/{status}/{name}", self.closed)
        return application


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("http")
    for i in range(3):
        (folder / f"{i}.tar").write_bytes(tar_content(i))
    host = Server(folder)
    loop = asyncio.new_event_loop()
    started = threading.Event()
    runner: Any = None

    async def start() -> None:
        nonlocal runner
        runner = web.AppRunner(host.application())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()

    thread = threading.Thread(target=lambda: (loop.run_until_complete(start()), loop.run_forever()), daemon=True)
    thread.start()
    assert started.wait(30)
    yield host
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


@given(spans=SPANS.filter(len))
def test_ranges_over_http(server: Server, spans: list[ByteRange]) -> None:
    fetcher = Fetcher([f"{server.base}/good/{i}.tar" for i in range(3)], cache_bytes=3000, gap_bytes=100, threads=3)
    filled = [span for span in spans if span.size]
    read = [bytes(content) for _, content in fetcher.stream(filled)]
    assert read == [tar_content(span.file)[span.offset : span.offset + span.size] for span in filled]


def test_requests_that_fail_over_http_are_retried(server: Server) -> None:
    pauses: list[float] = []
    assert fetch_range(f"{server.base}/shaky/0.tar", 100, 50, pause=pauses.append) == tar_content(0)[100:150]
    assert len(pauses) == 2 and pauses[0] < pauses[1]


def test_workers_that_are_forked_after_a_request_was_made(server: Server) -> None:
    here = small.write(server.folder / "far", {"image": 9, "text": 5})
    far = Loader(f"{server.base}/good/far/mix", batch=3)
    batches = [[sample["__key__"] for sample in batch] for batch in Loader(here, batch=3).batches()]
    assert [[sample["__key__"] for sample in batch] for batch in far.batches()] == batches
    far.set_epoch(0)
    assert [[sample["__key__"] for sample in batch] for batch in far.batches(workers=2)] == batches


def test_errors_over_http_name_file_and_status(server: Server) -> None:
    pauses: list[float] = []
    with pytest.raises(StageError, match="sent the whole file instead of the requested range"):
        fetch_range(f"{server.base}/whole/0.tar", 100, 50, "k", pause=pauses.append)
    with pytest.raises(StageError, match="of sample k cannot be opened"):
        fetch_range(f"{server.base}/good/no.tar", 100, 50, "k", pause=pauses.append)
    with pytest.raises(StageError, match=r"cannot fetch bytes .* of sample k \(status 403\)"):
        fetch_range(f"{server.base}/closed/403/0.tar", 100, 50, "k", pause=pauses.append)
    for offset in (SIZE - 10, SIZE + 10):  # a server answers the first with less, the second with 416
        with pytest.raises(StageError, match=r"10 of 50 bytes of sample k|the file ends before"):
            fetch_range(f"{server.base}/good/0.tar", offset, 50, "k", pause=pauses.append)
    assert not pauses
    with pytest.raises(StageError, match="after 4 tries"):
        fetch_range(f"{server.base}/closed/500/0.tar", 100, 50, "k", pause=pauses.append)
    assert len(pauses) == 3
