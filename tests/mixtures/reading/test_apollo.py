from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import StageError
from infra.weights import models
from mixtures.reading.apollo import VisionProcessor, pad_to_square, to_apollo
from mixtures.reading.chatml import IGNORE_INDEX, X_TOKEN_INDEX, tokenize
from mixtures.reading.clip_plan import build_image_text, build_video_text, insert_media
from mixtures.reading.contract import Contract
from mixtures.reading.training_sample import TrainingSample
from tests.mixtures.tokenizer import fast, tokenizer

CONTRACT = Contract(tokens_per_frame=8)
MEAN, STD = [0.48, 0.45, 0.40], [0.26, 0.27, 0.28]


@pytest.fixture(scope="module")
def small() -> Any:
    return tokenizer()


@pytest.fixture(scope="module")
def transformers() -> Any:
    models.import_torchvision("tests")  # transformers imports it where it is installed
    import transformers

    return transformers


def make_processor(size: Any) -> Any:
    return SimpleNamespace(image_mean=MEAN, image_std=STD, size=size)


def make_sample(modality: str, count: int, height: int = 30, width: int = 50) -> TrainingSample:
    rng = np.random.default_rng(count)
    clips = [rng.integers(0, 256, (4, height, width, 3), dtype=np.uint8) for _ in range(count)]
    if modality != "video":
        clips = [np.broadcast_to(clip[:1], clip.shape) for clip in clips]
    texts = (
        [build_video_text(np.zeros((count, 2)), 9.0, CONTRACT)]
        if modality == "video"
        else [build_image_text(CONTRACT)] * count
    )
    turns = [{"from": "human", "value": "<image>" * len(texts) + "\nWhy?"}, {"from": "gpt", "value": "So."}]
    return TrainingSample(
        key=f"{modality}{count}",
        data_type="image" if modality == "multi_image" else modality,
        modality=modality,
        clips=clips,
        frames=np.zeros((0, 4), dtype=np.int64),
        times=np.zeros((0, 2)),
        conversations=insert_media(turns, texts, "<image>") if count else [{"from": "gpt", "value": "A text."}],
        record={},
    )


BATCH = [make_sample("video", 3), make_sample("image", 1), make_sample("text", 0), make_sample("multi_image", 2)]


def test_shapes_and_counts(small: Any) -> None:
    encoders = [VisionProcessor(make_processor({"height": 24, "width": 24}), video=True), make_processor(32)]
    batch = to_apollo(BATCH, encoders, small, contract=CONTRACT)
    assert batch["data_types"] == ["video", "image", "text", "image"]
    assert [[tuple(tensor.shape) for tensor in sample] for sample in batch["vision_input"]] == [
        [(3, 3, 4, 24, 24), (3, 4, 3, 32, 32)],
        [(1, 3, 4, 24, 24), (1, 4, 3, 32, 32)],
        [],
        [(2, 3, 4, 24, 24), (2, 4, 3, 32, 32)],
    ]
    ids, labels, mask = batch["input_ids"], batch["labels"], batch["attention_mask"]
    assert ids.shape == labels.shape == mask.shape and ids.dtype == labels.dtype == torch.int64
    assert (ids == X_TOKEN_INDEX).sum(1).tolist() == [3 * 32, 32, 0, 2 * 32]
    assert (labels[ids == X_TOKEN_INDEX] == IGNORE_INDEX).all() and (labels[~mask] == IGNORE_INDEX).all()
    for row, sample in enumerate(BATCH):
        tokens, targets = tokenize(sample.conversations, small)
        assert ids[row][mask[row]].tolist() == tokens and labels[row][mask[row]].tolist() == targets
    # Both encoders' views of one clip are the same pictures, turned.
    again = to_apollo(BATCH[:1], [make_processor(24)], small, contract=CONTRACT)["vision_input"][0][0]
    assert torch.equal(batch["vision_input"][0][0].transpose(1, 2), again)
    assert all(torch.equal(again[i][0], again[i][1]) is False for i in range(3))
    image = batch["vision_input"][1][1][0]
    assert all(torch.equal(image[0], frame) for frame in image)


def test_frames_are_padded_with_the_processors_mean() -> None:
    frames = np.full((2, 10, 20, 3), 7, dtype=np.uint8)
    colour = VisionProcessor(make_processor(20)).colour
    assert colour == (122, 114, 102)
    square = pad_to_square(frames, colour)
    assert square.shape == (2, 20, 20, 3)
    assert (square[:, 5:15] == 7).all() and (square[:, :5] == colour).all() and (square[:, 15:] == colour).all()
    tall = pad_to_square(frames.transpose(0, 2, 1, 3), colour)
    assert (tall[:, :, 5:15] == 7).all() and (tall[:, :, 15:] == colour).all()
    padded = VisionProcessor(make_processor(20)).pixels(frames)
    assert torch.allclose(padded[0, :, 10, 10], (torch.tensor([7 / 255] * 3) - torch.tensor(MEAN)) / torch.tensor(STD))
    assert padded[0, :, 0, 0].abs().max() < 0.02  # padding is near the mean, which is 0


@pytest.mark.parametrize("name", ["SiglipImageProcessorPil", "CLIPImageProcessorPil", "VideoMAEImageProcessorPil"])
def test_processors_of_transformers(transformers: Any, small: Any, name: str) -> None:
    side = {"size": {"height": 24, "width": 24}}
    if "Siglip" not in name:
        side = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    processor = getattr(transformers, name)(**side)
    assert VisionProcessor(processor).size() == (24, 24)
    for video, shape in ((False, (3, 4, 3, 24, 24)), (True, (3, 3, 4, 24, 24))):
        clips = to_apollo(BATCH[:1], [VisionProcessor(processor, video)], small, contract=CONTRACT)["vision_input"][0][
            0
        ]
        assert tuple(clips.shape) == shape
        # What the processor makes of the padded frames, clip by clip.
        square = pad_to_square(BATCH[0].clips[1], VisionProcessor(processor).colour)
        processed = processor.preprocess(list(square), return_tensors="pt")["pixel_values"].reshape(4, 3, 24, 24)
        assert torch.equal(clips[1], processed.transpose(0, 1) if video else processed)


def test_padding_ids(transformers: Any, small: Any) -> None:
    batch = to_apollo([BATCH[1], BATCH[2]], [], fast(), contract=CONTRACT)
    assert (batch["input_ids"][1][~batch["attention_mask"][1]] == fast().pad_token_id).all()
    assert batch["vision_input"] == [[], []]


def test_ids_and_clips_must_agree(small: Any) -> None:
    with pytest.raises(StageError, match="sample video3 has 96 visual tokens for 3 clips of 128"):
        to_apollo(BATCH, [], small)
    length = len(tokenize(BATCH[0].conversations, small)[0])
    short = to_apollo(BATCH[:1], [], small, contract=CONTRACT, max_length=length - 3)
    assert short["input_ids"].shape == (1, length - 3)
    with pytest.raises(StageError, match="sample video3 is longer than 60 ids before its media end"):
        to_apollo(BATCH[:1], [], small, contract=CONTRACT, max_length=60)
