"""OpenAI-compatible servers (vLLM above all) as a completion backend: load balancing, bounds, retries and outages.

Outcomes of an attempt:

    completion          200 with the requested number of choices, by the requested model
    permanent error     400, 413, 422 with a reason: "too_long: …" or "refused: …", cached like a completion
    transient fault     408, 425, 429, 5xx, resets, timeouts, truncated JSON, HTML, empty choices, endless bodies,
                        another model's answer: retried after a pause, on another endpoint if there is one
    endpoint's fault    404 for the model; a wrong key or path before the first answer: StageError

A fault does not show whether the request or the endpoint caused it. A suspected endpoint is therefore sent a probe, a
request for one token. If the probe fails too, the endpoint's circuit breaker opens: it gets no requests, and probes
after growing pauses until one succeeds. If the probe succeeds, the request is at fault and is given up after `tries`
faults; other requests never wait for this. Servers that answer nothing but probes count as unavailable.
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
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from infra.config import Strict
from infra.errors import ConfigError, StageError
from infra.hashing import draw_fractions
from infra.llm.requests import GAVE_UP, Completion, Request
from infra.llm.responses import (
    TransientFault,
    format_status,
    parse_completion,
    parse_error,
    permanent_error,
    to_plain_line,
)

if TYPE_CHECKING:
    import aiohttp

#: Consecutive faults after which an endpoint is probed; ours. A fault without any response is enough by itself.
PROBE_AFTER = 3
#: Consecutive requests given up after which the servers count as unavailable: a server may answer probes and fail at
#: real requests, at schemas for instance; ours.
MAX_GIVEN_UP = 16
#: Consecutive answers by another model after which it is no transient fault; ours.
MAX_WRONG_MODEL = 8
#: Seconds: to connect, for a probe, between two messages that no server answers; ours.
CONNECT_TIMEOUT_S, PROBE_TIMEOUT_S, NOTIFY_EVERY_S = 10.0, 60.0, 60.0
#: Seconds after which idle connections are closed: before uvicorn, which vLLM runs on, does so at 5 s and loses a
#: request sent at that moment.
KEEP_ALIVE_S = 3.0

_TRANSIENT = frozenset({408, 425, 429})
_OVERLOAD = frozenset({429, 503})


class Endpoint(Strict):
    """One server, or one address in front of several.

    url: where its /v1 is, with or without "/v1".
    in_flight: maximum concurrent requests of one process; 64 is ours, about the batch of FP8 70B on one H200. At most
        65,536 (ours), since each is a connection.
    api_key_env: the environment variable with its API key; None: no key.
    """

    url: str
    in_flight: int = Field(default=64, ge=1, le=2**16)
    api_key_env: str | None = None

    @field_validator("url")
    @classmethod
    def _to_base_url(cls, url: str) -> str:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("a server's address must be http://HOST:PORT or https://…")
        if "@" in address.netloc:
            raise ValueError("no passwords in addresses: set an environment variable and name it in api_key_env")
        if address.query or address.fragment:
            raise ValueError("a server's address must not have a query or a fragment")
        return url.rstrip("/").removesuffix("/v1")


class ServersUnavailable(StageError):
    """No server answered for `patience_s`, or none answered anything but probes. Earlier completions are cached."""


@dataclass(eq=False)
class _EndpointState:
    """An endpoint's circuit breaker and load. While `available` is False the breaker is open: no requests, only the
    probes of the task `probe`. faults, wrong_model: consecutive; proven: has completed at least one request."""

    endpoint: Endpoint
    headers: Mapping[str, str]
    busy: int = 0
    available: bool = True
    proven: bool = False
    faults: int = 0
    wrong_model: int = 0
    last_error: str = ""
    probe: asyncio.Task[None] | None = None

    @property
    def load(self) -> float:
        return self.busy / self.endpoint.in_flight


@dataclass(eq=False)
class _Waiter:
    slot: asyncio.Future[_EndpointState | None]
    avoid: _EndpointState | None


class _LoadBalancer:
    """The slots of all endpoints, at most `in_flight` each, and the queue of those that wait for one."""

    def __init__(self, states: Sequence[_EndpointState]) -> None:
        self.states = states
        self.waiters: deque[_Waiter] = deque()
        self._closed = False

    async def acquire(self, avoid: _EndpointState | None, *, first: bool) -> _EndpointState | None:
        """Take a slot of the least loaded available endpoint, another than `avoid` if there is one; in the order of
        the calls, but `first` goes to the head of the queue. None once closed."""
        if self._closed:
            return None
        waiter = _Waiter(asyncio.get_running_loop().create_future(), avoid)
        if first:
            self.waiters.appendleft(waiter)
        else:
            self.waiters.append(waiter)
        self.assign_slots()
        try:
            return await waiter.slot
        except asyncio.CancelledError:
            state = waiter.slot.result() if waiter.slot.done() and not waiter.slot.cancelled() else None
            if state is not None:
                self.release(state)
            raise

    def release(self, state: _EndpointState) -> None:
        state.busy -= 1
        self.assign_slots()

    def assign_slots(self) -> None:
        while self.waiters:
            waiter = self.waiters[0]
            if not waiter.slot.done():  # else it was cancelled
                free = [state for state in self.states if state.available and state.busy < state.endpoint.in_flight]
                if not free:
                    return
                state = min(free, key=lambda state: (state is waiter.avoid, state.load))
                state.busy += 1
                waiter.slot.set_result(state)
            self.waiters.popleft()

    def close(self) -> None:
        self._closed = True
        for waiter in self.waiters:
            if not waiter.slot.done():
                waiter.slot.set_result(None)
        self.waiters.clear()


class _Transport:
    """HTTP to the endpoints, one attempt at a time. max_bytes: of one response."""

    def __init__(self, timeout_s: float, max_bytes: int) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._max_bytes = max_bytes
        self._request_timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._probe_timeout = aiohttp.ClientTimeout(
            total=min(PROBE_TIMEOUT_S, timeout_s), sock_connect=CONNECT_TIMEOUT_S
        )

    async def close(self) -> None:
        await self._session.close()

    async def attempt(self, state: _EndpointState, request: Request, *, probe: bool = False) -> Completion:
        """Send one request. Raises TransientFault, or StageError for a fault of the endpoint."""
        url = f"{state.endpoint.url}/v1/chat/completions"
        timeout = self._probe_timeout if probe else self._request_timeout
        status, raw, pause_s = await self._exchange(state, "POST", url, request.payload, timeout)
        if status == 200:
            completion = parse_completion(raw, int(request.body.get("n") or 1))
            if completion.model == request.model:
                state.wrong_model = 0
                return completion
            raise await self._wrong_model_error(state, request.model, completion.model)
        error = permanent_error(status, raw)
        if error is not None:
            return Completion((), (), request.model, error=error)
        message, is_api_error = parse_error(raw)
        text = format_status(status, message)
        if status in _TRANSIENT or status >= 500:
            raise TransientFault(text, overload=status in _OVERLOAD, pause_s=pause_s)
        if status == 404 and is_api_error and re.search("model", message, re.IGNORECASE):
            what = f"the server does not serve model {request.model!r}"
            raise _unknown_model_error(state, what, await self.list_models(state))
        if state.proven:
            raise TransientFault(text)
        raise StageError(f"the server rejects requests: {text}", where=state.endpoint.url, hint=_rejection_hint(status))

    async def _wrong_model_error(
        self, state: _EndpointState, requested: str, answering: str
    ) -> TransientFault | StageError:
        state.wrong_model += 1
        served = await self.list_models(state)
        if state.wrong_model >= MAX_WRONG_MODEL or (served is not None and requested not in served):
            what = f"requested model {requested!r}, the server answers as {answering!r}"
            return _unknown_model_error(state, what, served)
        return TransientFault(f"answered as {answering!r}")

    async def list_models(self, state: _EndpointState) -> list[str] | None:
        """The models that the endpoint lists; None if it does not."""
        try:
            url = f"{state.endpoint.url}/v1/models"
            status, raw, _ = await self._exchange(state, "GET", url, None, self._probe_timeout)
            return [to_plain_line(str(model["id"])) for model in json.loads(raw)["data"]] if status == 200 else None
        except (TransientFault, ValueError, RecursionError, KeyError, TypeError):
            return None

    async def _exchange(
        self, state: _EndpointState, method: str, url: str, payload: bytes | None, timeout: aiohttp.ClientTimeout
    ) -> tuple[int, bytes, float]:
        """Return (status, body, seconds that the server asks to wait)."""
        import aiohttp

        try:
            async with self._session.request(
                method, url, data=payload, headers=state.headers, timeout=timeout, allow_redirects=False
            ) as response:
                chunks, size = [], 0
                async for chunk in response.content.iter_any():
                    size += len(chunk)
                    if size > self._max_bytes:
                        response.close()
                        raise TransientFault(f"more than {self._max_bytes:,} bytes came back")
                    chunks.append(chunk)
                wait = response.headers.get("Retry-After", "")
                return response.status, b"".join(chunks), float(wait) if wait.isdecimal() else 0.0
        except aiohttp.ConnectionTimeoutError:
            raise TransientFault("no connection in time", silent=True) from None
        except TimeoutError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError from None  # cancelled as the timeout passed, which hides the cancellation
            raise TransientFault(f"no answer within {timeout.total:g} s", silent=True) from None
        except (aiohttp.ClientError, OSError) as error:
            unreachable = isinstance(error, aiohttp.ClientConnectorError)
            raise TransientFault(to_plain_line(f"{type(error).__name__}: {error}"), silent=unreachable) from None


@dataclass(eq=False)
class Servers:
    """An async context manager; `complete` may be called any number of times at once, within one event loop.

    notify: receives a sentence when an endpoint is taken out of rotation, when none answers (then at most once per
    minute), and when one answers again.
    timeout_s: of one attempt, queueing at the server included. patience_s: how long to wait when no endpoint answers,
    from when the last one failed its probe; for a server that accepts requests and never answers, timeout_s and a probe
    come before that.
    tries: faults after which a request is given up while others succeed. pause_s, max_pause_s: before the second
    attempt, doubled for each, and at most; times a pseudo-random factor per key from [0.5, 1). max_bytes: of one
    response. All defaults are ours.
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
        """Open no connection yet. ConfigError without endpoints, or if the variable of an API key is not set."""
        if not self.endpoints:
            raise ConfigError("no server is configured")
        self._states = [_EndpointState(endpoint, _build_headers(endpoint)) for endpoint in self.endpoints]
        self._balancer = _LoadBalancer(self._states)
        self._completed = self._given_up = 0
        self._outage_timer: asyncio.TimerHandle | None = None
        self._notified_at: float | None = None
        self._loop = asyncio.get_running_loop()
        self._end: asyncio.Future[str] = self._loop.create_future()  # why no more requests are sent
        self._transport = _Transport(self.timeout_s, self.max_bytes)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._stop("the servers were closed while requests were in flight")
        probes = [state.probe for state in self._states if state.probe is not None]
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)
        if self._outage_timer is not None:
            self._outage_timer.cancel()
        await self._transport.close()

    async def complete(self, request: Request) -> Completion:
        """Return one server's completion; its error is "too_long: …", "refused: …" or "gave_up: …".

        Raises StageError if an endpoint does not serve the model, ServersUnavailable if none answers. Cancelling it
        cancels the request and frees its slot.
        """
        faults = completed = 0
        last: _EndpointState | None = None
        while True:
            state = await self._balancer.acquire(last, first=bool(faults))
            if state is None:
                raise self._unavailable_error()
            try:
                completion = await self._transport.attempt(state, request)
                self._record_success(state)
                self._given_up = 0
                return completion
            except TransientFault as fault:
                self._record_fault(state, fault, request.model)
                faults += 1
                if faults == 1:
                    completed = self._completed
                if faults > self.tries and self._completed > completed:
                    self._given_up += 1
                    if self._given_up >= MAX_GIVEN_UP:
                        self._stop(
                            f"the last {MAX_GIVEN_UP} requests all failed, although probes succeed: {fault.text}"
                        )
                        raise self._unavailable_error() from None
                    return Completion((), (), request.model, error=f"{GAVE_UP}: {fault.text}")
                self.retries += 1
                pause = max(self._pause(request.key.hex(), faults), min(fault.pause_s, self.max_pause_s))
                if fault.overload:  # keep the slot during the pause: the server asks for fewer requests
                    await self._sleep(pause)
                    pause = 0.0
            finally:
                self._balancer.release(state)
            last = state
            await self._sleep(pause)

    async def models(self) -> dict[str, list[str] | None]:
        """Return the models that each endpoint lists, by its URL; None if it does not."""
        names = await asyncio.gather(*map(self._transport.list_models, self._states))
        return {state.endpoint.url: served for state, served in zip(self._states, names, strict=True)}

    # -- circuit breakers -------------------------------------------------------------------------------------------

    def _record_success(self, state: _EndpointState) -> None:
        self._completed += 1
        state.proven = True
        state.faults = 0
        if state.probe is not None:
            if state.probe is not asyncio.current_task():
                state.probe.cancel()
            self._restore(state)

    def _record_fault(self, state: _EndpointState, fault: TransientFault, model: str) -> None:
        state.last_error = fault.text
        state.faults += 1
        if state.probe is None and (fault.silent or state.faults >= PROBE_AFTER) and not self._end.done():
            state.probe = asyncio.create_task(self._probe_until_up(state, model))

    async def _probe_until_up(self, state: _EndpointState, model: str) -> None:
        """Send probes until one succeeds; the endpoint is unavailable from the first that fails."""
        probe = Request({"model": model, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1})
        for number in itertools.count(1):
            if self._end.done():
                return
            try:
                await self._transport.attempt(state, probe, probe=True)
            except StageError:
                self._restore(state)  # it responds; the next request raises its error
                return
            except TransientFault as fault:
                state.last_error = fault.text
                state.available = False
                self._report_outage(state, number)
                await asyncio.sleep(self._pause(state.endpoint.url, number))
            else:
                self._record_success(state)
                return

    def _restore(self, state: _EndpointState) -> None:
        state.probe = None
        state.faults = 0
        if state.available:
            return
        state.available = True
        if self._outage_timer is not None:
            self._outage_timer.cancel()
            self._outage_timer = self._notified_at = None
        self.notify(f"{state.endpoint.url} answers again")
        self._balancer.assign_slots()

    def _report_outage(self, state: _EndpointState, number: int) -> None:
        if any(state.available for state in self._states):
            if number == 1:
                self.notify(f"{state.endpoint.url} is out of rotation and probed until it answers: {state.last_error}")
            return
        now = self._loop.time()
        if self._outage_timer is None:
            self._outage_timer = self._loop.call_at(now + self.patience_s, self._give_up)
        if self._notified_at is None or now - self._notified_at >= NOTIFY_EVERY_S:
            self._notified_at = now
            remaining_s = max(0.0, self._outage_timer.when() - now)
            self.notify(f"no server answers, waiting {remaining_s:,.0f} s more: {self._format_errors()}")

    def _give_up(self) -> None:
        self._stop(f"no server has answered for {self.patience_s:,.0f} s: {self._format_errors()}")

    def _stop(self, reason: str) -> None:
        if not self._end.done():
            self._end.set_result(reason)
        self._balancer.close()

    def _unavailable_error(self) -> ServersUnavailable:
        hint = "check the servers and run again: completions so far are cached, none is requested twice"
        return ServersUnavailable(self._end.result(), hint=hint)

    def _format_errors(self) -> str:
        return "; ".join(f"{state.endpoint.url}: {state.last_error}" for state in self._states)

    def _pause(self, key: str, number: int) -> float:
        """Seconds before attempt `number` + 1: doubling, with jitter that is a function of the key."""
        draw = float(draw_fractions(self.seed, [key], f"pause {number}")[0])
        return min(self.max_pause_s, self.pause_s * 2.0 ** min(number - 1, 30)) * (0.5 + draw / 2)

    async def _sleep(self, seconds: float) -> None:
        """Sleep for `seconds`, or until no more requests are sent."""
        if seconds > 0:
            await asyncio.wait([self._end], timeout=seconds)


def _build_headers(endpoint: Endpoint) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if endpoint.api_key_env is not None:
        key = os.environ.get(endpoint.api_key_env)
        if not key:
            raise ConfigError(
                f"the environment variable {endpoint.api_key_env} for the server's API key is not set",
                where=endpoint.url,
                hint=f"export {endpoint.api_key_env}=… before running",
            )
        headers["Authorization"] = f"Bearer {key}"
    return headers


def _unknown_model_error(state: _EndpointState, what: str, served: list[str] | None) -> StageError:
    hint = "it does not list its models" if served is None else f"it serves: {', '.join(served) or 'nothing'}"
    return StageError(what, where=state.endpoint.url, hint=hint)


def _rejection_hint(status: int) -> str:
    if status in (401, 403):
        return "check the key: api_key_env names the environment variable that contains it"
    return "check the address: /v1 must be below it"
