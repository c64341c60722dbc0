"""Batches for Apollo's model from decoded samples: vision_input, data_types, input_ids, labels.

Shapes and counts are those of the released modelling code (github.com/Apollo-LMMs/Apollo and the checkpoints' own
code): a video is (clips, C, T, H, W) for a video encoder and (clips, T, C, H, W) for an image encoder; an image is one
clip of T equal frames; every clip has `contract.clip_tokens` ids -200 in its prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import MissingExtra, StageError
from mixtures.reading.chatml import IGNORE_INDEX, X_TOKEN_INDEX, tokenize
from mixtures.reading.contract import RELEASED, Contract
from mixtures.reading.training_sample import TrainingSample


@dataclass(frozen=True)
class VisionProcessor:
    """The image processor of one vision encoder.

    processor: an image processor of Transformers, or any object with image_mean, image_std (fractions) and size
    (pixels, or a mapping with height and width, or shortest_edge). video: whether the encoder takes (C, T, H, W), not
    (T, C, H, W).
    """

    processor: Any
    video: bool = False

    @property
    def colour(self) -> tuple[int, ...]:
        """uint8 RGB padding of frames: the processor's mean."""
        return tuple(int(mean * 255) for mean in self.processor.image_mean)

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size = getattr(self.processor, "crop_size", None) or self.processor.size
        if isinstance(size, int):
            return size, size
        if not isinstance(size, Mapping):  # of Transformers: unset attributes are None
            size = {name: getattr(size, name, None) for name in ("height", "width", "shortest_edge")}
        edge = size.get("shortest_edge")
        return (int(edge), int(edge)) if edge else (int(size["height"]), int(size["width"]))

    def pixels(self, frames: NDArray[np.uint8]) -> Any:
        """Build a clip's tensor, float32 (T, C, H, W) or (C, T, H, W). frames: uint8 (T, height, width, 3).

        A processor with `preprocess` is applied to the padded frames; for any other, frames are resized (area average
        downwards, linear upwards), scaled to 0..1 and normalised.
        """
        torch = _torch()
        square = pad_to_square(frames, self.colour)
        if hasattr(self.processor, "preprocess"):
            tensor = self.processor.preprocess(list(square), return_tensors="pt")["pixel_values"]
            if isinstance(tensor, list):
                (tensor,) = tensor
            if tensor.dim() == 5:
                (tensor,) = tensor
        else:
            height, width = self.size()
            small = np.stack([_resize(frame, width, height) for frame in square]).astype(np.float32) / 255.0
            mean, std = (np.asarray(getattr(self.processor, name), np.float32) for name in ("image_mean", "image_std"))
            tensor = torch.from_numpy(((small - mean) / std).transpose(0, 3, 1, 2).copy())
        is_video = tensor.shape[0] == 3 and tensor.shape[1] == len(frames) != 3  # a video processor's (C, T, H, W)
        return tensor if is_video == self.video else tensor.transpose(0, 1)


def pad_to_square(frames: NDArray[np.uint8], colour: Sequence[int]) -> NDArray[np.uint8]:
    """uint8 (T, side, side, 3): frames (T, height, width, 3) centred in a square of `colour`."""
    count, height, width = frames.shape[:3]
    side = max(height, width)
    if height == width:
        return np.ascontiguousarray(frames)
    square = np.empty((count, side, side, 3), dtype=np.uint8)
    square[:] = np.asarray(colour, dtype=np.uint8)
    y, x = (side - height) // 2, (side - width) // 2
    square[:, y : y + height, x : x + width] = frames
    return square


def to_apollo(
    batch: Sequence[TrainingSample],
    processors: Sequence[Any],
    tokenizer: Any,
    *,
    contract: Contract = RELEASED,
    max_length: int | None = None,
) -> dict[str, Any]:
    """Build a batch for the trainer.

    processors: one per vision encoder, in the model's order: `VisionProcessor`, or a processor, which is then of an
    image encoder unless its attribute `video` is true. tokenizer: of `transformers` or `tokenizers`. contract: the one
    that the samples were decoded with. max_length: maximum ids per sample; its end is cut, never its media.

    vision_input: list per sample of one float32 tensor per encoder, (clips, T, C, H, W) or (clips, C, T, H, W); an
      empty list for a text. data_types: list of "image", "video", "text".
    input_ids, labels: int64 (batch, length), padded on the right with the tokenizer's padding id (else its end of
      text, else 0) and -100; visual tokens are -200 and their labels -100. attention_mask: bool, same shape.

    Raises StageError where ids and clips disagree, or a sample's media exceed max_length.
    """
    torch = _torch()
    encoders = [p if isinstance(p, VisionProcessor) else VisionProcessor(p, bool(getattr(p, "video", False)))
                for p in processors]  # fmt: skip
    vision, ids, labels = [], [], []
    for sample in batch:
        sample_ids, sample_labels = _tokenize_sample(sample, tokenizer, contract, max_length)
        ids.append(sample_ids)
        labels.append(sample_labels)
        encoded = [torch.stack([encoder.pixels(clip) for clip in sample.clips]) for encoder in encoders if sample.clips]
        vision.append(encoded)
    length = max((len(row) for row in ids), default=0)
    pad = _find_padding_id(tokenizer)
    return {
        "vision_input": vision,
        "data_types": [sample.data_type for sample in batch],
        "input_ids": torch.tensor([row + [pad] * (length - len(row)) for row in ids], dtype=torch.int64),
        "labels": torch.tensor([row + [IGNORE_INDEX] * (length - len(row)) for row in labels], dtype=torch.int64),
        "attention_mask": torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in ids]),
    }


def _tokenize_sample(
    sample: TrainingSample, tokenizer: Any, contract: Contract, max_length: int | None
) -> tuple[list[int], list[int]]:
    ids, labels = tokenize(sample.conversations, tokenizer)
    if max_length is not None and X_TOKEN_INDEX in ids[max_length:]:
        raise StageError(
            f"sample {sample.key} is longer than {max_length} ids before its media end",
            where="to_apollo",
            hint="raise max_length, or lower the contract's max_clips or tokens_per_frame",
        )
    visual = ids[:max_length].count(X_TOKEN_INDEX)
    if visual != len(sample.clips) * contract.clip_tokens:
        raise StageError(
            f"sample {sample.key} has {visual} visual tokens for {len(sample.clips)} clips of {contract.clip_tokens}",
            where="to_apollo",
            hint="pass to_apollo the contract that the loader decoded with (Loader.contract)",
        )
    return ids[:max_length], labels[:max_length]


def _find_padding_id(tokenizer: Any) -> int:
    for name in ("pad_token_id", "eos_token_id"):
        token_id = getattr(tokenizer, name, None)
        if token_id is not None:
            return int(token_id)
    return 0


def _resize(frame: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    from infra.media.pixels import resize

    return resize(frame, width, height)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "train", "to_apollo") from None
    return torch
