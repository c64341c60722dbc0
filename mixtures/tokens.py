"""How many tokens a sample costs the trainer, by Apollo's released loader and configs (Apollo-LMMs/Apollo)."""

from __future__ import annotations

import math

#: Seconds and frames of a clip, and tokens that the resampler makes of it: clip_duration 2, 4 frames, 128 tokens.
CLIP_SECONDS = 2
CLIP_FRAMES = 4
CLIP_TOKENS = 128
#: Context of the language model and the share of it that video may take (README: 0.65).
CONTEXT = 16_384
CLIP_SHARE = 0.65

#: Characters a token, an estimate of ours for English under byte-pair vocabularies; a tokenizer file replaces it.
CHARS_PER_TOKEN = 4.0


def text_tokens(text: str) -> int:
    """Estimated tokens of a text."""
    return math.ceil(len(text) / CHARS_PER_TOKEN)


def image_tokens(images: int = 1) -> int:
    """Tokens of images: each is repeated to a clip of four frames."""
    return images * CLIP_TOKENS


def video_clips(seconds: float) -> int:
    """Clips that the released loader takes of a video: ceil(D/c · min(1, L·ρ / (D·n/c))), at least one."""
    if seconds <= 0:
        return 1
    whole = seconds * CLIP_TOKENS / CLIP_SECONDS
    return max(1, math.ceil(seconds / CLIP_SECONDS * min(1.0, CONTEXT * CLIP_SHARE / whole)))


def video_tokens(seconds: float) -> int:
    """Tokens of a video's clips."""
    return video_clips(seconds) * CLIP_TOKENS
