from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.reading.conversations import build_conversation, strip_control_tokens

CONTROL = [
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<video>",
    "</s>",
    "<s>",
    "<vila/sentinel>",
    "<|",
    "|>",
    "<",
    ">",
    "im",
    " ",
]


@given(st.lists(st.sampled_from(CONTROL)).map("".join))
def test_stripping_control_tokens_leaves_none_and_creates_none(text: str) -> None:
    stripped = strip_control_tokens(text)
    assert not re.search(r"<\|[^<>|]*\|>|<(image|video|/?s)>", stripped, re.IGNORECASE)
    assert strip_control_tokens(stripped) == stripped


def test_ordinary_text_is_left_alone() -> None:
    assert strip_control_tokens("a < b > c, <b>bold</b>, |x|") == "a < b > c, <b>bold</b>, |x|"


@pytest.mark.parametrize(
    ("modality", "images", "placeholders"), [("image", 1, 1), ("multi_image", 3, 3), ("video", 1, 1)]
)
def test_a_caption_becomes_a_question_and_its_answer(modality: str, images: int, placeholders: int) -> None:
    turns, kind = build_conversation(modality, " A kite. ", images)
    assert kind == "caption" and [turn["from"] for turn in turns] == ["human", "gpt"]
    assert turns[0]["value"].count("<image>") == placeholders and turns[1]["value"] == "A kite."
    turns, kind = build_conversation(modality, "", images)
    assert kind == "none" and len(turns) == 1


def test_a_document_becomes_one_turn_as_it_is() -> None:
    assert build_conversation("text", "All of it.", 0) == ([{"from": "gpt", "value": "All of it."}], "document")


def test_valid_turns_of_the_source_are_kept() -> None:
    source_turns = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "<image>\nWhat?"},
              {"role": "assistant", "content": "That.<|im_end|>"}]  # fmt: skip
    turns, kind = build_conversation("image", "caption", 1, source_turns)
    assert kind == "conversation"
    assert turns == [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."}]
    assert build_conversation("text", "x", 0, source_turns)[0][0]["value"] == "What?"


@pytest.mark.parametrize(
    "turns",
    [
        [{"from": "gpt", "value": "a"}],
        [{"from": "human", "value": "a"}],
        [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}],
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": "  "}],
        [{"from": "human", "value": "a"}, {"from": "gpt", "value": 3}],
        [{"from": "human", "value": "a"}, "b"],
        [{"from": "robot", "value": "a"}, {"from": "gpt", "value": "b"}],
        [None],
    ],
)
def test_invalid_turns_of_the_source_are_not_used(turns: list[Any]) -> None:
    assert build_conversation("image", "caption", 1, turns)[1] == "caption"
