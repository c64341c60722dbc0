"""OpenAI batch files, for clusters whose workers cannot reach a server: uncached requests are written to files, and
answers that came back are imported into the request cache.

    FOLDER/requests-ID-0000.jsonl   {"custom_id", "method": "POST", "url": "/v1/chat/completions", "body"} per line
    FOLDER/answers*.jsonl            {"custom_id", "response": {"status_code", "body"}, "error"} per line, in any order

A line that is not such an answer, because it is torn or another program's, is a request without an answer.

`vllm run-batch -i requests-… -o answers-… --model …` turns the one into the other; so do services that accept OpenAI's
batches.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from infra.llm.requests import GAVE_UP, Completion, Request, RequestCache
from infra.llm.responses import TransientFault, parse_completion, permanent_error, to_plain_line

#: Requests per file: the limit of OpenAI's API.
FILE_REQUESTS = 50_000

#: Length of a request's key.
KEY_BYTES = 16

# White space, and the byte order mark that some editors write at the beginning of a file.
_BLANK = b" \t\r\n\xef\xbb\xbf"


class BatchFiles:
    """A backend that completes nothing: it writes each request once, and reports that it waits for its batch."""

    retries = 0

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._file: IO[bytes] | None = None
        self._written: set[bytes] = set()
        self._id = secrets.token_hex(8)  # several backends of one process write to the folder, at once or in turn

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
        name = f"requests-{self._id}-{len(self._written) // FILE_REQUESTS:04d}.jsonl"
        self._file = (self._folder / name).open("wb")


def remove_requests(folder: str) -> None:
    """Remove the request files of an earlier round: what is still not answered is written again."""
    for path in Path(folder).glob("requests-*.jsonl"):
        path.unlink()


@dataclass
class ImportedAnswers:
    """Counts of an import.

    lines: that are not blank. put: answers that are now in the cache. again: requests to be sent again, because the
    service failed. broken: lines that are no batch answer, such as a torn last line: their requests are sent again too.
    first_broken: file, line and fault of the first of them.
    """

    lines: int = 0
    put: int = 0
    again: int = 0
    broken: int = 0
    first_broken: str = ""


def import_answers(folder: str, cache: RequestCache) -> ImportedAnswers:
    """Put all answers in the folder into the cache. Of several answers to one request the first in order counts.

    A line that is no batch answer answers nothing: it is counted, and its request is sent again with the others.
    """
    counts = ImportedAnswers()
    failed: set[bytes] = set()
    answered: set[bytes] = set()
    for path in sorted(Path(folder).glob("answers*.jsonl")):
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.strip(_BLANK):
                    continue
                counts.lines += 1
                try:
                    key, completion = _parse_answer(line)
                except (ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError) as error:
                    counts.broken += 1
                    counts.first_broken = counts.first_broken or f"{path}:{number}: {to_plain_line(repr(error))}"
                    continue
                if completion is None:
                    failed.add(key)
                elif key not in answered:
                    cache.put(key, completion.model, completion)
                    answered.add(key)
    counts.put, counts.again = len(answered), len(failed - answered)
    return counts


def _parse_answer(line: bytes) -> tuple[bytes, Completion | None]:
    """(key of the request, its completion or None where the service failed) of a line of answers.

    Raises an error of `import_answers`' list where the line is no such answer.
    """
    record = json.loads(line)
    key = bytes.fromhex(record["custom_id"])
    if len(key) != KEY_BYTES:
        raise ValueError(f"custom_id {record['custom_id']!r} is not an id of Reelmill's requests")
    return key, _to_completion(record)


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
