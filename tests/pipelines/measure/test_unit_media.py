"""The images of a sample with several are measured as they would be alone."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, FramePlan
from infra.media.pixels import Limits
from pipelines.core.sample_media import MediaRoot
from pipelines.measure.unit_media import UnitMedia
from tests import corpus

SHAPES = ((60, 200), (240, 90), (64, 64))
PLANS = {
    "words": FramePlan("uniform", 48, "long", count=4, image_size=180),
    "pair": FramePlan("middle", 32, "short"),
    "copies": FramePlan("rate", 40, "skew", count=9, fps=1.0, ends=True),
}


def _decode(folder: Path, names: list[str], limits: Limits | None = None) -> tuple[DecodedMedia, DecodedMedia]:
    """The header and the frames of a sample with these images."""
    media = [{"uri": name, "offset": 0, "length": -1, "start_s": 0.0, "end_s": -1.0, "sha256": ""} for name in names]
    samples = pa.table({"source": ["a"], "modality": ["multi_image"], "media": [media]})
    with Decoder(limits or Limits()) as decoder:
        unit = UnitMedia(samples, {"a": MediaRoot(str(folder), str(folder))}, decoder)
        return unit.probe(0), unit.decode(0, PLANS, {})


@pytest.fixture
def names(tmp_path: Path) -> list[str]:
    for number, (height, width) in enumerate(SHAPES):
        picture = np.resize(corpus.picture(number), (height, width, 3))
        (tmp_path / f"{number}.png").write_bytes(corpus.image_bytes(picture, "PNG"))
    return [f"{number}.png" for number in range(len(SHAPES))]


def test_each_image_is_decoded_as_if_it_were_alone(tmp_path: Path, names: list[str]) -> None:
    _, together = _decode(tmp_path, names)
    assert together.error is None
    alone: list[Mapping] = [_decode(tmp_path, [name])[1].frames for name in names]
    for plan in PLANS:
        pictures = together.frames[plan].pictures
        assert len(pictures) == len(names)
        for picture, frames in zip(pictures, alone, strict=True):
            assert np.array_equal(picture, frames[plan].pixels[0])
        assert together.frames[plan].times.tolist() == [0, 1, 2]


def test_the_facts_are_those_of_the_smallest_image(tmp_path: Path, names: list[str]) -> None:
    for order in (names, names[::-1]):
        for header in (part.header for part in _decode(tmp_path, order)):
            assert (header["width"], header["height"], header["images"]) == (200, 60, 3)


def test_together_images_take_no_more_memory_than_one_plan_may(tmp_path: Path, names: list[str]) -> None:
    most = 3 * 3 * 100 * 100
    _, medium = _decode(tmp_path, names, Limits(max_frame_bytes=most))
    sizes = [picture.shape[:2] for picture in medium.frames["words"].pictures]
    assert sizes == [(30, 100), (100, 38), (64, 64)]
    assert [picture.shape[:2] for picture in medium.frames["copies"].pictures] == [(40, 40)] * 3
