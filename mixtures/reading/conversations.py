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

#: Placeholders of media in the conversations of a source.
MEDIA_TOKEN = re.compile(r"<(?:image|video|vila/video)>")
_LEADING = re.compile(rf"^((?:{PLACEHOLDER}\s*)*{PLACEHOLDER})[ \t]*(?=\S)(?!{PLACEHOLDER})")

_SPEAKERS = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}


def strip_control_tokens(text: str) -> str:
    """Remove control and media tokens from a text."""
    before = None
    while before != text:
        before, text = text, _CONTROL.sub("", text)
    return text


def find_turns(fields: Mapping[str, Any]) -> list[Any] | None:
    """The conversation in a row or JSON object: `conversations` (LLaVA, ShareGPT) or `messages` (OpenAI); None if there
    is none."""
    return next((fields[name] for name in ("conversations", "messages") if _is_full_list(fields.get(name))), None)


def _is_full_list(field: Any) -> bool:
    return isinstance(field, list) and bool(field)


def read_turns(source_turns: Sequence[Any], modality: str, media: int) -> tuple[list[dict[str, str]], str | None]:
    """Read a source's own conversation: (turns, None), or ([], the reason why it is not used).

    Turns before the first of the human (a system prompt, a greeting) are left out, as in LLaVA's code, and so is a last
    turn of the human, which has no answer. The others must alternate. Each medium has one placeholder, which stays in
    its turn; where the source has no placeholders, the media come first. media: how many the sample has.
    """
    turns: list[dict[str, str]] = []
    for number, turn in enumerate(source_turns):
        speaker, text = _read_turn(turn)
        if speaker is None or text is None:
            return [], f"turn {number + 1} has no known speaker or no text"
        if speaker == "system" and turns:
            return [], f"turn {number + 1} is a system prompt within the conversation"
        if speaker == "human" or turns:
            turns.append({"from": speaker, "value": _clean_turn(text, modality if speaker == "human" else "text")})
    if turns and turns[-1]["from"] == "human":
        turns.pop()
    if not turns:
        return [], "no question of the human has an answer"
    if [turn["from"] for turn in turns] != ["human", "gpt"] * (len(turns) // 2):
        return [], "human and gpt do not take turns"
    expected = 1 if modality == "video" else media
    placeholders = sum(turn["value"].count(PLACEHOLDER) for turn in turns)
    if placeholders == 0 and expected:
        turns[0]["value"] = f"{PLACEHOLDER * expected}\n{turns[0]['value']}".strip()
    elif placeholders != expected:
        return [], f"it has {placeholders} placeholders for {expected} media"
    if not all(turn["value"] for turn in turns):
        return [], "a turn is empty"
    return turns, None


def join_turns(turns: Sequence[Mapping[str, str]]) -> str:
    """The text of turns, one after the other, without placeholders."""
    lines = (turn["value"].replace(PLACEHOLDER, "").strip() for turn in turns)
    return "\n".join(line for line in lines if line)


def _read_turn(turn: Any) -> tuple[str | None, str | None]:
    """(human, gpt or system, text) of a turn of any of the usual forms; None for what it lacks."""
    if not isinstance(turn, Mapping):
        return None, None
    speaker = _SPEAKERS.get(str(turn.get("from") or turn.get("role")))
    text = turn.get("value", turn.get("content"))
    if isinstance(text, list):
        sections = [_read_section(section) for section in text]
        text = None if None in sections else "".join(map(str, sections))
    return speaker, text if isinstance(text, str) else None


def _read_section(section: Any) -> str | None:
    """The text of a section of a message, or the placeholder of its medium."""
    if isinstance(section, str):
        return section
    if not isinstance(section, Mapping):
        return None
    if isinstance(section.get("text"), str):
        return str(section["text"])
    return PLACEHOLDER if str(section.get("type", "")).startswith(("image", "video", "input_image")) else None


def _clean_turn(text: str, modality: str) -> str:
    """A turn without control tokens; placeholders stay where there are media, those at its start on a line of their
    own."""
    if modality == "text":
        return strip_control_tokens(text).strip()
    text = PLACEHOLDER.join(map(strip_control_tokens, MEDIA_TOKEN.split(text))).strip()
    return _LEADING.sub(lambda match: match.group(1) + "\n", text)


def build_conversation(
    modality: str, text: str, images: int, source_turns: Sequence[Any] = ()
) -> tuple[list[dict[str, str]], str]:
    """Build (turns, kind): the source's own turns where they are sound, else from the caption or the document.

    kind: "conversation", "caption", "document", or "none" where there is no text. Never empty; a sample with media has
    one placeholder per medium.
    """
    media = PLACEHOLDER * images if modality != "video" else PLACEHOLDER
    turns, _ = read_turns(source_turns, modality, images)
    if turns:
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
