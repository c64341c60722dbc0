from __future__ import annotations

import numpy as np

from mixtures.reading.apollo_stages import STAGES
from mixtures.reading.contract import Contract


def test_stages_have_the_settings_of_the_papers_table() -> None:
    align, vision, sft = STAGES.values()
    assert (align.trains, vision.trains, sft.trains) == (
        ("connector",),
        ("vision", "connector"),
        ("connector", "language"),
    )
    assert [stage.rates(7)["language"] for stage in STAGES.values()] == [0, 0, 1e-5]
    assert [sft.rates(size)["language"] for size in (1.5, 3, 7)] == [5e-5, 2e-5, 1e-5]
    assert [stage.contract(7).max_clips for stage in STAGES.values()] == [25, 25, 150]
    assert {stage.rates()["connector"] for stage in STAGES.values()} == {1e-4} and vision.rates()["vision"] == 5e-6
    assert set(vision.shares) == {"video"} and align.shares["image"] == align.shares["video"] == (0.5, 0.5)
    assert sft.shares["text"] == (0.10, 0.14)
    assert {(stage.batch, stage.epochs) for stage in STAGES.values()} == {(256, 1)}


def test_a_contract_that_fits_its_context() -> None:
    # 200 clips of 16 tokens a frame are 12,800 tokens, but 0.65 of 16,384 are less; with all of it they fit.
    sft = STAGES["sft"]
    long = np.array([3600.0])
    assert sft.contract(3).clips(long) == [167]
    assert sft.contract(3, Contract(clip_share=1.0)).clips(long) == [200]
    assert sft.contract(3).clip_tokens == 64
    assert STAGES["align"].contract().clips(long) == [25]
