"""Complete requests by a model in this process, through the cached client, and print them. Runs in vLLM's environment.

python -m tests.offline_requests MODEL CACHE
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from infra.llm.offline import OfflineVllm
from infra.llm.requests import CachedClient, Request, RequestCache

WORD = {
    "type": "object",
    "properties": {"word": {"type": "string", "enum": ["quillon"]}},
    "required": ["word"],
    "additionalProperties": False,
}
SETTINGS = {"dtype": "bfloat16", "enforce_eager": True, "max_model_len": 4096, "max_num_batched_tokens": 16384}


def body(model: str, number: int, **more: Any) -> Request:
    form = {"type": "json_schema", "json_schema": {"name": "word", "schema": WORD, "strict": True}}
    fields = {
        "model": model, "messages": [{"role": "user", "content": f"Say something, {number}."}],
        "temperature": 1.0, "top_p": 1.0, "max_tokens": 60, "response_format": form, **more,
    }  # fmt: skip
    return Request({name: field for name, field in fields.items() if field is not None})


async def main(model: str, cache: str) -> None:
    requests = [body(model, number) for number in range(20)]
    several = body(model, 99, n=3, response_format=None)
    long = body(model, 5, max_tokens=5_000)
    with RequestCache(cache) as kept:
        async with OfflineVllm(model, SETTINGS) as engine:
            client = CachedClient(kept, engine)
            *same, three, refused = await asyncio.gather(*map(client.complete, [*requests, several, long]))
            await asyncio.gather(*map(client.complete, requests))
        report = {
            "texts": [answer.texts for answer in same], "finish": [answer.finish for answer in same],
            "tokens": [answer.tokens_out for answer in same], "three": len(three.texts), "refused": refused.error,
            "counters": client.counters(), "kept": len(kept),
        }  # fmt: skip
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
