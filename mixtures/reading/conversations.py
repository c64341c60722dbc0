"""A sample as LLaVA-style conversations (LLaVA-NeXT's JSON: `<image>` stands for the medium, also for a video)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

PLACEHOLDER = "<image>"

#: What the human asks where a source has only a caption; ours.
QUESTIONS = {"image": "Describe the image.", "multi_image": "Describe the images.", "video": "Describe the video."}

# Anything that a tokenizer could take for a control or media token would change the prompt's structure.
_CONTROL = re.compile(r"<\|[^<>|]{0,64}\|>|</?(?:s|image|video|vila/[a-z]+)>", re.IGNORECASE)


def strip_control_tokens(text: str) -> str:
    """`text` without anything that stands for a control or media token."""
    before = None
    while before != text:
        before, text = text, _CONTROL.sub("", text)
    return text


def build_conversation(
    modality: str, text: str, images: int, given: Sequence[Any] = ()
) -> tuple[list[dict[str, str]], str]:
    """(turns, kind): the source's own turns where they are sound, else made from the caption or the document.

    kind: "conversation", "caption", "document", or "none" where there is neither. Never empty; the first turn of a
    sample with media carries one placeholder a medium.
    """
    media = PLACEHOLDER * images if modality != "video" else PLACEHOLDER
    own = _sound(given)
    if own:
        if modality != "text":
            own[0]["value"] = f"{media}\n{own[0]['value']}"
        return own, "conversation"
    text = strip_control_tokens(text).strip()
    if modality == "text":
        return [{"from": "gpt", "value": text}], "document"
    human = {"from": "human", "value": f"{media}\n{QUESTIONS[modality]}"}
    return ([human, {"from": "gpt", "value": text}], "caption") if text else ([human], "none")


def build_llava_turns(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The accepted turns of a row of dialogues as LLaVA's human and gpt."""
    found = []
    for turn in turns:
        if turn["outcome"] == "accepted":
            found += [{"from": "human", "value": turn["question"]}, {"from": "gpt", "value": turn["answer"]}]
    return found


def _sound(given: Sequence[Any]) -> list[dict[str, str]]:
    """Turns as human, gpt, human, gpt…, first human, last gpt, none empty; [] where they are not that."""
    names = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
    turns: list[dict[str, str]] = []
    for turn in given:
        if not isinstance(turn, Mapping):
            return []
        who = names.get(str(turn.get("from", turn.get("role"))))
        said = turn.get("value", turn.get("content"))
        if who is None or not isinstance(said, str):
            if turn.get("role") == "system":
                continue
            return []
        said = strip_control_tokens(said).strip()
        if not said or who != ("human", "gpt")[len(turns) % 2]:
            return []
        turns.append({"from": who, "value": said})
    return turns if turns and len(turns) % 2 == 0 else []
