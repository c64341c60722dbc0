from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.reading.conversations import build_conversation, read_turns, strip_control_tokens

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


QUESTION, ANSWER = {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}
SYSTEM, LAST = {"from": "system", "value": "s"}, {"role": "user", "content": "Thanks"}


@pytest.mark.parametrize(
    "turns",
    [
        [ANSWER],
        [QUESTION],
        [QUESTION, QUESTION],
        [QUESTION, ANSWER, LAST, LAST],
        [QUESTION, SYSTEM, ANSWER],
        [QUESTION, {"from": "gpt", "value": "  "}],
        [QUESTION, {"from": "gpt", "value": 3}],
        [QUESTION, {"from": "gpt", "value": [{"type": "audio"}]}],
        [{"from": "human", "value": "<image> <video>"}, ANSWER],
        [QUESTION, "b"],
        [{"from": "robot", "value": "a"}, ANSWER],
        [None],
        [],
    ],
)
def test_invalid_turns_of_the_source_are_not_used(turns: list[Any]) -> None:
    turns_read, reason = read_turns(turns, "image", 1)
    assert turns_read == [] and reason
    assert build_conversation("image", "caption", 1, turns)[1] == "caption"


@given(st.lists(st.sampled_from(["system", "gpt", "human"]), max_size=7), st.sampled_from(["text", "image"]))
def test_no_turn_is_invented_moved_or_given_another_speaker(speakers: list[str], modality: str) -> None:
    source = [{"from": speaker, "value": f"turn {number}"} for number, speaker in enumerate(speakers)]
    turns, reason = read_turns(source, modality, int(modality == "image"))
    spoken = [{**turn, "value": turn["value"].removeprefix("<image>\n")} for turn in turns]
    # What is used is a stretch of the source, from its first question to its last answer.
    first = speakers.index("human") if "human" in speakers else 0
    stretch = source[first : len(source) - (speakers[-1:] == ["human"])]
    is_sound = [turn["from"] for turn in stretch] == ["human", "gpt"] * max(1, len(stretch) // 2)
    assert (spoken == stretch) if is_sound else (turns == [] and reason is not None)


def test_placeholders_stay_in_their_turns() -> None:
    first, second = ({"from": "human", "value": text} for text in ("<image>What is this?", "And this? <image>"))
    turns = [first, ANSWER, second, {"from": "gpt", "value": "b <image>"}]
    assert [turn["value"] for turn in read_turns(turns, "multi_image", 2)[0]] == [
        "<image>\nWhat is this?", "a", "And this? <image>", "b",
    ]  # fmt: skip
    assert read_turns(turns, "image", 1) == ([], "it has 2 placeholders for 1 media")
    assert read_turns(turns[:2], "multi_image", 2) == ([], "it has 1 placeholders for 2 media")
    assert read_turns([QUESTION, ANSWER], "multi_image", 2)[0][0]["value"] == "<image><image>\nq"
    assert read_turns([{"from": "human", "value": "<image>"}, ANSWER], "image", 1)[0][0]["value"] == "<image>"
    video = [{"from": "human", "value": "<video>\nq"}, ANSWER]
    assert read_turns(video, "video", 1)[0][0]["value"] == "<image>\nq"
    text = [{"from": "human", "value": "an <image> tag"}, ANSWER]
    assert read_turns(text, "text", 0)[0][0]["value"] == "an  tag"


@given(st.lists(st.sampled_from([*CONTROL, "<ima", "ge>", "q"])).map("".join))
def test_no_text_makes_more_placeholders_than_media(text: str) -> None:
    turns, _ = read_turns([{"from": "human", "value": text}, ANSWER], "image", 1)
    assert not turns or turns[0]["value"].count("<image>") == 1


def test_content_may_be_a_list_of_sections() -> None:
    sections = [{"type": "text", "text": "Look: "}, {"type": "image_url", "image_url": {"url": "x"}}, "and say"]
    answer = {"role": "assistant", "content": [{"type": "text", "text": "a"}]}
    turns = [{"role": "user", "content": sections}, answer]
    assert read_turns(turns, "image", 1)[0] == [{"from": "human", "value": "Look: <image>and say"}, ANSWER]
