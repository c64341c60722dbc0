from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.reading.clip_plan import X_TOKEN, build_image_text, build_video_text, insert_media, plan_clips
from mixtures.reading.contract import Contract

#: As the released function was run: 16,384 tokens of context, 0.65 of it for video, 128 tokens a clip.
RELEASED = Contract()


def describe_plan(frames: int, fps: float) -> tuple[list[int], list[str], int]:
    seconds = frames / fps
    plan = plan_clips(frames, fps, seconds, RELEASED)
    text = build_video_text(plan.times, seconds, RELEASED).replace(X_TOKEN["video"], "")
    spans = [line.split(" seconds")[0] for line in text.splitlines()[1:]]
    return plan.frames[0].tolist(), spans, len(plan.frames)


def test_rows_measured_on_the_released_sampler() -> None:
    first, spans, clips = describe_plan(250, 25.0)
    assert (first, spans[:2], spans[-1], clips) == ([1, 13, 25, 37], ["0.0-1.5", "2.0-3.5"], "8.0-9.5", 5)
    assert describe_plan(30, 30.0) == ([0, 15, 29, 29], ["0.0-1.0"], 1)
    first, spans, clips = describe_plan(504, 24.0)
    assert (first, spans[-1], clips) == ([0, 12, 24, 36], "18.8-20.2", 11)


def test_the_text_for_a_video_equals_that_of_the_released_loader() -> None:
    plan = plan_clips(100, 25.0, 4.0, Contract(tokens_per_frame=1))
    token = "<|video_token|>" * 4
    assert build_video_text(plan.times, 4.0, Contract(tokens_per_frame=1)) == (
        "You are provided the following series of two, 2 second clips from a 0:00:04 [H:MM:SS] video.\n"
        f"0.0-1.5 seconds: {token},\n2.0-3.5 seconds: {token}"
    )
    long = build_video_text(np.zeros((84, 2)), 12 + 1 / 3, RELEASED)
    assert long.startswith(
        "You are provided the following series of eighty-four, 2 second clips from a 0:00:12.333333 "
    )
    assert long.count("<|video_token|>") == 84 * 128


@pytest.mark.parametrize(("share", "clips"), [(0.65, 84), (0.5, 64)])
def test_the_context_caps_clips(share: float, clips: int) -> None:
    contract = Contract(clip_share=share)
    assert len(plan_clips(25 * 3600, 25.0, 3600.0, contract).frames) == clips
    assert len(plan_clips(25 * 3600, 25.0, 3600.0, Contract(max_clips=25)).frames) == 25


def list_frames_by_hand(frames: int, fps: Fraction, count: int) -> list[list[int]]:
    """The rule in words, one frame after the other, for rates above one frame a second."""
    apart = max(1, math.floor(fps / 2))
    length = 4 * apart
    plan = []
    for clip in range(count):
        if frames // count > length:
            start = clip * (frames // count) + (frames // count - length) // 2
            plan.append([start + i * apart for i in range(4)])
        else:
            start = clip * ((frames - length) // max(1, count - 1)) if frames > length else 0
            plan.append([start + min(i * apart, min(length, frames) - 1) for i in range(4)])
    return plan


@given(st.integers(1, 4000), st.sampled_from([Fraction(3, 2), 2, 5, 10, 24, 25, 30, 60, 120, Fraction(30000, 1001)]))
def test_plans_follow_the_rule(frames: int, rate: Fraction) -> None:
    fps = float(rate)
    seconds = frames / fps
    plan = plan_clips(frames, fps, seconds, RELEASED)
    count = int(RELEASED.clips(np.array([seconds]))[0])
    assert plan.frames.tolist() == list_frames_by_hand(frames, Fraction(rate), count)
    assert np.allclose(plan.times, plan.frames[:, [0, -1]] / fps)
    assert plan.frames.min() >= 0 and plan.frames.max() < frames
    assert (np.diff(plan.frames, axis=1) >= 0).all() and (np.diff(plan.frames[:, 0]) >= 0).all()


@pytest.mark.parametrize(
    ("fps", "first"), [(1.0, [0, 0, 1, 1]), (0.75, [0, 0, 0, 0]), (0.5, [0, 0, 0, 0]), (0.1, [0, 0, 0, 0])]
)
def test_slow_videos_repeat_frames(fps: float, first: list[int]) -> None:
    plan = plan_clips(6, fps, 6 / fps, RELEASED)
    assert plan.frames[0].tolist() == first
    assert plan.frames.min() >= 0 and plan.frames.max() <= 5


def test_facts_that_are_missing_still_give_a_plan() -> None:
    plan = plan_clips(0, 0.0, 0.0, RELEASED)
    assert plan.frames.tolist() == [[0, 0, 0, 0]] and plan.times.tolist() == [[0.0, 0.0]]


def turns(*values: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(values)]


def test_media_are_inserted_at_their_placeholders() -> None:
    assert insert_media(turns("<image>\nWhy?", "So."), ["[V]"], "<image>") == turns("[V]\n\nWhy?", "So.")
    assert insert_media(turns("<image><image>\nWhich?", "A."), ["[1]", "[2]"], "<image>") == turns(
        "[1][2]\n\nWhich?", "A."
    )
    assert insert_media(turns("Is <image> like <image>?", "No."), ["[1]", "[2]"], "<image>") == turns(
        "Is [1] like [2]?", "No."
    )
    assert insert_media(turns("Hm?", "Yes.", "And\n<image>\nthis?", "No."), ["[1]"], "<image>") == turns(
        "Hm?", "Yes.", "And\n[1]\nthis?", "No."
    )
    assert insert_media(turns("<image>\n", "A picture."), ["[1]"], "<image>")[0]["value"].strip() == "[1]"
    assert build_image_text(Contract(tokens_per_frame=8)) == "<|image_token|>" * 32
