"""What the base classes do for an annotator of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from annotators import ANNOTATORS
from annotators.interface import Annotator, Column, FrameAnnotator
from infra.config import Strict
from infra.errors import BadSample
from infra.media.interface import DecodedMedia, FramePlan, Frames


class BrightnessSettings(Strict):
    """size: long side of the frame in pixels."""

    size: int = 16


class Brightness(FrameAnnotator):
    """Mean level of the middle frame."""

    name = "brightness"
    keyed_by = "media"
    modalities = frozenset({"video"})
    columns: ClassVar[Mapping[str, Column]] = {
        "mean": Column(pa.float64(), "mean level, 0 to 255"),
        "frames": Column(pa.int32(), "frames read"),
    }
    settings: BrightnessSettings

    @property
    def plan(self) -> FramePlan:
        return FramePlan("middle", self.settings.size, "long")

    def measure_one(self, sample: Mapping[str, Any], content: Frames) -> Mapping[str, Any]:
        if not content.pixels.any():
            raise BadSample("black", "nothing to see")
        return {"mean": round(float(content.pixels.mean()), 6), "frames": len(content.pixels)}


def frames(level: int, count: int = 1) -> DecodedMedia:
    pixels = np.full((count, 4, 4, 3), level, np.uint8)
    return DecodedMedia(frames={"brightness": Frames(pixels, np.arange(count, dtype=float))})


def test_one_sample_at_a_time_becomes_a_table() -> None:
    media = [frames(7), frames(0), DecodedMedia(error="decode: broken"), DecodedMedia(), frames(1, 0), None]
    chunk = pa.table({"key": list("abcdef"), "modality": ["video"] * 6, "text": [None] * 6})
    table = Brightness().measure(chunk, media)
    assert table.schema == Brightness.schema()
    assert table["mean"].to_pylist() == [7.0, None, None, None, None, None]
    assert table["frames"].to_pylist() == [1, None, None, None, None, None]
    assert table["error"].to_pylist() == [
        None,
        "black: nothing to see",
        "decode: broken",
        "no_frames: the medium gave no picture",
        "no_frames: the medium gave no picture",
        "no_media: nothing was decoded",
    ]


def test_settings_are_those_of_the_annotation_and_have_defaults() -> None:
    assert Brightness.settings_class() is BrightnessSettings
    assert Brightness().plan.size == 16 and Brightness(BrightnessSettings(size=8)).plan.size == 8
    assert Brightness().fingerprint_inputs() == {"size": 16}


def test_columns_round_and_have_their_types() -> None:
    table = Brightness().table_of({"mean": np.array([1 / 3, 0.0]), "frames": pa.array([1, 2], pa.int64())})
    assert table.schema == Brightness.schema()
    assert table.to_pylist()[0] == {"mean": 0.333333, "frames": 1, "error": None}


def test_a_method_that_is_not_implemented_raises_an_error() -> None:
    with pytest.raises(NotImplementedError, match="neither measure nor measure_one"):
        Annotator.measure_one(Brightness(), {}, None)


@pytest.mark.parametrize("name", list(ANNOTATORS))
def test_every_annotator_declares_itself(name: str) -> None:
    kind = ANNOTATORS[name]
    assert kind.name == name and kind.__doc__ and kind.VERSION >= 1
    assert kind.keyed_by in ("text", "media", "pair") and kind.input in ("text", "header", "stream", "frames")
    assert set(kind.store_only) <= set(kind.columns)
    assert all(column.meaning for column in kind.columns.values())
    assert all(column.partition(".")[0] in ANNOTATORS for column in kind.depends_on)
    if (
        not any(field.is_required() for field in kind.settings_class().model_fields.values())
        and kind.keyed_by != "pair"
    ):
        assert kind().settings == kind.settings_class()()
