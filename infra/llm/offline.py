"""vLLM in this very process, for workers that have their own accelerator and no server. Answers as a server would.

Asks are gathered for a moment and handed over together; vLLM's scheduler decides how many of them run at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from infra.errors import MissingExtra, StageError
from infra.llm.requests import Completion, Request

#: Seconds in which asks gather, and the most that are handed over together.
GATHER_S = 0.05
BATCH = 4096


class OfflineVllm:
    """`async with OfflineVllm(model, settings) as engine: await engine.complete(request)`.

    settings: keyword arguments of vllm.LLM; `guidance` without whitespace is the structured-output backend where they
    do not name one (see docs/serving.md for why). Raises MissingExtra where vllm is not installed, StageError when the
    model cannot be loaded or the engine dies.
    """

    def __init__(self, model: str, settings: Mapping[str, Any]) -> None:
        self._model = model
        self._settings = dict(settings)
        self._llm: Any = None
        self._waiting: asyncio.Queue[tuple[Request, asyncio.Future[Completion]]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._dead: StageError | None = None

    @property
    def retries(self) -> int:
        return 0

    async def __aenter__(self) -> OfflineVllm:
        self._llm = await asyncio.to_thread(_load, self._model, self._settings)
        self._worker = asyncio.create_task(self._work())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.cancel()

    async def complete(self, request: Request) -> Completion:
        """The answer; one that is too long for the model has an error of its own and harms no other."""
        if self._dead is not None:
            raise self._dead
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        await self._waiting.put((request, future))
        return await future

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(GATHER_S)
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                answers = await asyncio.to_thread(self._answers, [request for request, _ in batch])
            except RuntimeError as error:  # the engine is gone, and with it every ask
                self._dead = StageError(
                    f"vLLM stopped: {error}", hint="see its log above; what was answered is in the cache"
                )
                while not self._waiting.empty():
                    batch.append(self._waiting.get_nowait())
                for _, future in batch:
                    if not future.done():
                        future.set_exception(self._dead)
                return
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(answer)

    def _answers(self, requests: list[Request]) -> list[Completion]:
        found: list[Completion | None] = []
        for request in requests:
            found.append(self._too_long(request))
        able = [i for i, answer in enumerate(found) if answer is None]
        if able:
            outputs = self._llm.chat(
                [list(requests[i].body["messages"]) for i in able],
                [_sampling(requests[i].body) for i in able],
                use_tqdm=False,
            )
            for i, output in zip(able, outputs, strict=True):
                found[i] = _answer(output, self._model)
        return [answer for answer in found if answer is not None]

    def _too_long(self, request: Request) -> Completion | None:
        tokenizer = self._llm.get_tokenizer()
        messages = list(request.body["messages"])
        tokens = len(
            tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
        )
        most = int(self._llm.llm_engine.model_config.max_model_len)
        wanted = int(request.body.get("max_tokens") or 0)
        if tokens + wanted <= most:
            return None
        what = f"too_long: {tokens} tokens and {wanted} for the answer, the model takes {most}"
        return Completion((), (), self._model, tokens, 0, 0, what)


def _load(model: str, settings: dict[str, Any]) -> Any:
    try:
        from vllm import LLM
    except ImportError as error:
        raise MissingExtra("vllm", "gpu", "annotate.offline") from error
    settings.setdefault("structured_outputs_config", {"backend": "guidance", "disable_any_whitespace": True})
    try:
        return LLM(model=model, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        hint = "check annotate.model and annotate.offline"
        raise StageError(f"vLLM cannot load {model}: {error}", hint=hint) from error


def _sampling(body: Mapping[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    form = body.get("response_format") or {}
    schema = (form.get("json_schema") or {}).get("schema")
    return SamplingParams(
        n=int(body.get("n", 1)),
        temperature=float(body["temperature"]),
        top_p=float(body.get("top_p", 1.0)),
        max_tokens=int(body["max_tokens"]),
        structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
    )


def _answer(output: Any, model: str) -> Completion:
    texts = tuple(one.text for one in output.outputs)
    finish = tuple(str(one.finish_reason) for one in output.outputs)
    tokens = sum(len(one.token_ids) for one in output.outputs)
    cached = int(getattr(output, "num_cached_tokens", 0) or 0)
    return Completion(texts, finish, model, len(output.prompt_token_ids or ()), tokens, cached, None)
