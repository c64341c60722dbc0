"""The request cache after a take-down: what was answered about the sample is gone, the rest is still paid for."""

from __future__ import annotations

import json
from pathlib import Path

from infra.llm.requests import Completion, Request, RequestCache
from pipelines import stages
from pipelines.takedown import takedown
from pipelines.takedown.cached_answers import build_needles, extract_texts, match_answers
from pipelines.takedown.request import build_request
from tests import corpus
from tests.fake_server import running
from tests.tiny import rows


def test_answers_about_a_sample_are_removed_and_the_others_stay(tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for i in range(3):
        videos.mkdir(exist_ok=True)
        corpus.write_clip(videos / f"v{i}.mp4", 60 + i)
        text = f"{corpus.caption(i)} Beside it a painter mixes green colours for a wooden fence number {i}."
        (videos / f"v{i}.txt").write_text(text)
    with running("--answer", "tests.answers:answer_from_evidence") as server:
        annotate = {"model": "fake", "endpoints": [{"url": server.url, "in_flight": 2}], "blind": None}
        run = corpus.open_videos(tmp_path, "run", videos, annotate)
        stages.run_all(run)
        received = server.counts()["received"]
        path = tmp_path / "store-run" / "requests.sqlite"
        with RequestCache(path) as cache:
            before = dict(cache.items())
        assert len(before) == 3
        erased = rows(run, "dialogues")[0]
        question = erased["turns"][0]["question"].encode()
        assert any(question in answer for answer in before.values())
        takedown.run([str(tmp_path / "run")], build_request(keys=[erased["key"]]), quiet=True)
        with RequestCache(path) as cache:
            after = dict(cache.items())
        assert len(after) == 2 and after.items() <= before.items()
        (lost,) = before.keys() - after.keys()
        assert before[lost][60:120] not in path.read_bytes()
        row = next(row for row in rows(run, "dialogues") if row["key"] == erased["key"])
        assert (row["outcome"], row["turns"], row["evidence"]) == ("rejected", [], [])
        stages.run_all(run)  # finds everything done: nobody is asked again
        assert server.counts()["received"] == received


def test_texts_are_found_through_two_layers_of_json(tmp_path: Path) -> None:
    answer = 'The "tall" man – in a café –\nopens the heavy door slowly.'
    inner = json.dumps({"turns": [{"question": "What?", "answer": answer}]}, ensure_ascii=False)
    requests = [Request({"model": "m", "n": n}) for n in range(3)]
    with RequestCache(tmp_path / "a.sqlite") as cache:
        for request, text in zip(requests, (inner, "A short answer.", answer + " And more."), strict=True):
            cache.put(request.key, request.model, Completion((text,), ("stop",), "m"))
        row = {"turns": [{"question": "What?", "answer": answer}], "evidence": []}
        needles = build_needles(extract_texts([row]))
        assert match_answers(cache, set(), needles) == sorted([requests[0].key, requests[2].key])
        assert match_answers(cache, {requests[1].key}, []) == [requests[1].key]
        short = {"turns": [{"question": "What?", "answer": "A short answer."}], "evidence": None}
        assert build_needles(extract_texts([short])) == []
        assert cache.forget([requests[1].key, requests[1].key]) == 1 and len(cache) == 2
