"""What the fake server of dialogues says: read off the evidence in the request, as an obedient model would."""

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


def written(body: dict[str, Any]) -> str:
    """A dialogue of one turn an item, as many as its schema takes; blind, that it does not know; as a judge, no."""
    asked = json.dumps(body.get("response_format") or {})
    said = body["messages"][-1]["content"]
    if isinstance(said, list):
        return f"A red ball rolls over a wooden table while a dog looks on, in {len(said) - 1} frames."
    if '"verdict"' in asked:
        return json.dumps({"verdict": "no"})
    if "dialogue_" not in asked:
        return "I have no way to know."
    bounds = body["response_format"]["json_schema"]["schema"]["properties"]["turns"]
    turns: list[dict[str, Any]] = []
    for (name, _, when, text), question in zip(_ITEM.findall(said), _QUESTIONS, strict=False):
        turn: dict[str, Any] = {"question": question, "answer": text, "evidence": [name]}
        times = _TIMES.match(when)
        if '"start_s"' in asked:
            start = float(times[1]) if times else 0.0
            turn |= {"start_s": start, "end_s": float(times[2] or start) if times else 0.0}
        turns.append(turn)
    return json.dumps({"turns": turns[: bounds["maxItems"]]})


def knowing(body: dict[str, Any]) -> str:
    """The same, but that every blind answer is judged right."""
    if '"verdict"' in json.dumps(body.get("response_format") or {}):
        return json.dumps({"verdict": "yes"})
    return written(body)
