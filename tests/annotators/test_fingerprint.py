"""Fingerprints: unit vectors that stay with a copy, never a vector from a broken model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from annotators.fingerprint import Fingerprint, FingerprintSettings, measure_border, measure_chroma
from annotators.interface import Annotator
from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, Frames, MediaRef


def photo(seed: int, high: int = 180, wide: int = 240) -> np.ndarray:
    """Smooth random shapes: what a perceptual hash is made for."""
    import cv2

    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(small, (wide, high), interpolation=cv2.INTER_CUBIC), np.uint8)


def decoded(*pictures: np.ndarray) -> DecodedMedia:
    frames = Frames(np.stack(pictures), np.arange(len(pictures), dtype=np.float64))
    return DecodedMedia(frames={"fingerprint": frames})


def measure(annotator: Fingerprint, *media: DecodedMedia | None) -> pa.Table:
    chunk = pa.table({"key": [str(i) for i in range(len(media))]})
    table = annotator.measure(chunk, media)
    assert table.schema == annotator.schema()
    return table


def vectors(table: pa.Table, row: int, column: str = "vectors") -> np.ndarray:
    values = table.to_pylist()[row]
    return np.frombuffer(values[column], "<f2").reshape(-1, values["dim"])


def test_the_annotator_reads_frames_as_its_settings_say() -> None:
    annotator = Fingerprint(FingerprintSettings())
    assert isinstance(annotator, Annotator)
    plan = annotator.plan
    assert (plan.times, plan.fps, plan.ends, plan.count, plan.size, plan.fit) == ("rate", 1.0, True, 256, 512, "long")
    assert plan.image_size == 4096
    assert annotator.store_only <= set(annotator.columns)


def test_an_image_has_the_hash_that_pdq_gives_its_own_pixels(tmp_path: Path) -> None:
    """pdqhash is the code of PDQ's authors: hashes of published lists were made from pictures at their own size."""
    import pdqhash

    pixels = np.asarray(PIL.Image.fromarray(photo(5)).resize((1210, 707), PIL.Image.Resampling.BICUBIC))
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    annotator = Fingerprint()
    with Decoder() as decoder:
        media = decoder.decode(MediaRef(str(tmp_path / "a.png"), kind="image"), {"fingerprint": annotator.plan}, {})
    row = annotator.measure(pa.table({"key": ["a"], "modality": ["image"]}), [media]).to_pylist()[0]
    bits = np.frombuffer(row["vectors"], "<f2") > 0
    assert bits.tolist() == pdqhash.compute(pixels)[0].astype(bool).tolist()


def test_chroma_and_plain_edges() -> None:
    rng = np.random.default_rng(2)
    colour = rng.integers(60, 256, (60, 80, 3), dtype=np.uint8)
    grey = np.repeat(colour[..., :1], 3, axis=2)
    assert measure_chroma(grey) == 0 < 0.1 < measure_chroma(colour)
    boxed = np.zeros((80, 100, 3), np.uint8)
    boxed[10:70, 10:90] = colour
    assert measure_border(colour) == 0
    assert measure_border(boxed) == pytest.approx(1 - 60 * 80 / 8000)
    boxed[:10] = 255  # the columns at the sides are then of two colours
    assert measure_border(boxed) == pytest.approx(20 / 80)
    assert measure_border(np.full((8, 8, 3), 7, np.uint8)) == 1


def test_pdq_bits_are_a_unit_vector_whose_cosine_counts_bits() -> None:
    import pdqhash

    a, b = photo(1), photo(2)
    table = measure(Fingerprint(FingerprintSettings()), decoded(a), decoded(b))
    rows = [vectors(table, i)[0].astype(np.float64) for i in range(2)]
    bits = [pdqhash.compute(p)[0] for p in (a, b)]
    assert [float(r @ r) for r in rows] == [1.0, 1.0]
    assert float(rows[0] @ rows[1]) == 1 - 2 * int((bits[0] != bits[1]).sum()) / 256
    assert [list(r > 0) for r in rows] == [list(x == 1) for x in bits]


def test_a_copy_keeps_its_hash_and_another_picture_does_not() -> None:
    import cv2

    a = photo(3)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", a, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    table = measure(
        Fingerprint(FingerprintSettings()), decoded(a), decoded(np.asarray(jpeg, np.uint8)), decoded(photo(4))
    )
    picture, copy, unrelated = (vectors(table, i)[0].astype(np.float64) for i in range(3))
    assert picture @ copy > 0.9
    assert picture @ unrelated < 0.5


def test_blank_frames_are_counted_and_not_searched() -> None:
    blank, red = np.full((96, 96, 3), 7, np.uint8), np.zeros((96, 96, 3), np.uint8)
    red[..., 0] = 200
    row = measure(Fingerprint(FingerprintSettings()), decoded(blank, photo(5, 96, 96), red)).to_pylist()[0]
    assert row["frames"] == 3
    assert row["times"] == [1.0]
    assert len(row["vectors"]) == 256 * 2
    assert row["error"] is None
    assert 0 < row["quality"] < 50


def test_a_medium_of_blank_frames_has_no_vector_and_no_error() -> None:
    row = measure(Fingerprint(FingerprintSettings(mirror=True)), decoded(np.zeros((96, 96, 3), np.uint8))).to_pylist()[
        0
    ]
    assert (row["frames"], row["dim"], row["vectors"], row["mirrored"], row["times"]) == (1, 256, b"", b"", [])
    assert row["error"] is None


def test_a_mirrored_copy_matches_the_mirrored_vector_only() -> None:
    a = photo(6)
    flipped = np.ascontiguousarray(a[:, ::-1])
    table = measure(Fingerprint(FingerprintSettings(mirror=True)), decoded(a), decoded(flipped))
    assert (vectors(table, 0, "mirrored") == vectors(table, 1)).all()
    cosine = float(vectors(table, 0)[0].astype(np.float64) @ vectors(table, 1)[0].astype(np.float64))
    assert cosine < 0.5
    assert measure(Fingerprint(FingerprintSettings()), decoded(a)).column("mirrored").null_count == 1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=5), st.data())
def test_a_row_does_not_depend_on_its_neighbours(seeds: list[int], data: st.DataObject) -> None:
    annotator = Fingerprint(FingerprintSettings())
    media = [decoded(photo(s, 64, 80)) for s in seeds]
    together = measure(annotator, *media)
    row = data.draw(st.integers(0, len(seeds) - 1))
    assert together.slice(row, 1).to_pylist() == measure(annotator, media[row]).to_pylist()


def test_what_was_not_decoded_is_an_error_and_has_no_values() -> None:
    empty = DecodedMedia(frames={"fingerprint": Frames(np.zeros((0, 64, 64, 3), np.uint8), np.zeros(0))})
    table = measure(
        Fingerprint(FingerprintSettings()), DecodedMedia(error="decode: broken"), None, DecodedMedia(), empty
    )
    assert table.column("error").to_pylist()[0] == "decode: broken"
    assert table.column("error").null_count == 0
    assert all(table.column(name).null_count == 4 for name in Fingerprint.columns)


# --- SSCD -------------------------------------------------------------------------------------------------------------

torch = pytest.importorskip("torch")


class Descriptor(torch.nn.Module):
    """512 numbers from an 8 × 8 thumbnail; what it does with a red first pixel is up to `fault`."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        torch.manual_seed(0)
        self.projection = torch.nn.Linear(192, 512, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.projection(torch.nn.functional.adaptive_avg_pool2d(x, (8, 8)).flatten(1))
        if self.fault == "nan":
            return torch.where(x[:, :1, 0, 0] > 2, out * float("nan"), out)
        if self.fault == "zero":
            return torch.where(x[:, :1, 0, 0] > 2, out * 0, out)
        return torch.nn.functional.normalize(out)


def sscd(folder: Path, fault: str = "", **more: Any) -> Fingerprint:
    path = folder / f"descriptor{fault}.torchscript.pt"
    torch.jit.script(Descriptor(fault)).save(str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Fingerprint(FingerprintSettings(engine="sscd", weights=str(path), sha256=sha256, **more))


def test_sscd_gets_normalised_rgb_and_gives_unit_vectors(tmp_path: Path) -> None:
    picture = photo(7, 320, 320)
    table = measure(sscd(tmp_path), decoded(picture))
    vector = vectors(table, 0)[0]
    pixels = (picture / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    with torch.inference_mode():
        expected = Descriptor("")(torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32))[0].numpy()
    assert vector.shape == (512,)
    np.testing.assert_allclose(vector, expected, atol=1e-3)
    assert abs(np.linalg.norm(vector.astype(np.float64)) - 1) < 1e-3


@pytest.mark.parametrize("fault", ["nan", "zero"])
def test_a_model_that_gives_no_vector_makes_an_error_of_that_row_alone(fault: str, tmp_path: Path) -> None:
    bad = photo(8, 96, 96)
    bad[0, 0, 0] = 255
    good = photo(9, 96, 96)
    good[0, 0, 0] = 0
    table = measure(sscd(tmp_path, fault), decoded(good), decoded(good, bad), decoded(good))
    errors = table.column("error").to_pylist()
    assert errors[0] is errors[2] is None
    assert errors[1].startswith("model:")
    assert table.column("vectors").to_pylist()[1] is None
    assert table.column("vectors").to_pylist()[0] == table.column("vectors").to_pylist()[2]


@pytest.mark.parametrize("batch", [1, 3])
def test_sscd_rows_do_not_depend_on_chunk_or_order(batch: int, tmp_path: Path) -> None:
    annotator = sscd(tmp_path, batch=batch, mirror=True)
    media = [decoded(*(photo(10 * m + f, 96, 96) for f in range(m + 1))) for m in range(4)]
    together = measure(annotator, *media).to_pylist()
    assert together == [measure(annotator, m).to_pylist()[0] for m in media]
    assert together == measure(annotator, *media[::-1]).to_pylist()[::-1]


def test_fingerprint_inputs_follow_what_the_vectors_depend_on(tmp_path: Path) -> None:
    makers = [
        dict(Fingerprint(FingerprintSettings()).fingerprint_inputs()),
        dict(Fingerprint(FingerprintSettings(mirror=True)).fingerprint_inputs()),
    ]
    makers += [
        dict(sscd(tmp_path).fingerprint_inputs()),
        dict(sscd(tmp_path, "nan").fingerprint_inputs()),
        dict(sscd(tmp_path, fps=2.0).fingerprint_inputs()),
    ]
    assert all(a != b for i, a in enumerate(makers) for b in makers[:i])
    assert str(tmp_path) not in str(makers)


@pytest.mark.parametrize(
    "wrong",
    [
        {"engine": "sscd"},
        {"engine": "sscd", "weights": "x.pt"},
        {"engine": "sscd", "weights": "x.pt", "sha256": "12"},
        {"engine": "pdq", "weights": "x.pt", "sha256": "0" * 64},
        {"fps": 0.0},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FingerprintSettings(**wrong)
