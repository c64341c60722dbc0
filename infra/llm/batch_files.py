"""OpenAI batch files, for clusters whose workers cannot reach a server: uncached requests are written to files, and
answers that came back are imported into the request cache.

    FOLDER/requests-PID-0000.jsonl   {"custom_id", "method": "POST", "url": "/v1/chat/completions", "body"} per line
    FOLDER/answers*.jsonl            {"custom_id", "response": {"status_code", "body"}, "error"} per line, in any order

`vllm run-batch -i requests-… -o answers-… --model …` turns the one into the other; so do services that accept OpenAI's
batches.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from infra.errors import StageError
from infra.llm.requests import GAVE_UP, Completion, Request, RequestCache
from infra.llm.responses import TransientFault, parse_completion, permanent_error

#: Requests per file: the limit of OpenAI's API.
FILE_REQUESTS = 50_000


class BatchFiles:
    """A backend that completes nothing: it writes each request once, and reports that it waits for its batch."""

    retries = 0

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._file: IO[bytes] | None = None
        self._written: set[bytes] = set()

    async def __aenter__(self) -> BatchFiles:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    async def complete(self, request: Request) -> Completion:
        if request.key not in self._written:
            if len(self._written) % FILE_REQUESTS == 0:
                self._open_next()
            assert self._file is not None
            head = json.dumps({"custom_id": request.key.hex(), "method": "POST", "url": "/v1/chat/completions"})
            self._file.write(head[:-1].encode() + b', "body": ' + request.payload + b"}\n")
            self._written.add(request.key)
        return Completion((), (), request.model, error=f"{GAVE_UP}: waits for its batch")

    def _open_next(self) -> None:
        if self._file is not None:
            self._file.close()
        name = f"requests-{os.getpid()}-{len(self._written) // FILE_REQUESTS:04d}.jsonl"
        self._file = (self._folder / name).open("wb")


def remove_requests(folder: str) -> None:
    """Remove the request files of an earlier round: what is still not answered is written again."""
    for path in Path(folder).glob("requests-*.jsonl"):
        path.unlink()


def import_answers(folder: str, cache: RequestCache) -> dict[str, int]:
    """Put all answers in the folder into the cache and return {"read", "put", "again"}; "again" counts those to be
    requested again because the service failed.

    Raises StageError with file and line for a line that is not a batch answer.
    """
    counts = {"read": 0, "put": 0, "again": 0}
    for path in sorted(Path(folder).glob("answers*.jsonl")):
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                counts["read"] += 1
                try:
                    record = json.loads(line)
                    key = bytes.fromhex(record["custom_id"])
                    completion = _to_completion(record)
                except (ValueError, KeyError, TypeError) as error:
                    raise StageError(
                        f"not an answer in OpenAI's batch format: {error!r}",
                        where=f"{path}:{number}",
                        hint="answers*.jsonl must be the complete files that the service wrote",
                    ) from None
                if completion is None or len(key) != 16:
                    counts["again"] += 1
                    continue
                cache.put(key, completion.model, completion)
                counts["put"] += 1
    return counts


def _to_completion(record: dict[str, Any]) -> Completion | None:
    """The completion in a line of answers; None where the service failed."""
    response = record.get("response") or {}
    status, body = int(response.get("status_code") or 0), response.get("body")
    raw = json.dumps(body).encode()
    if status == 200 and isinstance(body, dict):
        try:
            return parse_completion(raw, len(body.get("choices") or ()) or 1)
        except TransientFault:
            return None
    error = permanent_error(status, raw)
    return None if error is None else Completion((), (), "", error=error)
