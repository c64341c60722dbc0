"""Decoded samples as Apollo's model takes them: vision_input, data_types, input_ids, labels.

Shapes and counts are those of the released modelling code (github.com/Apollo-LMMs/Apollo and the checkpoints' own
code): a video is (clips, C, T, H, W) for a video encoder and (clips, T, C, H, W) for an image encoder; an image is one
clip of T equal frames; every clip stands for `contract.clip_tokens` ids -200 in its prompt.
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
    """What one vision encoder wants of frames.

    processor: an image processor of Transformers, or any object with image_mean, image_std (fractions) and size
    (pixels, or a mapping with height and width, or shortest_edge). video: whether it wants (C, T, H, W), not
    (T, C, H, W).
    """

    processor: Any
    video: bool = False

    @property
    def colour(self) -> tuple[int, ...]:
        """uint8 RGB that frames are padded with: the processor's mean."""
        return tuple(int(value * 255) for value in self.processor.image_mean)

    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        size = getattr(self.processor, "crop_size", None) or self.processor.size
        if isinstance(size, int):
            return size, size
        if not isinstance(size, Mapping):  # Transformers' own, with None for what is not set
            size = {name: getattr(size, name, None) for name in ("height", "width", "shortest_edge")}
        edge = size.get("shortest_edge")
        return (int(edge), int(edge)) if edge else (int(size["height"]), int(size["width"]))

    def pixels(self, frames: NDArray[np.uint8]) -> Any:
        """A clip's tensor, float32 (T, C, H, W) or (C, T, H, W). frames: uint8 (T, height, width, 3).

        A processor with `preprocess` does its own work on the padded frames; for any other they are resized (area
        average downwards, linear upwards), scaled to 0..1 and normalised.
        """
        torch = _torch()
        square = pad_to_square(frames, self.colour)
        if hasattr(self.processor, "preprocess"):
            made = self.processor.preprocess(list(square), return_tensors="pt")["pixel_values"]
            if isinstance(made, list):
                (made,) = made
            if made.dim() == 5:
                (made,) = made
        else:
            height, width = self.size()
            small = np.stack([_resized(frame, width, height) for frame in square]).astype(np.float32) / 255.0
            mean, std = (np.asarray(getattr(self.processor, name), np.float32) for name in ("image_mean", "image_std"))
            made = torch.from_numpy(((small - mean) / std).transpose(0, 3, 1, 2).copy())
        if made.shape[0] == 3 and made.shape[1] == len(frames) != 3:  # a video processor turned it already
            return made if self.video else made.transpose(0, 1)
        return made.transpose(0, 1) if self.video else made


def pad_to_square(frames: NDArray[np.uint8], colour: Sequence[int]) -> NDArray[np.uint8]:
    """uint8 (T, side, side, 3): frames (T, height, width, 3) in the middle of a square of `colour`."""
    count, height, width = frames.shape[:3]
    side = max(height, width)
    if height == width:
        return np.ascontiguousarray(frames)
    square = np.empty((count, side, side, 3), dtype=np.uint8)
    square[:] = np.asarray(colour, dtype=np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[:, top : top + height, left : left + width] = frames
    return square


def to_apollo(
    batch: Sequence[TrainingSample],
    processors: Sequence[Any],
    tokenizer: Any,
    *,
    contract: Contract = RELEASED,
    max_length: int | None = None,
) -> dict[str, Any]:
    """A batch for the trainer.

    processors: one a vision encoder, in the model's order: `Encoder`, or a processor, which is then an image
    encoder's unless its attribute `video` is true. tokenizer: of `transformers` or `tokenizers`. contract: the one
    that the samples were decoded with. max_length: ids a sample; where it has more its end is cut, never its media.

    vision_input: list per sample of one float32 tensor per encoder, (clips, T, C, H, W) or (clips, C, T, H, W); an
      empty list for a text. data_types: list of "image", "video", "text".
    input_ids, labels: int64 (batch, length), padded on the right with the tokenizer's padding id (else its end of
      text, else 0) and -100; visual tokens are -200 and their labels -100. attention_mask: bool, same shape.

    Raises StageError where ids and clips do not agree, or a sample's media alone are longer than max_length.
    """
    torch = _torch()
    encoders = [one if isinstance(one, VisionProcessor) else VisionProcessor(one, bool(getattr(one, "video", False)))
                for one in processors]  # fmt: skip
    vision, ids, labels = [], [], []
    for sample in batch:
        mine, wanted = tokenize(sample.conversations, tokenizer)
        if max_length is not None and len(mine) > max_length:
            if X_TOKEN_INDEX in mine[max_length:]:
                raise StageError(
                    f"sample {sample.key} is longer than {max_length} ids before its media end",
                    where="to_apollo",
                    hint="raise max_length, or lower the contract's max_clips or tokens_per_frame",
                )
            mine, wanted = mine[:max_length], wanted[:max_length]
        seen = mine.count(X_TOKEN_INDEX)
        if seen != len(sample.clips) * contract.clip_tokens:
            raise StageError(
                f"sample {sample.key} has {seen} visual tokens for {len(sample.clips)} clips of {contract.clip_tokens}",
                where="to_apollo",
                hint="give to_apollo the contract that the loader decoded with (Loader.contract)",
            )
        ids.append(mine)
        labels.append(wanted)
        vision.append([_clips(sample.clips, encoder) for encoder in encoders] if sample.clips else [])
    length = max((len(row) for row in ids), default=0)
    pad = _padding_id(tokenizer)
    return {
        "vision_input": vision,
        "data_types": [sample.data_type for sample in batch],
        "input_ids": torch.tensor([row + [pad] * (length - len(row)) for row in ids], dtype=torch.int64),
        "labels": torch.tensor([row + [IGNORE_INDEX] * (length - len(row)) for row in labels], dtype=torch.int64),
        "attention_mask": torch.tensor([[True] * len(row) + [False] * (length - len(row)) for row in ids]),
    }


def _clips(clips: Sequence[NDArray[np.uint8]], encoder: VisionProcessor) -> Any:
    return _torch().stack([encoder.pixels(clip) for clip in clips])


def _padding_id(tokenizer: Any) -> int:
    for name in ("pad_token_id", "eos_token_id"):
        found = getattr(tokenizer, name, None)
        if found is not None:
            return int(found)
    return 0


def _resized(frame: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    from infra.media.pixels import resize

    return resize(frame, width, height)


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtra("torch", "train", "to_apollo") from None
    return torch
