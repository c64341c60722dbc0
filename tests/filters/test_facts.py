import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters.facts import FactsFilter, FactsThresholds
from filters.rules import Judgement


def judge(signals: pa.Table, settings: FactsThresholds) -> Judgement:
    return FactsFilter(settings).judge(signals)


VIDEO = {"modality": "video", "width": 640, "height": 360, "pixel_aspect": 1.0, "duration": 10.0, "fps": 25.0,
         "codec": "h264"}  # fmt: skip
IMAGE = VIDEO | {"modality": "image", "height": 480, "duration": None, "fps": None, "codec": None}
ALL = FactsThresholds(max_pixels=4_000_000, min_duration=2.0, max_duration=60.0, min_fps=16.0, codecs=("h264", "vp9"))


def table(*rows: dict[str, object]) -> pa.Table:
    kinds = {"width": pa.int32(), "height": pa.int32(), "codec": pa.string()}
    columns = {
        f"facts.{name}": pa.array([row[name] for row in rows], kinds.get(name, pa.float64()))
        for name in VIDEO if name != "modality"
    }  # fmt: skip
    return pa.table({"modality": [row["modality"] for row in rows], **columns})


@pytest.mark.parametrize(
    ("fault", "reason", "number", "threshold"),
    [
        ({"height": 199}, "too_small", 199, 200),
        ({"width": 1081}, "too_wide", 1081 / 360, 3),
        ({"width": 360, "height": 1081}, "too_wide", 1081 / 360, 3),
        ({"width": 240, "height": 240, "pixel_aspect": 4.0}, "too_wide", 4, 3),
        ({"width": 240, "height": 240, "pixel_aspect": 0.25}, "too_wide", 4, 3),
        ({"width": 2001, "height": 2000}, "too_large", 4_002_000, 4_000_000),
        ({"duration": 1.9}, "too_brief", 1.9, 2),
        ({"duration": 61.0}, "too_lengthy", 61, 60),
        ({"fps": 15.9}, "too_few_frames", 15.9, 16),
        ({"codec": "mjpeg"}, "codec", 0, 1),
    ],
)
def test_every_rule_drops_with_its_reason_number_and_threshold(
    fault: dict[str, object], reason: str, number: float, threshold: float
) -> None:
    verdicts = judge(table(VIDEO, VIDEO | fault), ALL)
    assert verdicts.reason.tolist() == ["", reason]
    assert (verdicts.numbers[1], verdicts.threshold[1]) == (pytest.approx(number), threshold)


def test_a_squeezed_picture_has_the_shape_at_which_it_is_shown() -> None:
    wide = VIDEO | {"width": 720, "height": 200, "pixel_aspect": 0.8}
    tall = VIDEO | {"width": 200, "height": 600}  # exactly at the limit: 1 / 0.333333 would be above it
    assert judge(table(wide, tall), ALL).passed.tolist() == [True, True]


def test_images_have_no_duration() -> None:
    assert judge(table(IMAGE, IMAGE | {"modality": "multi_image"}), ALL).passed.tolist() == [True, True]
    assert judge(table(IMAGE | {"height": 100}), ALL).reason.tolist() == ["too_small"]


@pytest.mark.parametrize("name", ["width", "height", "pixel_aspect", "duration", "fps", "codec"])
def test_what_is_asked_and_missing_fails_closed(name: str) -> None:
    verdicts = judge(table(VIDEO | {name: None}), ALL)
    assert (verdicts.passed[0], verdicts.reason[0]) == (False, "missing")


def test_nan_fails_closed_and_what_is_not_asked_may_be_missing() -> None:
    assert judge(table(VIDEO | {"duration": math.nan}), ALL).reason.tolist() == ["missing"]
    assert judge(table(VIDEO | {"duration": None, "fps": None, "codec": None}), FactsThresholds()).passed.tolist() == [
        True
    ]
    assert judge(table(VIDEO | {"width": 0, "height": 0}), FactsThresholds(min_side=None)).reason.tolist() == [
        "too_wide"
    ]


def test_everything_off_passes_what_was_measured() -> None:
    off = FactsThresholds(min_side=None, max_aspect=None)
    assert judge(table(VIDEO, IMAGE | {"width": None}), off).passed.tolist() == [True, False]


rows = st.sampled_from([VIDEO, IMAGE, VIDEO | {"fps": None}, VIDEO | {"height": 10}, IMAGE | {"width": 5000}])


@settings(deadline=None, max_examples=30)
@given(st.lists(rows, min_size=1, max_size=10))
def test_verdicts_do_not_depend_on_order_or_chunks(drawn: list[dict[str, object]]) -> None:
    whole = judge(table(*drawn), ALL)
    backwards = judge(table(*drawn[::-1]), ALL)
    for field in ("passed", "numbers", "threshold", "reason"):
        np.testing.assert_array_equal(getattr(backwards, field), getattr(whole, field)[::-1])
        single = [getattr(judge(table(row), ALL), field)[0] for row in drawn]
        np.testing.assert_array_equal(np.array(single), getattr(whole, field))
