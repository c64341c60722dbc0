from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.reading.contract import RELEASED, Contract, estimate_text_tokens


# The first three are the released sampler's own answers at L = 16384, ratio 0.65 and 128 tokens a clip.
@pytest.mark.parametrize(
    ("seconds", "clips"),
    [
        (10.0, 5),
        (1.0, 1),
        (21.0, 11),
        (0.0, 1),
        (-1.0, 1),
        (0.5, 1),
        (2.0, 1),
        (2.1, 2),
        (60.0, 30),
        (166.4, 84),
        (166.0, 83),
        (170.0, 84),
        (100_000.0, 84),
    ],
)
def test_clips_are_those_of_the_released_loader(seconds: float, clips: int) -> None:
    assert RELEASED.clips(np.array([seconds])).tolist() == [clips]


def test_a_stage_caps_clips() -> None:
    assert Contract(max_clips=25).clips(np.array([10.0, 400.0])).tolist() == [5, 25]


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_longer_videos_never_cost_less_and_never_pass_the_budget_by_a_clip(a: float, b: float) -> None:
    short, long = RELEASED.clips(np.array(sorted((a, b)))).tolist()
    assert short <= long <= math.ceil(16_384 * 0.65 / 128)


def test_an_image_is_a_clip_and_a_text_is_none() -> None:
    modality = np.array(["image", "multi_image", "video", "text"], dtype=object)
    tokens = RELEASED.media_tokens(modality, np.array([0.0, 0.0, 4.0, 0.0]), np.array([1, 3, 0, 0]))
    assert tokens.tolist() == [128, 384, 256, 0]


def test_tokens_of_texts_are_estimated_and_marked_as_estimates() -> None:
    assert [estimate_text_tokens(text) for text in ("", "abcd", "abcde")] == [0, 1, 2]
