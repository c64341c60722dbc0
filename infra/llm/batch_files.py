"""OpenAI batch files, for clusters where the job may not reach a server: what is not yet answered is written down, and
answers that came back are read into the cache.

    FOLDER/requests-PID-0000.jsonl   {"custom_id", "method": "POST", "url": "/v1/chat/completions", "body"} a line
    FOLDER/answers*.jsonl            {"custom_id", "response": {"status_code", "body"}, "error"} a line, in any order

`vllm run-batch -i requests-… -o answers-… --model …` makes the one from the other, and so do the services that take
OpenAI's batches.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from infra.errors import StageError
from infra.llm.requests import GAVE_UP, Completion, Request, RequestCache
from infra.llm.servers import TransientFault, parse_completion, permanent_error

#: Requests of one file: what OpenAI's API takes.
FILE_REQUESTS = 50_000


class BatchFiles:
    """An engine that answers nothing: it writes each ask down once, and says that it is waiting."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._file: IO[bytes] | None = None
        self._seen: set[bytes] = set()
        self.written = 0

    @property
    def retries(self) -> int:
        return 0

    async def __aenter__(self) -> BatchFiles:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    async def complete(self, request: Request) -> Completion:
        if request.key not in self._seen:
            self._seen.add(request.key)
            if self.written % FILE_REQUESTS == 0:
                self._open()
            assert self._file is not None
            head = json.dumps({"custom_id": request.key.hex(), "method": "POST", "url": "/v1/chat/completions"})
            self._file.write(head[:-1].encode() + b', "body": ' + request.payload + b"}\n")
            self.written += 1
        return Completion((), (), request.model, error=f"{GAVE_UP}: waits for its batch")

    def _open(self) -> None:
        if self._file is not None:
            self._file.close()
        name = f"requests-{os.getpid()}-{self.written // FILE_REQUESTS:04d}.jsonl"
        self._file = (self._folder / name).open("wb")


def clear(folder: str) -> None:
    """Remove the request files of an earlier round: whatever of them is not answered is written down again."""
    for path in Path(folder).glob("requests-*.jsonl"):
        path.unlink()


def import_answers(folder: str, cache: RequestCache) -> dict[str, int]:
    """Put all answers that lie in the folder into the cache: {"read", "put", "again"}, the last what is to be asked
    again because the service failed.

    Raises StageError with file and line for what is no batch answer.
    """
    counts = {"read": 0, "put": 0, "again": 0}
    for path in sorted(Path(folder).glob("answers*.jsonl")):
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                counts["read"] += 1
                try:
                    value = json.loads(line)
                    key = bytes.fromhex(value["custom_id"])
                    answer = _answer(value)
                except (ValueError, KeyError, TypeError) as error:
                    raise StageError(
                        f"not an answer in OpenAI's batch format: {error!r}",
                        where=f"{path}:{number}",
                        hint="answers*.jsonl must be what the service wrote, whole",
                    ) from None
                if answer is None or len(key) != 16:
                    counts["again"] += 1
                    continue
                cache.put_read(key, answer)
                counts["put"] += 1
    return counts


def _answer(value: dict[str, Any]) -> Completion | None:
    response = value.get("response") or {}
    status, body = int(response.get("status_code") or 0), response.get("body")
    raw = json.dumps(body).encode()
    if status == 200 and isinstance(body, dict):
        try:
            return parse_completion(raw, len(body.get("choices") or ()) or 1)
        except TransientFault:
            return None
    error = permanent_error(status, raw)
    return None if error is None else Completion((), (), "", error=error)
