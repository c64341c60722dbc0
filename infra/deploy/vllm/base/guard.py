"""Middleware of vLLM that serves a few paths only, and all but two of them only with the API key.

vLLM's `--api-key` protects /v1 and similar paths; /invocations (the same inference), /pause and others stay open
(https://docs.vllm.ai/en/stable/usage/security/#api-key-authentication-limitations). The option
`--middleware guard.Guard` puts this class before everything else. Standard library only: it runs in vLLM's image.
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

#: Paths for probes and Prometheus, which have no key; GET only.
OPEN = frozenset({"/health", "/metrics"})
#: Paths that need the key: those that Reelmill and a person with `curl` use.
KEYED = frozenset({"/v1/models", "/v1/chat/completions", "/tokenize", "/version"})
#: Minimum characters of a key; ours. `openssl rand -hex 32` makes 64.
MIN_KEY_CHARS = 16


class Guard:
    """ASGI middleware: 401 without the key, 404 for any other path, with or without the key.

    The key is vLLM's own, VLLM_API_KEY. If it is missing or too short, the server does not start.
    """

    def __init__(self, app: App) -> None:
        key = os.environ.get("VLLM_API_KEY", "")
        if len(key) < MIN_KEY_CHARS:
            raise RuntimeError(
                f"VLLM_API_KEY must be a key of at least {MIN_KEY_CHARS} characters (make one: openssl rand -hex 32)"
            )
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
        """Return whether the only Authorization header is the key; takes equally long for any wrong key."""
        tokens = [header for name, header in headers if name.lower() == b"authorization"]
        return len(tokens) == 1 and hmac.compare_digest(tokens[0], self.expected)


async def _refuse(send: Send, status: int) -> None:
    bodies = {401: b'{"error": "Unauthorized"}', 404: b'{"error": "Not Found"}'}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": bodies[status]})
