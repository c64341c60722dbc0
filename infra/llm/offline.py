"""vLLM in this process, for workers that have an accelerator and no server. It completes requests as a server would.

Requests are gathered for a moment and passed to vLLM together; its scheduler decides how many of them run at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from infra.errors import MissingExtra, StageError
from infra.llm.requests import Completion, Request

#: Seconds for which requests are gathered, and the most that are passed on together.
GATHER_S = 0.05
MAX_BATCH = 4096


class OfflineVllm:
    """`async with OfflineVllm(model, settings) as backend: await backend.complete(request)`.

    settings: keyword arguments of vllm.LLM; structured output defaults to `guidance` without whitespace (the reasons
    are in docs/serving.md). Raises MissingExtra if vllm is not installed, StageError if the model cannot be loaded or
    vLLM stops.
    """

    retries = 0

    def __init__(self, model: str, settings: Mapping[str, Any]) -> None:
        self._model = model
        self._settings = dict(settings)
        self._llm: Any = None
        self._queue: asyncio.Queue[tuple[Request, asyncio.Future[Completion]]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._failure: StageError | None = None

    async def __aenter__(self) -> OfflineVllm:
        self._llm = await asyncio.to_thread(_load_model, self._model, self._settings)
        self._worker = asyncio.create_task(self._process_queue())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.cancel()

    async def complete(self, request: Request) -> Completion:
        """Return the completion; a request that is too long for the model gets an error and affects no other."""
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        await self._queue.put((request, future))
        return await future

    async def _process_queue(self) -> None:
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(GATHER_S)
            while len(batch) < MAX_BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            try:
                completions = await asyncio.to_thread(self._complete_batch, [request for request, _ in batch])
            except RuntimeError as error:  # vLLM stopped, and with it every request
                self._failure = StageError(
                    f"vLLM stopped: {error}", hint="see its log above; completions so far are in the request cache"
                )
                while not self._queue.empty():
                    batch.append(self._queue.get_nowait())
                for _, future in batch:
                    if not future.done():
                        future.set_exception(self._failure)
                return
            for (_, future), completion in zip(batch, completions, strict=True):
                if not future.done():
                    future.set_result(completion)

    def _complete_batch(self, requests: list[Request]) -> list[Completion]:
        errors = [self._check_length(request) for request in requests]
        fitting = [request for request, error in zip(requests, errors, strict=True) if error is None]
        outputs = iter(
            self._llm.chat(
                [list(request.body["messages"]) for request in fitting],
                [_sampling_params(request.body) for request in fitting],
                use_tqdm=False,
            )
            if fitting
            else ()
        )
        return [_to_completion(next(outputs), self._model) if error is None else error for error in errors]

    def _check_length(self, request: Request) -> Completion | None:
        """A "too_long" completion for a request that exceeds the model's context, else None."""
        messages = list(request.body["messages"])
        prompt = self._llm.get_tokenizer().apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        limit = int(self._llm.llm_engine.model_config.max_model_len)
        max_tokens = int(request.body.get("max_tokens") or 0)
        if len(prompt) + max_tokens <= limit:
            return None
        error = f"too_long: {len(prompt)} tokens and {max_tokens} for the answer, the model takes {limit}"
        return Completion((), (), self._model, len(prompt), 0, 0, error)


def _load_model(model: str, settings: dict[str, Any]) -> Any:
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


def _sampling_params(body: Mapping[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    response_format = body.get("response_format") or {}
    schema = (response_format.get("json_schema") or {}).get("schema")
    return SamplingParams(
        n=int(body.get("n", 1)),
        temperature=float(body["temperature"]),
        top_p=float(body.get("top_p", 1.0)),
        max_tokens=int(body["max_tokens"]),
        structured_outputs=None if schema is None else StructuredOutputsParams(json=schema),
    )


def _to_completion(output: Any, model: str) -> Completion:
    choices = output.outputs
    return Completion(
        tuple(choice.text for choice in choices),
        tuple(str(choice.finish_reason) for choice in choices),
        model,
        len(output.prompt_token_ids or ()),
        sum(len(choice.token_ids) for choice in choices),
        int(getattr(output, "num_cached_tokens", 0) or 0),
    )
