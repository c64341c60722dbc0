from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.llm.batch_files import BatchFiles, ImportedAnswers, import_answers
from infra.llm.requests import Request, RequestCache

KEYS = [bytes([number]) * 16 for number in range(4)]


def answer(key: bytes, text: str = "yes", **changes: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, **changes}
    return json.dumps({"custom_id": key.hex(), "response": {"status_code": 200, "body": body}, "error": None}).encode()


def failure(key: bytes) -> bytes:
    return json.dumps({"custom_id": key.hex(), "response": {"status_code": 500, "body": None}}).encode()


def import_bytes(folder: Path, *files: bytes) -> tuple[ImportedAnswers, dict[bytes, tuple[str, ...]]]:
    """The counts, and the texts in the cache."""
    for number, content in enumerate(files):
        (folder / f"answers-{number}.jsonl").write_bytes(content)
    (folder / "cache").unlink(missing_ok=True)
    with RequestCache(folder / "cache") as cache:
        counts = import_answers(str(folder), cache)
        texts = {key: completion.texts for key in KEYS if (completion := cache.get(key)) is not None}
    return counts, texts


@pytest.mark.parametrize("cut", range(0, len(answer(KEYS[1])), 7))
def test_a_torn_last_line_is_a_request_without_an_answer(tmp_path: Path, cut: int) -> None:
    counts, texts = import_bytes(tmp_path, answer(KEYS[0]) + b"\n" + answer(KEYS[1])[:cut])
    assert texts == {KEYS[0]: ("yes",)}
    assert (counts.put, counts.again, counts.broken) == (1, 0, 1 if cut else 0)
    assert not cut or counts.first_broken.startswith(f"{tmp_path}/answers-0.jsonl:2: ")


NO_ANSWERS = [
    b"[]", b"5", b'"text"', b"null", b"{}", b"{", b"\xff\xfe", b"[" * 100_000, b'{"custom_id": null}', b"1e999",
    b'{"custom_id": "zz"}', b'{"custom_id": "00"}', b'{"custom_id": "request-1", "response": null}',
    json.dumps({"custom_id": KEYS[2].hex(), "response": []}).encode() + b"}",
    json.dumps({"custom_id": KEYS[2].hex(), "response": [1]}).encode(),
    json.dumps({"custom_id": KEYS[2].hex(), "response": {"status_code": "ok"}}).encode(),
    json.dumps({"custom_id": KEYS[2].hex(), "response": {"status_code": float("inf")}}).encode(),
    json.dumps({"custom_id": KEYS[2].hex(), "response": {"status_code": 200, "body": {"choices": 1}}}).encode(),
    answer(KEYS[2]) + answer(KEYS[3]),
]  # fmt: skip


@pytest.mark.parametrize("line", NO_ANSWERS, ids=lambda line: line[:40])
def test_lines_that_are_no_answers_are_counted_and_stop_nothing(tmp_path: Path, line: bytes) -> None:
    counts, texts = import_bytes(tmp_path, line + b"\n" + answer(KEYS[0]) + b"\n" + line + b"\n")
    assert texts == {KEYS[0]: ("yes",)}
    assert (counts.lines, counts.put, counts.again, counts.broken) == (3, 1, 0, 2)


def test_blank_lines_carriage_returns_and_byte_order_marks_are_no_faults(tmp_path: Path) -> None:
    file = b"\xef\xbb\xbf" + answer(KEYS[0]) + b"\r\n\r\n  \n" + answer(KEYS[1]) + b"\r\n"
    counts, texts = import_bytes(tmp_path, file, b"\xef\xbb\xbf", b"")
    assert set(texts) == set(KEYS[:2])
    assert (counts.lines, counts.put, counts.again, counts.broken) == (2, 2, 0, 0)


def test_of_several_answers_the_first_counts_and_a_failure_yields_to_an_answer(tmp_path: Path) -> None:
    first = b"\n".join([answer(KEYS[0], "a"), failure(KEYS[1]), answer(KEYS[0], "b"), failure(KEYS[2])])
    counts, texts = import_bytes(tmp_path, first, b"\n".join([answer(KEYS[1], "c"), failure(KEYS[2]), answer(KEYS[0])]))
    assert texts == {KEYS[0]: ("a",), KEYS[1]: ("c",)}
    assert (counts.lines, counts.put, counts.again, counts.broken) == (7, 2, 1, 0)


def test_odd_fields_of_sound_answers_are_stored(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 2**80, "completion_tokens": -1}
    file = b"\n".join([answer(KEYS[0], model="\ud800"), answer(KEYS[1], usage=usage), answer(KEYS[2], usage=[1])])
    counts, texts = import_bytes(tmp_path, file)
    assert set(texts) == set(KEYS[:3]) and counts.put == 3


@given(st.lists(st.one_of(st.binary(max_size=30), st.sampled_from(NO_ANSWERS), st.just(answer(KEYS[0])))))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_imports_survive_any_bytes(tmp_path: Path, lines: list[bytes]) -> None:
    counts, texts = import_bytes(tmp_path, b"\n".join(lines))
    assert counts.lines >= counts.broken + counts.put
    assert (KEYS[0] in texts) == any(line == answer(KEYS[0]) for line in b"\n".join(lines).split(b"\n"))


def test_tasks_of_one_process_at_once_or_in_turn_lose_no_request_of_another(tmp_path: Path) -> None:
    async def write(number: int) -> None:
        async with BatchFiles(str(tmp_path)) as backend:
            await backend.complete(Request({"model": "m", "messages": [], "n": number}))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: asyncio.run(write(number)), range(1, 9)))
    lines = [line for path in tmp_path.glob("requests-*.jsonl") for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["body"]["n"] for line in lines) == list(range(1, 9))
