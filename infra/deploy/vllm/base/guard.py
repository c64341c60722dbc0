"""Lets a few paths of vLLM through, and all but two of them only with a key.

vLLM's `--api-key` guards /v1 and its like; /invocations (the same inference), /pause, /tokenize and others stay open
(https://docs.vllm.ai/en/stable/usage/security/#api-key-authentication-limitations). This is given to vLLM as
`--middleware guard.Guard`, which puts it before everything else. Standard library only: it runs in vLLM's image.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

#: Asked by probes and Prometheus, which have no key; answered to GET only.
OPEN = frozenset({"/health", "/metrics"})
#: What Reelmill and a person with `curl` need.
KEYED = frozenset({"/v1/models", "/v1/chat/completions", "/tokenize", "/version"})
#: Characters of a key, at least; ours. `openssl rand -hex 32` makes 64.
LEAST = 16


class Guard:
    """ASGI middleware. 401 without the key, 404 for any other path, with it or without.

    The key is that of vLLM itself, from VLLM_API_KEY; without a good one no request is ever let through, health
    included, so that a server which lacks it never becomes ready.
    """

    def __init__(self, app: App) -> None:
        key = os.environ.get("VLLM_API_KEY", "")
        if len(key) < LEAST:
            raise RuntimeError(f"VLLM_API_KEY must hold a key of at least {LEAST} characters (openssl rand -hex 32)")
        self.app = app
        self.expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["path"] in OPEN and scope["method"] == "GET":
            await self.app(scope, receive, send)
        elif scope["path"] not in KEYED:
            await _refuse(send, 404)
        elif not self.has_key(scope["headers"]):
            await _refuse(send, 401)
        else:
            await self.app(scope, receive, send)

    def has_key(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether there is exactly one Authorization header and it is ours; takes as long for any wrong key."""
        given = [value for name, value in headers if name.lower() == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self.expected)


async def _refuse(send: Send, status: int) -> None:
    words = {401: b'{"error": "Unauthorized"}', 404: b'{"error": "Not Found"}'}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words[status]})
