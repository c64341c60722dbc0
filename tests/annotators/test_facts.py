from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from annotators.facts import Facts
from annotators.interface import Annotator
from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, MediaRef
from tests.infra.media.clips import arrow, encoded, write_video


def rows(count: int) -> pa.Table:
    return pa.table({"key": [str(i) for i in range(count)]})


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> list[DecodedMedia]:
    from PIL import Image

    folder: Path = tmp_path_factory.mktemp("media")
    write_video(folder / "a.mp4", degrees=-90)
    (folder / "a.png").write_bytes(encoded(Image.fromarray(arrow()), "PNG"))
    (folder / "empty").write_bytes(b"")
    with Decoder() as decoder:
        return [
            decoder.probe(MediaRef(str(folder / "a.mp4"))),
            decoder.probe(MediaRef(str(folder / "a.png"), kind="image")),
            decoder.probe(MediaRef(str(folder / "empty"))),
        ]


def test_it_is_an_annotator() -> None:
    assert isinstance(Facts(), Annotator)
    assert Facts().fingerprint_inputs() == {}


def test_facts_of_each_kind(media: list[DecodedMedia]) -> None:
    video, image, broken = Facts().measure(rows(3), media).to_pylist()
    size = video.pop("bytes")
    assert 800 < size < 20000
    assert 0 < video.pop("bit_rate") < 8 * size
    assert video == {
        "codec": "h264",
        "container": "mov,mp4,m4a,3gp,3g2,mj2",
        "pix_fmt": "yuv420p",
        "width": 48,
        "height": 64,
        "fps": 10.0,
        "duration": 2.0,
        "frames": 20,
        "aspect": 0.75,
        "pixel_aspect": 1.0,
        "rotation": 90,
        "audio": False,
        "images": None,
        "error": None,
    }
    assert {name: fact for name, fact in image.items() if fact is not None} == {
        "container": "PNG",
        "pix_fmt": "RGB",
        "width": 40,
        "height": 24,
        "frames": 1,
        "aspect": 1.666667,
        "pixel_aspect": 1.0,
        "bytes": image["bytes"],
        "images": 1,
    }
    assert {name: fact for name, fact in broken.items() if fact is not None} == {"error": "empty: 0 bytes"}


def test_columns_are_as_declared_and_rows_are_independent(media: list[DecodedMedia]) -> None:
    together = Facts().measure(rows(3), media)
    assert together.schema == Facts.schema()
    for i, medium in enumerate(media):
        assert Facts().measure(rows(1), [medium]).to_pylist() == together.slice(i, 1).to_pylist()
    assert Facts().measure(rows(0), []).schema == together.schema


def test_several_images_and_none_at_all(media: list[DecodedMedia]) -> None:
    several = DecodedMedia(header={**media[1].header, "images": 3})
    facts = Facts().measure(rows(2), [several, None]).to_pylist()
    assert facts[0]["images"] == 3
    assert facts[1]["error"] == "no_media: nothing was decoded"
    assert facts[1]["width"] is None
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        Facts().measure(rows(3), [several, None])
