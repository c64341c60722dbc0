"""Check the servers of a config: whether they answer, which models they serve, whether they honour structured output.

Servers ignore unknown fields and answer 200, so only an answer that no model would give by itself proves that output is
constrained.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from infra.errors import ConfigError, StageError
from infra.llm.requests import Request
from infra.llm.servers import Endpoint, Servers

#: A word that no model writes by itself, and a schema that allows nothing else.
_WORD = "quillon-7319"
_SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": [_WORD]}},
    "required": ["word"],
    "additionalProperties": False,
}
#: Seconds for one attempt, and to wait for a server that does not answer (ours).
_TIMEOUT_S, _PATIENCE_S = 60.0, 2.0


def check_servers(endpoints: Sequence[Endpoint], model: str) -> list[dict[str, Any]]:
    """Ask each endpoint for its models and for one short answer: {"url", "ok", "detail", "fix"} per endpoint."""
    return asyncio.run(_check_all(endpoints, model))


async def _check_all(endpoints: Sequence[Endpoint], model: str) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_check(endpoint, model) for endpoint in endpoints)))


async def _check(endpoint: Endpoint, model: str) -> dict[str, Any]:
    url = f"{endpoint.url}/v1"

    def finding(ok: bool, detail: str, fix: str = "") -> dict[str, Any]:
        return {"url": url, "ok": ok, "detail": f"{url}: {detail}", "fix": fix}

    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Say hello in one short sentence."}],
        "temperature": 0.0,
        "max_tokens": 64,
        "response_format": {"type": "json_schema", "json_schema": {"name": "proof", "schema": _SCHEMA, "strict": True}},
    }
    servers = Servers([endpoint], timeout_s=_TIMEOUT_S, patience_s=_PATIENCE_S, tries=1, notify=lambda _: None)
    try:
        async with servers:
            served = (await servers.models())[endpoint.url]
            if served is not None and model not in served:
                fix = f"set annotate.model to one of them, or start the server with --served-model-name {model}"
                return finding(False, f"serves {', '.join(served) or 'nothing'}, not {model}", fix)
            answer = await servers.complete(Request(body))
    except ConfigError as error:
        return finding(False, error.what, error.hint)
    except StageError as error:
        return finding(False, f"does not answer: {error.what}", "check that it runs, and its address")
    if answer.error is not None:
        return finding(False, f"no answer by JSON schema: {answer.error}", _BACKEND)
    try:
        honoured = json.loads(answer.texts[0]) == {"word": _WORD}
    except ValueError:
        honoured = False
    if not honoured:
        answer_text = answer.texts[0][:80]
        return finding(
            False, f"serves {model}, but structured output is not honoured: it said {answer_text!r}", _BACKEND
        )
    return finding(True, f"serves {model}, structured output is honoured")


_BACKEND = (
    'start vLLM with --structured-outputs-config \'{"backend":"guidance","disable_any_whitespace":true}\' '
    "(docs/serving.md)"
)
