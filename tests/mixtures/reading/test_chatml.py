from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.reading.chatml import IGNORE_INDEX, X_TOKEN_INDEX, encode, split_prompt, tokenize
from tests.mixtures.tokenizer import fast, tokenizer

TALK = [
    {"from": "human", "value": "<|video_token|><|video_token|>\n\nWhat moves?"},
    {"from": "gpt", "value": "A red house."},
    {"from": "human", "value": "Where?"},
    {"from": "gpt", "value": "To the left."},
]


@pytest.fixture(scope="module")
def small() -> Any:
    return tokenizer()


@pytest.fixture(scope="module")
def wrapped() -> Any:
    return fast()


def join_prompt(turns: Sequence[Mapping[str, str]]) -> str:
    return "".join(text for text, _ in split_prompt(turns))


def test_the_prompt_equals_the_chatml_template() -> None:
    assert join_prompt(TALK) == (
        "<|im_start|>system\n\nYou are a helpful vision-language assistant.<|im_end|>\n"
        "<|im_start|>user\n<|video_token|><|video_token|>\n\nWhat moves?<|im_end|>\n"
        "<|im_start|>assistant\nA red house.<|im_end|>\n"
        "<|im_start|>user\nWhere?<|im_end|>\n"
        "<|im_start|>assistant\nTo the left.<|im_end|>\n"
    )


def test_labels_are_what_the_assistant_says(small: Any) -> None:
    ids, labels = tokenize(TALK, small)
    assert len(ids) == len(labels) and ids.count(X_TOKEN_INDEX) == 2
    assert all(label in (IGNORE_INDEX, i) for i, label in zip(ids, labels, strict=True))
    assert labels[ids.index(X_TOKEN_INDEX)] == IGNORE_INDEX
    learnt = [i for i in labels if i != IGNORE_INDEX]
    assert small.decode(learnt, skip_special_tokens=False) == "A red house.<|im_end|>To the left.<|im_end|>"


def test_raw_text_is_labelled_completely(wrapped: Any) -> None:
    ids, labels = tokenize([{"from": "gpt", "value": "The red house."}], wrapped)
    assert ids == labels and wrapped.decode(ids) == "The red house.<|endoftext|>"


TEXT = (
    st.text(st.characters(exclude_characters="<|>", exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(len)
)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_tokens_of_turns_equal_those_of_the_whole_prompt(small: Any, wrapped: Any, talk: list[tuple[str, str]]) -> None:
    turns = [{"from": who, "value": text} for pair in talk for who, text in zip(("human", "gpt"), pair, strict=True)]
    ids, labels = tokenize(turns, small)
    assert ids == small.encode(join_prompt(turns), add_special_tokens=False).ids
    assert (ids, labels) == tokenize(turns, wrapped)
    learnt = small.decode([i for i in labels if i != IGNORE_INDEX], skip_special_tokens=False)
    assert learnt == "".join(f"{answer}<|im_end|>" for _, answer in talk)


def test_visual_tokens_of_both_kinds(small: Any) -> None:
    ids = encode("a<|image_token|><|image_token|>b<|video_token|>", small)
    assert [i for i in ids if i < 0] == [X_TOKEN_INDEX] * 3
    assert ids == [*encode("a", small), X_TOKEN_INDEX, X_TOKEN_INDEX, *encode("b", small), X_TOKEN_INDEX]
    assert encode("", small) == []
