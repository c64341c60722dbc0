"""Conversations as ChatML and as token ids, with labels only where the assistant speaks.

The template, its system text with the empty line, and the ids are those of the released code that Apollo's checkpoints
were trained with (github.com/Apollo-LMMs/Apollo: apollo/conversation.py, conv_qwen; apollo/constants.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mixtures.reading.clip_plan import X_TOKEN

#: Id of a visual token, replaced by the model with what its connector made of a clip.
X_TOKEN_INDEX = -200
#: Label of what is not learnt.
IGNORE_INDEX = -100

SYSTEM = "<|im_start|>system\n\nYou are a helpful vision-language assistant."
END = "<|im_end|>"
ROLES = {"human": "<|im_start|>user", "gpt": "<|im_start|>assistant"}

_RUNS = re.compile("((?:" + "|".join(re.escape(token) for token in X_TOKEN.values()) + ")+)")


def is_plain(turns: Sequence[Mapping[str, str]]) -> bool:
    """Whether nobody asks: raw text, which is learnt as it stands."""
    return all(turn["from"] == "gpt" for turn in turns)


def split_prompt(turns: Sequence[Mapping[str, str]]) -> list[tuple[str, bool]]:
    """(text, whether it is learnt) pieces that make the prompt when joined.

    Learnt are what the assistant says and the mark that ends it; of raw text, all.
    """
    if is_plain(turns):
        return [(turn["value"], True) for turn in turns]
    found = [(f"{SYSTEM}{END}\n", False)]
    for turn in turns:
        learnt = turn["from"] == "gpt"
        found.append((f"{ROLES[turn['from']]}\n", False))
        found.append((f"{turn['value']}{END}", learnt))
        found.append(("\n", False))
    return found


def build_prompt(turns: Sequence[Mapping[str, str]]) -> str:
    """The whole text of a conversation."""
    return "".join(text for text, _ in split_prompt(turns))


def encode(text: str, tokenizer: Any) -> list[int]:
    """Ids of a text in which each visual token becomes X_TOKEN_INDEX; no token is added at either end."""
    ids: list[int] = []
    for i, piece in enumerate(_RUNS.split(text)):
        if i % 2:
            ids += [X_TOKEN_INDEX] * sum(piece.count(token) for token in X_TOKEN.values())
        elif piece:
            ids += _plain_ids(piece, tokenizer)
    return ids


def _plain_ids(text: str, tokenizer: Any) -> list[int]:
    """`tokenizers` give an Encoding, those of Transformers a list."""
    found = tokenizer.encode(text, add_special_tokens=False)
    return list(getattr(found, "ids", found))


def tokenize(turns: Sequence[Mapping[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    """(input ids, labels) of a conversation, equally long; labels are IGNORE_INDEX where nothing is learnt.

    tokenizer: of `transformers` or `tokenizers`. Raw text ends with the tokenizer's end of text, where it has one.
    """
    ids: list[int] = []
    labels: list[int] = []
    for text, learnt in split_prompt(turns):
        piece = encode(text, tokenizer)
        ids += piece
        labels += [i if learnt and i >= 0 else IGNORE_INDEX for i in piece]
    end = getattr(tokenizer, "eos_token_id", None)
    if is_plain(turns) and end is not None:
        ids.append(end)
        labels.append(end)
    return ids, labels
