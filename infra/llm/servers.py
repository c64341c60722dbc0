"""OpenAI-compatible servers (vLLM above all) as an engine: balanced, bounded, patient, and clear about what is wrong.

What an attempt may end in:

    an answer                      200 with as many choices as were asked for, from the model that was asked
    the item's own fault           400, 413, 422 with a reason: "too_long: …" or "refused: …", kept like an answer
    a fault that may pass          408, 425, 429, 5xx, resets, timeouts, truncated JSON, HTML, empty choices, endless
                                   bodies, another model's answer: tried again after a pause, elsewhere if there is one
    the endpoint's fault           404 for the model; a wrong key or path before it ever answered: StageError

Faults say little about whose they are, so an endpoint under suspicion is sent a control: a question of one token. Where
it fails too, the endpoint is left out and sent controls after growing pauses until one is answered. Where it goes well,
the fault is the ask's, which is given up after `tries` faults; no other ask waits for any of this. When nothing but
controls is answered, the servers count as gone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from infra.config import Strict
from infra.errors import ConfigError, StageError
from infra.hashing import draw_fractions
from infra.llm.requests import GAVE_UP, Completion, Request

if TYPE_CHECKING:
    import aiohttp

#: Faults in a row after which an endpoint is sent a control; ours. Where nothing answered at all, one is enough.
PROBE_AFTER = 3
#: Asks given up in a row, none answered in between, after which they cannot all be bad: a server may answer controls
#: and fail at what it is really asked, at schemas for instance; ours.
MAX_GIVEN_UP = 16
#: Answers from another model in a row, after which nobody believes in chance any more; ours.
MAX_WRONG_MODEL = 8
#: Seconds: for a connection, for a control, between two complaints that no server answers; ours.
CONNECT_S, CONTROL_S, TELL_EVERY_S = 10.0, 60.0, 60.0
#: Idle connections are dropped before servers do so: uvicorn, which vLLM runs on, closes them after 5 s, and a request
#: that goes out at that moment would be lost.
KEEP_ALIVE_S = 3.0

# How vLLM (several versions), OpenAI and others word it.
_TOO_LONG = re.compile(
    r"context.?(?:length|window)|maximum (?:model|input) length|max_model_len|too long|tokens\W.{0,20}too large"
    r"|must be at least 1, got -",
    re.IGNORECASE,
)
_PASSING = frozenset({408, 425, 429})
_OVERLOAD = frozenset({429, 503})


class Endpoint(Strict):
    """One server, or one address that stands for several.

    url: where its /v1 is, with or without "/v1".
    in_flight: requests at a time from one process; 64 is ours, about what FP8 70B on one H200 answers well at once.
    api_key_env: the environment variable that holds its key; None: it wants none.
    """

    url: str
    in_flight: int = Field(default=64, ge=1)
    api_key_env: str | None = None

    @field_validator("url")
    @classmethod
    def _is_base(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a server's address is http://HOST:PORT or https://…")
        if "@" in parts.netloc:
            raise ValueError("no passwords in addresses: put the key into a variable and name it in api_key_env")
        if parts.query or parts.fragment:
            raise ValueError("the address of a server ends with its path")
        return value.rstrip("/").removesuffix("/v1")


class ServersUnavailable(StageError):
    """No server answered for as long as was agreed to wait, or none but small questions. What was answered before is in
    the cache."""


class TransientFault(Exception):
    """An attempt that may go well another time. overload: the server asks for less; silent: nothing came back."""

    def __init__(self, text: str, *, overload: bool = False, silent: bool = False, pause_s: float = 0.0) -> None:
        super().__init__(text)
        self.text = text
        self.overload = overload
        self.silent = silent
        self.pause_s = pause_s


@dataclass(eq=False)
class _EndpointState:
    """An endpoint and how it is doing."""

    endpoint: Endpoint
    headers: Mapping[str, str]
    busy: int = 0
    open: bool = True
    proven: bool = False  # has answered at least once
    faults: int = 0  # in a row
    wrong: int = 0  # answers from another model in a row
    last_error: str = ""
    watch: asyncio.Task[None] | None = None

    @property
    def load(self) -> float:
        return self.busy / self.endpoint.in_flight


@dataclass(eq=False)
class _Waiter:
    slot: asyncio.Future[_EndpointState | None]
    avoid: _EndpointState | None


@dataclass(eq=False)
class Servers:
    """An async context manager; `ask` may be called any number of times at once, within one event loop.

    notify: receives a sentence when an endpoint is left out, when none answers (then once a minute at most), and when
    one answers again.
    timeout_s: for one attempt, queueing at the server included. patience_s: how long to wait when no endpoint answers,
    counted from when the last one was left out; for one that accepts requests and never answers, that takes timeout_s
    and a control.
    tries: faults after which an ask is given up while others go through; pause_s, max_pause_s: before the second
    attempt, doubled each time, and at most, times a keyed draw from [0.5, 1). max_bytes: of one response.
    All defaults are ours.
    retries: attempts beyond the first of each request, so far.
    """

    endpoints: Sequence[Endpoint]
    notify: Callable[[str], None]
    timeout_s: float = 600.0
    patience_s: float = 600.0
    tries: int = 8
    pause_s: float = 0.5
    max_pause_s: float = 30.0
    max_bytes: int = 8 * 2**20
    seed: int = 0
    retries: int = field(default=0, init=False)

    async def __aenter__(self) -> Servers:
        """Connects to nothing yet. ConfigError where there is no endpoint, or a key's variable is not set."""
        import aiohttp

        if not self.endpoints:
            raise ConfigError("no server is configured")
        self._lines = [_EndpointState(endpoint, _headers(endpoint)) for endpoint in self.endpoints]
        self._waiters: deque[_Waiter] = deque()
        self._through = self._given_up = 0
        self._alone: asyncio.TimerHandle | None = None
        self._told_at: float | None = None
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[str] = self._loop.create_future()  # why nothing is asked any more
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._long = aiohttp.ClientTimeout(total=self.timeout_s, sock_connect=CONNECT_S)
        self._short = aiohttp.ClientTimeout(total=min(CONTROL_S, self.timeout_s), sock_connect=CONNECT_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stop("the servers were closed while they were asked")
        watches = [line.watch for line in self._lines if line.watch is not None]
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        if self._alone is not None:
            self._alone.cancel()
        await self._session.close()

    async def complete(self, request: Request) -> Completion:
        """The answer of one of the servers; its error is "too_long: …", "refused: …" or "gave_up: …".

        Raises StageError where an endpoint does not serve what is asked of it, ServersUnavailable where none answers.
        When it is cancelled, so is the request, and its slot is free.
        """
        faults = through = 0
        last: _EndpointState | None = None
        while True:
            line = await self._take(last, first=bool(faults))
            try:
                answer = await self._attempt(line, request, self._long)
                self._went_well(line)
                self._given_up = 0
                return answer
            except TransientFault as fault:
                self._went_wrong(line, fault, request.model)
                faults += 1
                if faults == 1:
                    through = self._through
                if faults > self.tries and self._through > through:
                    self._given_up += 1
                    if self._given_up >= MAX_GIVEN_UP:
                        self._stop(f"the last {MAX_GIVEN_UP} asks all failed, small ones are answered: {fault.text}")
                        raise self._unavailable_error() from None
                    return Completion((), (), request.model, error=f"{GAVE_UP}: {fault.text}")
                self.retries += 1
                pause = max(self._pause(request.key.hex(), faults), min(fault.pause_s, self.max_pause_s))
                if fault.overload:  # the slot sleeps too: what the server asks for is fewer requests
                    await self._sleep(pause)
                    pause = 0.0
            finally:
                self._give(line)
            last = line
            await self._sleep(pause)

    async def models(self) -> dict[str, list[str] | None]:
        """The models that each endpoint says it serves, by its URL; None where it does not say."""
        names = await asyncio.gather(*(self._served(line) for line in self._lines))
        return {line.endpoint.url: found for line, found in zip(self._lines, names, strict=True)}

    # -- slots ------------------------------------------------------------------------------------------------------

    async def _take(self, avoid: _EndpointState | None, *, first: bool) -> _EndpointState:
        """A slot of the least loaded endpoint, another than `avoid` if there is one; in the order of asking, except
        that those who ask again go first."""
        if self._end.done():
            raise self._unavailable_error()
        waiter = _Waiter(self._loop.create_future(), avoid)
        if first:
            self._waiters.appendleft(waiter)
        else:
            self._waiters.append(waiter)
        self._hand_out()
        try:
            line = await waiter.slot
        except asyncio.CancelledError:
            given = waiter.slot.result() if waiter.slot.done() and not waiter.slot.cancelled() else None
            if given is not None:
                self._give(given)
            raise
        if line is None:
            raise self._unavailable_error()
        return line

    def _give(self, line: _EndpointState) -> None:
        line.busy -= 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._waiters:
            waiter = self._waiters[0]
            if not waiter.slot.done():  # else it was cancelled
                free = [line for line in self._lines if line.open and line.busy < line.endpoint.in_flight]
                if not free:
                    return
                line = min(free, key=lambda line: (line is waiter.avoid, line.load))
                line.busy += 1
                waiter.slot.set_result(line)
            self._waiters.popleft()

    # -- how the endpoints are doing --------------------------------------------------------------------------------

    def _went_well(self, line: _EndpointState) -> None:
        self._through += 1
        line.proven = True
        line.faults = 0
        if line.watch is not None:
            if line.watch is not asyncio.current_task():
                line.watch.cancel()
            self._reopen(line)

    def _went_wrong(self, line: _EndpointState, fault: TransientFault, model: str) -> None:
        line.last_error = fault.text
        line.faults += 1
        if line.watch is None and (fault.silent or line.faults >= PROBE_AFTER) and not self._end.done():
            line.watch = asyncio.create_task(self._probe_until_up(line, model))

    async def _probe_until_up(self, line: _EndpointState, model: str) -> None:
        """Send controls until one is answered; from the first that fails on the endpoint is left out."""
        control = Request({"model": model, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1})
        for number in itertools.count(1):
            try:
                await self._attempt(line, control, self._short)
            except StageError:
                self._reopen(line)  # it speaks, and the next ask will be told what it says
                return
            except TransientFault as fault:
                line.last_error = fault.text
                line.open = False
                self._report_outage(line, number)
                await asyncio.sleep(self._pause(line.endpoint.url, number))
            else:
                self._went_well(line)
                return

    def _reopen(self, line: _EndpointState) -> None:
        line.watch = None
        line.faults = 0
        if line.open:
            return
        line.open = True
        if self._alone is not None:
            self._alone.cancel()
            self._alone = self._told_at = None
        self.notify(f"{line.endpoint.url} answers again")
        self._hand_out()

    def _report_outage(self, line: _EndpointState, number: int) -> None:
        if any(other.open for other in self._lines):
            if number == 1:
                self.notify(f"{line.endpoint.url} is left out and tried again now and then: {line.last_error}")
            return
        now = self._loop.time()
        if self._alone is None:
            self._alone = self._loop.call_at(now + self.patience_s, self._give_up)
        if self._told_at is None or now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            left = max(0.0, self._alone.when() - now)
            self.notify(f"no server answers, waiting for {left:,.0f} s more: {self._errors()}")

    def _give_up(self) -> None:
        self._stop(f"no server has answered for {self.patience_s:,.0f} s: {self._errors()}")

    def _stop(self, why: str) -> None:
        if not self._end.done():
            self._end.set_result(why)
        for waiter in self._waiters:
            if not waiter.slot.done():
                waiter.slot.set_result(None)
        self._waiters.clear()

    def _unavailable_error(self) -> ServersUnavailable:
        hint = "see to the servers and run again: answers so far are kept, none is asked for twice"
        return ServersUnavailable(self._end.result(), hint=hint)

    def _errors(self) -> str:
        return "; ".join(f"{line.endpoint.url}: {line.last_error}" for line in self._lines)

    def _pause(self, key: str, number: int) -> float:
        """Seconds before attempt `number` + 1: doubling, with jitter that is a function of the key."""
        draw = float(draw_fractions(self.seed, [key], f"pause {number}")[0])
        return min(self.max_pause_s, self.pause_s * 2.0 ** min(number - 1, 30)) * (0.5 + draw / 2)

    async def _sleep(self, seconds: float) -> None:
        """`seconds`, or until nobody is waited for any more."""
        if seconds > 0:
            await asyncio.wait([self._end], timeout=seconds)

    # -- one attempt ------------------------------------------------------------------------------------------------

    async def _attempt(self, line: _EndpointState, request: Request, timeout: aiohttp.ClientTimeout) -> Completion:
        """One request. Raises TransientFault, or StageError for what is the endpoint's."""
        url = f"{line.endpoint.url}/v1/chat/completions"
        status, raw, pause_s = await self._exchange(line, "POST", url, request.payload, timeout)
        if status == 200:
            answer = parse_completion(raw, int(request.body.get("n") or 1))
            if answer.model == request.model:
                line.wrong = 0
                return answer
            raise await self._wrong_model(line, request.model, answer.model)
        error = permanent_error(status, raw)
        if error is not None:
            return Completion((), (), request.model, error=error)
        said, clear = parse_error(raw)
        text = _status(status, said)
        if status in _PASSING or status >= 500:
            raise TransientFault(text, overload=status in _OVERLOAD, pause_s=pause_s)
        if status == 404 and clear and re.search("model", said, re.IGNORECASE):
            raise self._unknown_model(line, f"the server knows no model {request.model!r}", await self._served(line))
        if line.proven:
            raise TransientFault(text)
        raise StageError(f"the server does not take requests: {text}", where=line.endpoint.url, hint=_hint(status))

    async def _wrong_model(self, line: _EndpointState, asked: str, got: str) -> TransientFault | StageError:
        line.wrong += 1
        served = await self._served(line)
        if line.wrong >= MAX_WRONG_MODEL or (served is not None and asked not in served):
            return self._unknown_model(line, f"asked for the model {asked!r}, the server answers as {got!r}", served)
        return TransientFault(f"answered as {got!r}")

    def _unknown_model(self, line: _EndpointState, what: str, served: list[str] | None) -> StageError:
        names = "it does not say what it serves" if served is None else f"it serves: {', '.join(served) or 'nothing'}"
        return StageError(what, where=line.endpoint.url, hint=names)

    async def _served(self, line: _EndpointState) -> list[str] | None:
        try:
            url = f"{line.endpoint.url}/v1/models"
            status, raw, _ = await self._exchange(line, "GET", url, None, self._short)
            return [_plain(str(model["id"])) for model in json.loads(raw)["data"]] if status == 200 else None
        except (TransientFault, ValueError, RecursionError, KeyError, TypeError):
            return None

    async def _exchange(
        self, line: _EndpointState, method: str, url: str, data: bytes | None, timeout: aiohttp.ClientTimeout
    ) -> tuple[int, bytes, float]:
        """(status, body, seconds that the server asks to wait)."""
        import aiohttp

        try:
            async with self._session.request(
                method, url, data=data, headers=line.headers, timeout=timeout, allow_redirects=False
            ) as response:
                parts, size = [], 0
                async for part in response.content.iter_any():
                    size += len(part)
                    if size > self.max_bytes:
                        response.close()
                        raise TransientFault(f"more than {self.max_bytes:,} bytes came back")
                    parts.append(part)
                wait = response.headers.get("Retry-After", "")
                return response.status, b"".join(parts), float(wait) if wait.isdecimal() else 0.0
        except aiohttp.ConnectionTimeoutError:
            raise TransientFault("no connection in time", silent=True) from None
        except TimeoutError:
            raise TransientFault(f"no answer within {timeout.total:g} s", silent=True) from None
        except (aiohttp.ClientError, OSError) as error:
            unreached = isinstance(error, aiohttp.ClientConnectorError)
            raise TransientFault(_plain(f"{type(error).__name__}: {error}"), silent=unreached) from None


def parse_completion(raw: bytes, n: int) -> Completion:
    """A chat completion with `n` choices; halves of surrogate pairs in texts become U+FFFD. Raises TransientFault where
    it is something else."""
    try:
        value = json.loads(raw)
        choices = sorted(value["choices"], key=lambda choice: int(choice["index"]))
        texts = tuple(_unicode(choice["message"]["content"]) for choice in choices)
        finish = tuple(str(choice.get("finish_reason") or "") for choice in choices)
        model = str(value["model"])
    except (ValueError, RecursionError):
        raise TransientFault(f"not JSON: {_plain(raw[:80].decode('utf-8', 'replace'))!r}") from None
    except (KeyError, TypeError, AttributeError):
        raise TransientFault(f"not a chat completion: {_plain(raw[:80].decode('utf-8', 'replace'))!r}") from None
    if not {"abort", "error"}.isdisjoint(finish):  # a server that is shutting down answers 200 all the same
        raise TransientFault("stopped in the middle of an answer")
    if len(choices) != n:
        raise TransientFault(f"{len(choices)} choices where {n} were asked for")
    usage = value.get("usage")
    cached = _part(usage, "prompt_tokens_details")
    return Completion(
        texts,
        finish,
        model,
        _count(usage, "prompt_tokens"),
        _count(usage, "completion_tokens"),
        _count(cached, "cached_tokens"),
    )


def permanent_error(status: int, raw: bytes) -> str | None:
    """A Completion's error, "too_long: …" or "refused: …", where a response is about the item itself and would be the
    same another time; else None. `raw`: the body that came with `status`."""
    said, clear = parse_error(raw)
    if status != 413 and not (status in (400, 422) and clear):
        return None
    kind = "too_long" if status == 413 or _TOO_LONG.search(said) else "refused"
    return f"{kind}: {_status(status, said)}"


def _status(status: int, said: str) -> str:
    return f"{status}: {said}" if said else f"status {status}"


def parse_error(raw: bytes) -> tuple[str, bool]:
    """(what a server says is wrong, whether it says so in JSON as an OpenAI-compatible server does)."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return _plain(re.sub(r"<[^>]*>", " ", raw[:2000].decode("utf-8", "replace"))), False
    error = _part(value, "error") or value
    for key in ("message", "detail"):
        said = _part(error, key)
        if said:
            return _plain(str(said)), True
    return _plain(str(error)), False


def _part(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _count(value: Any, key: str) -> int:
    found = _part(value, key)
    return found if isinstance(found, int) and found > 0 else 0


def _unicode(content: Any) -> str:
    """A choice's content; servers give null for an empty one."""
    if content is None:
        return ""
    if not isinstance(content, str):
        raise TypeError("content is no text")
    return content if content.isascii() else content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _plain(text: str, limit: int = 300) -> str:
    """What others wrote, fit for a terminal and a table: one line, no control characters, bounded."""
    text = "".join(c if c.isprintable() else " " for c in text[: 4 * limit])
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if endpoint.api_key_env is not None:
        key = os.environ.get(endpoint.api_key_env)
        if not key:
            raise ConfigError(
                f"the variable {endpoint.api_key_env} with the server's key is not set",
                where=endpoint.url,
                hint=f"export {endpoint.api_key_env}=… before running",
            )
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _hint(status: int) -> str:
    if status in (401, 403):
        return "check the key: api_key_env names the variable that holds it"
    return "check the address: it should be where the server's /v1 is"
