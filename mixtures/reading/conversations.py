"""LLaVA-style conversations of samples (LLaVA-NeXT's JSON: `<image>` is the placeholder of media, also of videos)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

PLACEHOLDER = "<image>"

#: Question of the human where a source has only a caption (ours).
QUESTIONS = {"image": "Describe the image.", "multi_image": "Describe the images.", "video": "Describe the video."}

# Text that a tokenizer parses as a control or media token would change the prompt's structure.
_CONTROL = re.compile(r"<\|[^<>|]{0,64}\|>|</?(?:s|image|video|vila/[a-z]+)>", re.IGNORECASE)


def strip_control_tokens(text: str) -> str:
    """Remove control and media tokens from a text."""
    before = None
    while before != text:
        before, text = text, _CONTROL.sub("", text)
    return text


def build_conversation(
    modality: str, text: str, images: int, source_turns: Sequence[Any] = ()
) -> tuple[list[dict[str, str]], str]:
    """Build (turns, kind): the source's own turns where they are valid, else from the caption or the document.

    kind: "conversation", "caption", "document", or "none" where there is no text. Never empty; the first turn of a
    sample with media has one placeholder per medium.
    """
    media = PLACEHOLDER * images if modality != "video" else PLACEHOLDER
    turns = _normalise(source_turns)
    if turns:
        if modality != "text":
            turns[0]["value"] = f"{media}\n{turns[0]['value']}"
        return turns, "conversation"
    text = strip_control_tokens(text).strip()
    if modality == "text":
        return [{"from": "gpt", "value": text}], "document"
    human = {"from": "human", "value": f"{media}\n{QUESTIONS[modality]}"}
    return ([human, {"from": "gpt", "value": text}], "caption") if text else ([human], "none")


def build_llava_turns(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Convert the accepted turns of a row of dialogues to LLaVA's human and gpt."""
    conversation = []
    for turn in turns:
        if turn["outcome"] == "accepted":
            conversation += [{"from": "human", "value": turn["question"]}, {"from": "gpt", "value": turn["answer"]}]
    return conversation


def _normalise(source_turns: Sequence[Any]) -> list[dict[str, str]]:
    """Turns as human, gpt, human, gpt…, none empty; [] where they do not alternate like that."""
    roles = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt"}
    turns: list[dict[str, str]] = []
    for turn in source_turns:
        if not isinstance(turn, Mapping):
            return []
        role = roles.get(str(turn.get("from", turn.get("role"))))
        text = turn.get("value", turn.get("content"))
        if role is None or not isinstance(text, str):
            if turn.get("role") == "system":
                continue
            return []
        text = strip_control_tokens(text).strip()
        if not text or role != ("human", "gpt")[len(turns) % 2]:
            return []
        turns.append({"from": role, "value": text})
    return turns if turns and len(turns) % 2 == 0 else []
