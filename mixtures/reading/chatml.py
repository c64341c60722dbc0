"""Conversations as ChatML and as token ids; only what the assistant says is labelled.

The template, its system prompt with the empty line, and the ids are those of the released code that trained Apollo's
checkpoints (github.com/Apollo-LMMs/Apollo: apollo/conversation.py, conv_qwen; apollo/constants.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mixtures.reading.clip_plan import X_TOKEN

#: Id of a visual token, which the model replaces with its connector's output for a clip.
X_TOKEN_INDEX = -200
#: Label of tokens that the loss ignores.
IGNORE_INDEX = -100

SYSTEM = "<|im_start|>system\n\nYou are a helpful vision-language assistant."
END = "<|im_end|>"
ROLES = {"human": "<|im_start|>user", "gpt": "<|im_start|>assistant"}

_RUNS = re.compile("((?:" + "|".join(re.escape(token) for token in X_TOKEN.values()) + ")+)")


def is_plain(turns: Sequence[Mapping[str, str]]) -> bool:
    """Whether only the assistant speaks: raw text, all of which is learnt."""
    return all(turn["from"] == "gpt" for turn in turns)


def split_prompt(turns: Sequence[Mapping[str, str]]) -> list[tuple[str, bool]]:
    """Split the prompt into (text, whether it is learnt).

    The assistant's turns are learnt with their end marker; raw text is learnt whole.
    """
    if is_plain(turns):
        return [(turn["value"], True) for turn in turns]
    segments = [(f"{SYSTEM}{END}\n", False)]
    for turn in turns:
        is_learnt = turn["from"] == "gpt"
        segments.append((f"{ROLES[turn['from']]}\n", False))
        segments.append((f"{turn['value']}{END}", is_learnt))
        segments.append(("\n", False))
    return segments


def encode(text: str, tokenizer: Any) -> list[int]:
    """Encode a text; each visual token becomes X_TOKEN_INDEX, and no token is added at either end."""
    ids: list[int] = []
    for i, run in enumerate(_RUNS.split(text)):
        if i % 2:
            ids += [X_TOKEN_INDEX] * sum(run.count(token) for token in X_TOKEN.values())
        elif run:
            ids += _encode_plain(run, tokenizer)
    return ids


def _encode_plain(text: str, tokenizer: Any) -> list[int]:
    """Encode text without visual tokens; `tokenizers` return an Encoding, Transformers a list."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    return list(getattr(encoding, "ids", encoding))


def tokenize(turns: Sequence[Mapping[str, str]], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokenize a conversation into (input ids, labels), equally long; labels are IGNORE_INDEX where not learnt.

    tokenizer: of `transformers` or `tokenizers`. Raw text ends with the tokenizer's end-of-text token, if it has one.
    """
    ids: list[int] = []
    labels: list[int] = []
    for text, is_learnt in split_prompt(turns):
        encoded = encode(text, tokenizer)
        ids += encoded
        labels += [i if is_learnt and i >= 0 else IGNORE_INDEX for i in encoded]
    end = getattr(tokenizer, "eos_token_id", None)
    if is_plain(turns) and end is not None:
        ids.append(end)
        labels.append(end)
    return ids, labels
