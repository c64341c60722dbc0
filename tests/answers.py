"""Answers of the fake server: read from the evidence in a request, as an obedient model would write them."""

from __future__ import annotations

import json
import re
from typing import Any

_ITEM = re.compile(r"^\[(\w+)\] ([a-z ]+)([^:]*): (.*)$", re.MULTILINE)
_TIMES = re.compile(r", ([\d.]+)(?:-([\d.]+))? s")

_QUESTIONS = (
    "What is seen in the video?",
    "And what else is there to be seen?",
    "Which further thing is shown?",
    "Is there more to tell?",
)


def answer_from_evidence(body: dict[str, Any]) -> str:
    """Return a dialogue with one turn per item, as many as its schema allows; no knowledge of a blind question; "no" as
    a judge."""
    response_format = json.dumps(body.get("response_format") or {})
    prompt = body["messages"][-1]["content"]
    if isinstance(prompt, list):
        return f"A red ball rolls over a wooden table while a dog looks on, in {len(prompt) - 1} frames."
    if '"verdict"' in response_format:
        return json.dumps({"verdict": "no"})
    if "dialogue_" not in response_format:
        return "I have no way to know."
    bounds = body["response_format"]["json_schema"]["schema"]["properties"]["turns"]
    turns: list[dict[str, Any]] = []
    for (name, _, when, text), question in zip(_ITEM.findall(prompt), _QUESTIONS, strict=False):
        turn: dict[str, Any] = {"question": question, "answer": text, "evidence": [name]}
        times = _TIMES.match(when)
        if '"start_s"' in response_format:
            start = float(times[1]) if times else 0.0
            turn |= {"start_s": start, "end_s": float(times[2] or start) if times else 0.0}
        turns.append(turn)
    return json.dumps({"turns": turns[: bounds["maxItems"]]})


def judge_all_right(body: dict[str, Any]) -> str:
    """Return the same, but judge every blind answer right."""
    if '"verdict"' in json.dumps(body.get("response_format") or {}):
        return json.dumps({"verdict": "yes"})
    return answer_from_evidence(body)
