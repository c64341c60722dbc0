"""Do the servers that a config names answer, which models do they serve, and do they honour structured output?

A server ignores fields that it does not know and answers 200: whether output is constrained shows only in an answer
that no model would give by itself.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Any

from infra.servers import Endpoint

#: A word that no model says unasked, and the least that a constrained answer can be.
_WORD = "quillon-7319"
_SCHEMA = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": [_WORD]}},
    "required": ["word"],
    "additionalProperties": False,
}
_TIMEOUT_S = 60.0


def look(endpoints: Sequence[Endpoint], model: str) -> list[dict[str, Any]]:
    """For each endpoint {"url", "ok", "detail", "fix"}; asks each for its models and for one short answer."""
    return asyncio.run(_look(endpoints, model))


async def _look(endpoints: Sequence[Endpoint], model: str) -> list[dict[str, Any]]:
    import aiohttp

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
        return list(await asyncio.gather(*(_one(session, endpoint, model) for endpoint in endpoints)))


async def _one(session: Any, endpoint: Endpoint, model: str) -> dict[str, Any]:
    import aiohttp

    url = f"{endpoint.url}/v1"
    key = os.environ.get(endpoint.api_key_env or "", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}

    def found(ok: bool, detail: str, fix: str = "") -> dict[str, Any]:
        return {"url": url, "ok": ok, "detail": f"{url}: {detail}", "fix": fix}

    if endpoint.api_key_env and not key:
        return found(False, f"the variable {endpoint.api_key_env} is not set", f"export {endpoint.api_key_env}=…")
    try:
        async with session.get(f"{url}/models", headers=headers) as response:
            if response.status != 200:
                return found(False, f"status {response.status} for /models", "is the address right?")
            served = [str(one["id"]) for one in (await response.json(content_type=None))["data"]]
        if model not in served:
            fix = f"set annotate.model to one of them, or start the server with --served-model-name {model}"
            return found(False, f"serves {', '.join(served) or 'nothing'}, not {model}", fix)
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "Say hello in one short sentence."}],
            "temperature": 0.0,
            "max_tokens": 64,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "proof", "schema": _SCHEMA, "strict": True},
            },
        }
        async with session.post(f"{url}/chat/completions", json=body, headers=headers) as response:
            if response.status != 200:
                text = (await response.text())[:200]
                return found(False, f"status {response.status} for an answer by JSON schema: {text}", _BACKEND)
            text = str((await response.json(content_type=None))["choices"][0]["message"]["content"])
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return found(False, f"does not answer: {error or type(error).__name__}", "is it running, is the address right?")
    except (ValueError, KeyError, IndexError, TypeError):
        return found(False, "answers with something that is not the OpenAI API", "is the address right?")
    try:
        honoured = json.loads(text) == {"word": _WORD}
    except ValueError:
        honoured = False
    if not honoured:
        return found(False, f"serves {model}, but structured output is not honoured: it said {text[:80]!r}", _BACKEND)
    return found(True, f"serves {model}, structured output is honoured")


_BACKEND = (
    'start vLLM with --structured-outputs-config \'{"backend":"guidance","disable_any_whitespace":true}\' '
    "(docs/serving.md)"
)
