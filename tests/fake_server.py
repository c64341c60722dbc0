"""A small OpenAI-compatible server over real HTTP, with injected faults. Its answers are a function of the request.

    python -m tests.fake_server --port 0 [--faults 0.05] [--fault hang=0.1] [--delay 0.5] [--answer module:function] …

prints {"url": …} once it listens. It serves /v1/chat/completions, /v1/models, /health, and /counts:

    {"received": {KEY: n}, "answered": {KEY: n}, "faults": {CLASS: n}, "most_in_flight": n}

KEY is the hex of Request.key; answered counts right answers that were delivered whole. Which request fails, in which
way and how many times in a row is a keyed hash of the body; later attempts are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

from infra.hashing import canonical_json, digest, draw_fractions

#: 429, 500, 503; the connection reset; no answer at all; JSON cut off (every other time the connection is cut with it);
#: a page of HTML with status 200 or 502; no choices; an answer by another model; a body without end.
FAULTS = ("429", "500", "503", "reset", "hang", "truncated", "html", "empty", "wrong_model", "endless")

Body = dict[str, Any]


def words(body: Body, chars: int = 1000) -> str:
    """`chars` characters of made-up words, a function of the body."""
    letters = digest(canonical_json(body), size=64).hex()
    text = " ".join(letters[i : i + 3 + i % 5] for i in range(0, 120, 5))
    return (text * (chars // len(text) + 1))[:chars]


@dataclass
class FakeServer:
    """answer: body → text; for choice i > 0 of n the body has "choice": i beside.
    lenient: takes any model's name and answers in its own, as some servers do.
    faults: share of each class; at most `in_a_row` times for one body. poison: what is in the body → the class that it
    always fails with. down: the class that everything fails with for now. In these two any status is a class too.
    delay_s: service time. max_context: tokens, of 4 characters. api_key: 401 without it.
    """

    answer: Callable[[Body], str] = words
    model: str = "fake"
    lenient: bool = False
    faults: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    in_a_row: int = 2
    poison: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    max_context: int = 1_000_000
    api_key: str | None = None
    port: int = 0
    down: str | None = None

    received: Counter[str] = field(default_factory=Counter, init=False)
    answered: Counter[str] = field(default_factory=Counter, init=False)
    failed: Counter[str] = field(default_factory=Counter, init=False)
    in_flight: int = field(default=0, init=False)
    most_in_flight: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        unknown = {name for name in (*self.faults, *self.poison.values()) if not name.isdecimal()} - set(FAULTS)
        if unknown:
            raise ValueError(f"no such fault: {sorted(unknown)}; there are {FAULTS}")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeServer:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/counts", self._counts)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def counts(self) -> dict[str, Any]:
        return {
            "received": dict(self.received),
            "answered": dict(self.answered),
            "faults": dict(self.failed),
            "most_in_flight": self.most_in_flight,
        }

    def fault_of(self, raw: bytes, key: str, attempt: int) -> str | None:
        """The class that attempt number `attempt` (1, 2, …) of a body fails with."""
        if self.down is not None:
            return self.down
        for text, name in self.poison.items():
            if text.encode() in raw:
                return name
        draw = float(draw_fractions(self.seed, [key], "class")[0])
        for name, share in self.faults.items():
            if draw < share:
                times = 1 + int(float(draw_fractions(self.seed, [key], "times")[0]) * self.in_a_row)
                return name if attempt <= times else None
            draw -= share
        return None

    # -- handlers ---------------------------------------------------------------------------------------------------

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.down is None else 503)

    async def _counts(self, request: web.Request) -> web.Response:
        return web.json_response(self.counts())

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return await self._respond(request, await request.read())
        except ConnectionResetError:  # the client has gone
            return web.Response()
        finally:
            self.in_flight -= 1

    async def _respond(self, request: web.Request, raw: bytes) -> web.StreamResponse:
        if self.api_key is not None and request.headers.get("Authorization") != f"Bearer {self.api_key}":
            return _error(401, "no key, or a wrong one", "AuthenticationError")
        try:
            body = json.loads(raw)
            key = digest(raw).hex()
        except ValueError as error:
            return _error(400, f"not JSON: {error}", "BadRequestError")
        self.received[key] += 1
        fault = self.fault_of(raw, key, self.received[key])
        if fault is not None:
            self.failed[fault] += 1
            if fault.isdecimal():
                return _error(int(fault), "not now", "Error")
            fail: Callable[..., Awaitable[web.StreamResponse]] = getattr(self, f"_{fault}")
            return await fail(request, body)
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if body.get("model") != self.model and not self.lenient:
            return _error(404, f"The model `{body.get('model')}` does not exist.", "NotFoundError")
        if not body.get("messages"):
            return _error(400, "messages: at least one is wanted", "BadRequestError")
        needed = _tokens(body["messages"]) + int(body.get("max_tokens") or 0)
        if needed > self.max_context:
            text = f"the maximum context length is {self.max_context} tokens; this request comes to {needed}"
            return _error(400, text, "BadRequestError")
        response = web.json_response(self._completion(body))
        await response.prepare(request)
        await response.write_eof()
        self.answered[key] += 1
        return response

    def _completion(self, body: Body) -> Body:
        n = int(body.get("n") or 1)
        texts = [self.answer({**body, "choice": i} if i else body) for i in range(n)]
        first, prompt = body["messages"][:1], body["messages"]
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "model": self.model,
            "choices": [
                {"index": i, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
                for i, text in enumerate(texts)
            ],
            "usage": {
                "prompt_tokens": _tokens(prompt),
                "completion_tokens": sum(_tokens(text) for text in texts),
                "prompt_tokens_details": {"cached_tokens": _tokens(first) if len(prompt) > 1 else 0},
            },
        }

    # -- faults -----------------------------------------------------------------------------------------------------

    async def _reset(self, request: web.Request, body: Body) -> web.StreamResponse:
        _cut(request)
        return web.Response()

    async def _hang(self, request: web.Request, body: Body) -> web.StreamResponse:
        await asyncio.sleep(3600)
        return web.Response()

    async def _truncated(self, request: web.Request, body: Body) -> web.StreamResponse:
        whole = json.dumps(self._completion(body)).encode()
        half = whole[: len(whole) // 2]
        if self.failed["truncated"] % 2:
            return web.Response(body=half, content_type="application/json")
        response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
        await response.prepare(request)
        await response.write(half)
        _cut(request)
        return response

    async def _html(self, request: web.Request, body: Body) -> web.StreamResponse:
        page = "<html><head><title>502</title></head><body><h1>Bad gateway</h1><script>alert(1)</script></body></html>"
        return web.Response(status=502 if self.failed["html"] % 2 else 200, text=page, content_type="text/html")

    async def _empty(self, request: web.Request, body: Body) -> web.StreamResponse:
        return web.json_response({**self._completion(body), "choices": []})

    async def _wrong_model(self, request: web.Request, body: Body) -> web.StreamResponse:
        return web.json_response({**self._completion(body), "model": "another-model"})

    async def _endless(self, request: web.Request, body: Body) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"choices": [')
        while True:  # until the client has gone, which raises
            await response.write(b" " * 2**16)


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _error(status: int, message: str, kind: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": kind, "code": status}}, status=status)


def _tokens(content: Any) -> int:
    return (len(content) if isinstance(content, str) else len(json.dumps(content))) // 4 + 1


# -- in a process of its own ------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A server in a process of its own."""

    url: str
    process: subprocess.Popen[str]

    def counts(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/counts") as response:
            return dict(json.load(response))


@contextmanager
def running(*arguments: str) -> Iterator[Running]:
    """The command line above, until the block ends, or this process does."""
    command = [sys.executable, "-m", "tests.fake_server", "--until-eof", *arguments]
    root = Path(__file__).resolve().parent.parent
    process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    try:
        line = process.stdout.readline()
        assert line, "the fake server did not start"
        yield Running(json.loads(line)["url"], process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


async def serve(server: FakeServer, until: Callable[[], Awaitable[object]]) -> None:
    async with server:
        sys.stdout.write(json.dumps({"url": server.url}) + "\n")
        sys.stdout.flush()
        await until()


async def _forever() -> None:
    await asyncio.Event().wait()


async def _until_eof() -> None:
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


def _parse_pairs(pairs: list[str]) -> dict[str, str]:
    return dict(pair.rsplit("=", 1) for pair in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fake_server")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--answer", metavar="MODULE:FUNCTION", help="body → text; default: made-up words")
    parser.add_argument("--chars", type=int, default=1000, help="length of the made-up words")
    parser.add_argument("--faults", type=float, default=0.0, metavar="SHARE", help="of each class")
    parser.add_argument("--fault", action="append", default=[], metavar="CLASS=SHARE")
    parser.add_argument("--in-a-row", type=int, default=2)
    parser.add_argument("--poison", action="append", default=[], metavar="TEXT=CLASS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--max-context", type=int, default=1_000_000, metavar="TOKENS")
    parser.add_argument("--api-key")
    parser.add_argument("--until-eof", action="store_true", help="end when stdin does")
    options = parser.parse_args()
    faults = dict.fromkeys(FAULTS, options.faults) if options.faults else {}
    faults |= {name: float(share) for name, share in _parse_pairs(options.fault).items()}
    if options.answer:
        module, name = options.answer.split(":")
        answer = getattr(importlib.import_module(module), name)
    else:

        def answer(body: Body) -> str:
            return words(body, options.chars)

    server = FakeServer(
        answer=answer,
        model=options.model,
        faults=faults,
        seed=options.seed,
        in_a_row=options.in_a_row,
        poison=_parse_pairs(options.poison),
        delay_s=options.delay,
        max_context=options.max_context,
        api_key=options.api_key,
        port=options.port,
    )
    asyncio.run(serve(server, _until_eof if options.until_eof else _forever))


if __name__ == "__main__":
    main()
