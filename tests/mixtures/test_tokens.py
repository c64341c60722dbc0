from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures import tokens


@pytest.mark.parametrize(
    ("seconds", "clips"), [(0, 1), (-1, 1), (0.5, 1), (2, 1), (2.1, 2), (60, 30), (166.4, 84), (10_000, 84)]
)
def test_clips_of_a_video(seconds: float, clips: int) -> None:
    # 16,384 tokens of context, 65 % for video, 128 a clip: 83.2 clips is where sampling begins.
    assert tokens.video_clips(seconds) == clips
    assert tokens.video_tokens(seconds) == 128 * clips


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_longer_videos_never_cost_less_and_fit_the_context(a: float, b: float) -> None:
    short, long = sorted((a, b))
    assert tokens.video_tokens(short) <= tokens.video_tokens(long) <= math.ceil(16_384 * 0.65 / 128) * 128


def test_images_and_text() -> None:
    assert [tokens.image_tokens(n) for n in (1, 3)] == [128, 384]
    assert [tokens.text_tokens("x" * n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
