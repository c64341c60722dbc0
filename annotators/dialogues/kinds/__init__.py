"""The kinds of dialogues: each has a prompt in NAME.md and the JSON schema of its answer in NAME.schema.json.

Every prompt begins with rules.md, so that servers share that prefix among all kinds, and is the same for every video
of a kind; the evidence follows it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from annotators.dialogues.evidence import EvidenceSheet
from infra.hashing import fingerprint

#: Target shares of the kinds, in per cent: Apollo's (arXiv 2412.10360), Fig. 7. The figure gives numbers and labels
#: separately; which belongs to which is inferred from their order and sums. They are rounded and add up to 99.9.
SHARES: Mapping[str, float] = {
    "conversation": 40.4,
    "reasoning": 34.7,
    "captioning": 16.6,
    "temporal_perception": 6.1,
    "egocentric": 1.5,
    "text_recognition": 0.6,
}

#: Questions and answers on text in images and documents: not a kind of video dialogue, requested separately.
IMAGE_TEXT = "image_text"

_FOLDER = Path(__file__).parent
_FRONT_MATTER = re.compile(r"---\n(.*?)\n---\n(.*)", re.S)

# First-person views; hyphens and spaces come in all combinations, and "not a first-person view" does not count.
_EGO = re.compile(
    r"(?<!not )(?<!not a )(?<!rather than )(?<!non-)\b"
    r"(?:first[- ]person|egocentric|ego[- ]view|pov|point[- ]of[- ]view shot|"
    r"(?:camera|body)[- ]wearer|(?:head|helmet|chest|body)[- ]?(?:mounted|worn|cam(?:era)?))\b|(?:^|\s)#c c\b",
    re.I,
)
_BODY_PARTS, _MOUNTS = ("head", "helmet", "chest", "body"), ("cam", "camera", "mounted", "worn")
# Every match of _EGO contains one of these words: an item without them needs no search.
_EGO_WORDS = frozenset(
    [
        *("first", "egocentric", "ego", "pov", "point", "wearer", "c"),
        *_BODY_PARTS,
        *(a + b for a in _BODY_PARTS for b in _MOUNTS),
    ]
)


@dataclass(frozen=True, eq=False)
class DialogueKind:
    """name; version: incremented with every change of prompt or schema. prompt: the system message, the same for all
    videos. schema: of the answer. prompt_hash, schema_hash: 32 hex digits. least, most: turns of a dialogue."""

    name: str
    version: int
    prompt: str
    schema: Mapping[str, Any]
    prompt_hash: str
    schema_hash: str
    least: int
    most: int

    @property
    def turn_properties(self) -> Mapping[str, Any]:
        """The schemas of a turn's properties, by name."""
        properties: Mapping[str, Any] = self.schema["properties"]["turns"]["items"]["properties"]
        return properties


@functools.cache  # threads: safe, kinds are never changed
def load_kinds() -> Mapping[str, DialogueKind]:
    """Return the kinds of video dialogues by name, in the order of SHARES."""
    return {name: load_kind(name) for name in SHARES}


@functools.cache  # threads: safe, kinds are never changed
def load_kind(name: str) -> DialogueKind:
    """Return a kind by name: one of SHARES, or IMAGE_TEXT."""
    rules, _ = _read_prompt("rules")
    body, front = _read_prompt(name)
    prompt = f"{rules}\n\n{body}".replace("{medium}", front.get("medium", "video"))
    schema = json.loads((_FOLDER / f"{name}.schema.json").read_text("utf-8"))
    return DialogueKind(
        name,
        front["version"],
        prompt,
        schema,
        fingerprint(prompt),
        fingerprint(json.dumps(schema)),  # as text: the order of properties matters to structured output
        front["least"],
        front["most"],
    )


def _read_prompt(name: str) -> tuple[str, Mapping[str, Any]]:
    match = _FRONT_MATTER.fullmatch((_FOLDER / f"{name}.md").read_text("utf-8"))
    assert match is not None, name
    return match[2].strip(), yaml.safe_load(match[1])


def supports(name: str, sheet: EvidenceSheet) -> bool:
    """Return whether a sheet contains enough evidence for a kind. The limits are ours:

    - conversation: three content words, in captions or in the transcript
    - reasoning: six, in captions
    - captioning: three, in captions
    - temporal_perception: two or more captions, spoken lines or texts in the picture that begin at different times
    - egocentric: as captioning, and a caption or the facts say that the view is first-person
    - text_recognition: text in the picture with a word of two letters or digits
    """
    if name == "conversation":
        spoken = {word for item in sheet.of_kinds("transcript") for word in item.features.content}
        return len(sheet.seen) >= 3 or len(spoken) >= 3
    if name == "reasoning":
        return len(sheet.seen) >= 6
    if name == "captioning":
        return len(sheet.seen) >= 3
    if name == "temporal_perception":
        timed = sheet.of_kinds("caption", "dense", "transcript", "ocr")
        return len({item.start_s for item in timed if item.start_s is not None}) >= 2
    if name == "egocentric":
        items = sheet.of_kinds("caption", "dense", "facts")
        return len(sheet.seen) >= 3 and any(
            not _EGO_WORDS.isdisjoint(item.features.words) and _EGO.search(item.text) for item in items
        )
    if name in ("text_recognition", IMAGE_TEXT):
        return any(len(word) >= 2 for item in sheet.of_kinds("ocr") for word in item.features.words)
    raise ValueError(f"there is no kind {name!r}")
