"""Do the servers that a config names answer, which models do they serve, and do they honour structured output?

A server ignores fields that it does not know and answers 200: whether output is constrained shows only in an answer
that no model would give by itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from infra.errors import ConfigError, StageError
from infra.llm.requests import Request
from infra.llm.servers import Endpoint, Servers

#: A word that no model says unasked, and the least that a constrained answer can be.
_WORD = "quillon-7319"
_SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": [_WORD]}},
    "required": ["word"],
    "additionalProperties": False,
}
#: Seconds for one attempt, and to wait for a server that does not answer; ours.
_TIMEOUT_S, _PATIENCE_S = 60.0, 2.0


def look(endpoints: Sequence[Endpoint], model: str) -> list[dict[str, Any]]:
    """For each endpoint {"url", "ok", "detail", "fix"}; asks each for its models and for one short answer."""
    return asyncio.run(_look(endpoints, model))


async def _look(endpoints: Sequence[Endpoint], model: str) -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_one(endpoint, model) for endpoint in endpoints)))


async def _one(endpoint: Endpoint, model: str) -> dict[str, Any]:
    url = f"{endpoint.url}/v1"

    def found(ok: bool, detail: str, fix: str = "") -> dict[str, Any]:
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
                return found(False, f"serves {', '.join(served) or 'nothing'}, not {model}", fix)
            answer = await servers.complete(Request(body))
    except ConfigError as error:
        return found(False, error.what, error.hint)
    except StageError as error:
        return found(False, f"does not answer: {error.what}", "is it running, is the address right?")
    if answer.error is not None:
        return found(False, f"no answer by JSON schema: {answer.error}", _BACKEND)
    try:
        honoured = json.loads(answer.texts[0]) == {"word": _WORD}
    except ValueError:
        honoured = False
    if not honoured:
        said = answer.texts[0][:80]
        return found(False, f"serves {model}, but structured output is not honoured: it said {said!r}", _BACKEND)
    return found(True, f"serves {model}, structured output is honoured")


_BACKEND = (
    'start vLLM with --structured-outputs-config \'{"backend":"guidance","disable_any_whitespace":true}\' '
    "(docs/serving.md)"
)
