"""Tokens that a sample costs the trainer, by Apollo's released loader and configs (Apollo-LMMs/Apollo)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Characters per token, our estimate for English under byte-pair vocabularies; a tokenizer file replaces it.
CHARS_PER_TOKEN = 4.0


@dataclass(frozen=True)
class Contract:
    """How the trainer's loader samples media; defaults are those of the released loader and configs.

    clip_seconds, clip_frames: 2 s of 4 frames. tokens_per_frame: 32; 8 to 32 work well (Apollo, Table 10).
    context, clip_share: the language model's context, and the share of it that video may fill (README: 0.65).
    max_clips: maximum clips per video, by stage (Apollo, Table 7); None: limited by the context only.
    """

    clip_seconds: int = 2
    clip_frames: int = 4
    tokens_per_frame: int = 32
    context: int = 16_384
    clip_share: float = 0.65
    max_clips: int | None = None

    @property
    def clip_tokens(self) -> int:
        """Tokens per clip after the resampler."""
        return self.clip_frames * self.tokens_per_frame

    def clips(self, seconds: NDArray[np.float64]) -> NDArray[np.int64]:
        """int64 (n,): clips of videos of these durations: ceil(D/c · min(1, L·ρ / (D·n/c))), at least one."""
        seconds = np.maximum(np.asarray(seconds, dtype=np.float64), 0.0)
        tokens = seconds * self.clip_tokens / self.clip_seconds
        with np.errstate(divide="ignore", over="ignore"):
            share = np.minimum(1.0, self.context * self.clip_share / tokens)
        count = np.ceil(np.where(seconds > 0, seconds / self.clip_seconds * share, 0.0)).astype(np.int64)
        return np.clip(count, 1, self.max_clips)

    def media_tokens(
        self, modality: NDArray[np.object_], seconds: NDArray[np.float64], images: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """int64 (n,): tokens of the media only; an image is repeated to one clip, a text has none."""
        clips = np.where(modality == "video", self.clips(seconds), np.where(modality == "text", 0, images))
        return clips.astype(np.int64) * self.clip_tokens


#: The released loader with the released configs.
RELEASED = Contract()


def estimate_text_tokens(text: str) -> int:
    """Estimate the tokens of a text."""
    return math.ceil(len(text) / CHARS_PER_TOKEN)
