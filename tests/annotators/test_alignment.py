"""Alignment: open_clip's own score, one row at a time, and never a score from a broken model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from annotators.alignment import Alignment, AlignmentSettings, VideoAlignment
from annotators.interface import Annotator
from infra.errors import ConfigError
from infra.media.interface import DecodedMedia, Frames
from infra.weights import models

torch = pytest.importorskip("torch")

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("clip"))


def make(folder: Path, spoil: float | None = None, **preprocess: Any) -> Path:
    """A CLIP with random weights; `spoil` is put in place of the picture's projection."""
    from safetensors.torch import save_file

    torch.manual_seed(3)
    model = models.import_open_clip().CLIP(**TINY)
    if spoil is not None:
        with torch.no_grad():
            model.visual.proj.fill_(spoil)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": preprocess}))
    return folder


def picture(seed: int, high: int = 48, wide: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (high, wide, 3), dtype=np.uint8)


def decoded(name: str, *pictures: np.ndarray) -> DecodedMedia:
    return DecodedMedia(frames={name: Frames(np.stack(pictures), np.arange(len(pictures), dtype=np.float64))})


def measure(
    annotator: Alignment | VideoAlignment, texts: list[str | None], media: list[DecodedMedia | None]
) -> pa.Table:
    chunk = pa.table({"key": [str(i) for i in range(len(media))], "clean.text": pa.array(texts, pa.string())})
    table = annotator.measure(chunk, media)
    assert table.schema == annotator.schema()
    return table


def local(folder: Path, **more: Any) -> AlignmentSettings:
    return AlignmentSettings(model=f"local-dir:{folder}", **more)


def reference(folder: Path, pixels: np.ndarray, text: str) -> float:
    """open_clip used as its own documentation shows it."""
    from PIL import Image

    clip = models.import_open_clip()
    model, _, preprocess = clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = clip.get_tokenizer(f"local-dir:{folder}")([text])
    with torch.no_grad():
        image = model.eval().encode_image(preprocess(Image.fromarray(pixels))[None], normalize=True)
        return float((image @ model.encode_text(tokens, normalize=True).T)[0, 0])


def test_both_are_annotators_with_their_plans(tiny: Path) -> None:
    image, video = Alignment(local(tiny)), VideoAlignment(local(tiny, frames=5))
    assert isinstance(image, Annotator)
    assert isinstance(video, Annotator)
    assert (image.plan.times, image.plan.size, image.plan.fit) == ("middle", 32, "short")
    assert (video.plan.times, video.plan.count, video.plan.size) == ("uniform", 5, 32)


@pytest.mark.parametrize("shape", [(48, 64), (32, 57), (32, 32), (70, 33), (20, 18)])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_the_score_equals_that_of_open_clip(shape: tuple[int, int], mode: str, tmp_path: Path) -> None:
    folder = make(tmp_path, resize_mode=mode)
    pixels = picture(1, *shape)
    table = measure(Alignment(local(folder)), ["a red ball"], [decoded("alignment", pixels)])
    assert table.column("score")[0].as_py() == pytest.approx(reference(folder, pixels, "a red ball"), abs=2e-6)


def test_scores_are_rounded_cosines_of_text_and_picture(tiny: Path) -> None:
    texts: list[str | None] = ["a red ball", "two black fish", "a red ball"]
    pictures = [picture(1), picture(1), picture(2)]
    scores = measure(Alignment(local(tiny)), texts, [decoded("alignment", p) for p in pictures]).column("score")
    values = scores.to_pylist()
    assert len(set(values)) == 3
    assert all(-1 <= v <= 1 and v == round(v, 6) for v in values)


def test_a_multi_image_has_the_mean_of_its_pictures_scores(tiny: Path) -> None:
    annotator, pictures = Alignment(local(tiny)), [picture(s) for s in (1, 2, 3)]
    media: list[DecodedMedia | None] = [decoded("alignment", *pictures), *(decoded("alignment", p) for p in pictures)]
    whole, *single = measure(annotator, ["a fish"] * 4, media).column("score").to_pylist()
    assert whole == pytest.approx(np.mean(single), abs=1e-6)


def test_pooled_frames_are_averaged_as_unit_vectors(tiny: Path) -> None:
    frames = [picture(s) for s in (4, 5, 6)]
    row = measure(VideoAlignment(local(tiny)), ["a kite"], [decoded("video_alignment", *frames)]).to_pylist()[0]
    clip = models.load_clip(models.ClipSource(f"local-dir:{tiny}"))
    mean = clip.encode_images(frames).mean(axis=0)
    expected = float(mean / np.linalg.norm(mean) @ clip.encode_texts(["a kite"])[0])
    assert row == {"score": pytest.approx(expected, abs=1e-6), "frames": 3, "error": None}


@settings(max_examples=15, deadline=None)
@given(seeds=st.lists(st.integers(0, 9), min_size=1, max_size=6), batch=st.sampled_from([1, 4]), data=st.data())
def test_a_row_does_not_depend_on_its_neighbours(tiny: Path, seeds: list[int], batch: int, data: st.DataObject) -> None:
    annotator = Alignment(local(tiny, batch=batch))
    texts: list[str | None] = [f"a thing number {s}" for s in seeds]
    media: list[DecodedMedia | None] = [decoded("alignment", picture(s)) for s in seeds]
    row = data.draw(st.integers(0, len(seeds) - 1))
    together = measure(annotator, texts, media).slice(row, 1)
    assert together.to_pylist() == measure(annotator, [texts[row]], [media[row]]).to_pylist()


@pytest.mark.parametrize("spoil", [float("nan"), 0.0, float("inf")])
@pytest.mark.parametrize("kind", [Alignment, VideoAlignment])
def test_a_model_that_gives_no_vector_gives_no_score(spoil: float, kind: type, tmp_path: Path) -> None:
    annotator = kind(local(make(tmp_path, spoil)))
    row = measure(annotator, ["a red ball"], [decoded(annotator.name, picture(1))]).to_pylist()[0]
    assert row["score"] is None
    assert row["error"].startswith("model:")


def test_rows_without_text_or_picture_are_errors(tiny: Path) -> None:
    good, empty = decoded("alignment", picture(1)), decoded("alignment", picture(1))
    nothing = DecodedMedia(frames={"alignment": Frames(np.zeros((0, 32, 32, 3), np.uint8), np.zeros(0))})
    media: list[DecodedMedia | None] = [
        good,
        empty,
        DecodedMedia(error="decode: broken"),
        None,
        nothing,
        DecodedMedia(),
    ]
    table = measure(Alignment(local(tiny)), [None, "", "a ball", "a ball", "a ball", "a ball"], media)
    errors = table.column("error").to_pylist()
    assert [e.split(":")[0] for e in errors] == ["no_text", "no_text", "decode", "no_media", "no_frames", "no_frames"]
    assert table.column("score").null_count == len(media)


def test_fingerprint_inputs_follow_the_weights_and_not_their_path(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    same, changed = make(tmp_path / "a"), make(tmp_path / "b", spoil=0.5)
    assert Alignment(local(tiny)).fingerprint_inputs() == Alignment(local(same)).fingerprint_inputs()
    makers = [Alignment(local(tiny)), Alignment(local(changed)), Alignment(local(tiny, batch=2))]
    makers += [VideoAlignment(local(tiny)), VideoAlignment(local(tiny, frames=4))]
    assert len({json.dumps(dict(m.fingerprint_inputs()), sort_keys=True) for m in makers}) == 5


# --- a video–text model -----------------------------------------------------------------------------------------------


class Tiny(torch.nn.Module):
    """Colours in the order they come, against a table of words; NaN for a black first frame."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.words = torch.nn.Embedding(49408, 6)

    @torch.jit.export
    def encode_video(self, frames: torch.Tensor) -> torch.Tensor:
        colours = frames.float().mean([2, 3])
        out = torch.cat([colours[:, 0], colours[:, -1]], 1)
        return torch.where(colours[:, 0].sum() > 0, out, out * float("nan"))

    @torch.jit.export
    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.words(tokens).sum(1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        return self.encode_video(frames)


@pytest.fixture(scope="module")
def video_text(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("video_text") / "tiny.pt"
    torch.jit.script(Tiny()).save(str(path))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"weights": str(path), "sha256": sha256, "size": 24, "context": 16}


def test_a_video_text_model_sees_the_frames_in_order(video_text: dict[str, Any]) -> None:
    annotator = VideoAlignment(AlignmentSettings(engine="video_text", video_text=video_text))
    assert (annotator.plan.size, annotator.plan.count) == (24, 8)
    frames = [picture(s, 24, 43) // (s + 1) for s in range(3)]
    media: list[DecodedMedia | None] = [decoded("video_alignment", *frames), decoded("video_alignment", *frames[::-1])]
    table = measure(annotator, ["a boat", "a boat"], media)
    forwards, backwards = table.column("score").to_pylist()
    assert forwards != backwards
    cut = np.stack([f[:, 9:33] for f in frames])
    tokens = models.import_open_clip().tokenize(["a boat"], context_length=16)
    model = Tiny()
    with torch.no_grad():
        video, text = model.encode_video(torch.from_numpy(cut)[None])[0], model.encode_text(tokens)[0]
    assert forwards == pytest.approx(float(torch.cosine_similarity(video, text, dim=0)), abs=1e-5)
    assert table.column("frames").to_pylist() == [3, 3]


def test_a_video_text_model_may_fail_on_one_row(video_text: dict[str, Any]) -> None:
    annotator = VideoAlignment(AlignmentSettings(engine="video_text", video_text=video_text))
    black = np.zeros((30, 24, 3), np.uint8)
    media: list[DecodedMedia | None] = [
        decoded("video_alignment", black),
        decoded("video_alignment", picture(1, 12, 12)),
    ]
    errors = measure(annotator, ["a boat", "a boat"], media).column("error").to_pylist()
    assert errors[0].startswith("model:")
    assert errors[1] is None


def test_a_script_without_the_two_methods_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "plain.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    setting = {"weights": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    annotator = VideoAlignment(AlignmentSettings(engine="video_text", video_text=setting))
    with pytest.raises(ConfigError, match="no method encode_video"):
        annotator.fingerprint_inputs()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"engine": "video_text"},
        {"model": "ViT-B-32", "pretrained": "openai", "sha256": "short"},
        {"model": "ViT-B-32", "engine": "video_text", "video_text": {"weights": "x", "sha256": "0" * 64}},
        {"model": "ViT-B-32", "video_text": {"weights": "x", "sha256": "0" * 64}},
        {"engine": "video_text", "video_text": {"weights": "x", "sha256": "zz"}},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        AlignmentSettings(**wrong)


def test_alignment_refuses_what_only_videos_use(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="frames"):
        Alignment(local(tiny, frames=4))
