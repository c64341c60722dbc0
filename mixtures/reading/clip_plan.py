"""Frames of a video that a trainer sees, their times, and the text that represents them in the prompt.

Computed as in the released Apollo sampler (github.com/Apollo-LMMs/Apollo, apollo/mm_utils.py; arXiv 2412.10360,
section 5.2 and Table 2), so that training matches that code's inference.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import MissingExtra
from mixtures.reading.contract import Contract

#: Text of one visual token in a prompt, by data type.
X_TOKEN = {"image": "<|image_token|>", "video": "<|video_token|>"}


@dataclass(frozen=True)
class ClipPlan:
    """frames: int64 (clips, frames per clip), numbers from 0; times: float64 (clips, 2), seconds of each clip's first
    and last frame."""

    frames: NDArray[np.int64]
    times: NDArray[np.float64]


def plan_clips(frames: int, fps: float, seconds: float, contract: Contract) -> ClipPlan:
    """Plan the clips of a video.

    There are contract.clips(seconds) clips, each of contract.clip_frames frames that are floor(fps · c / N) apart. They
    are centred in equal sections where these are longer than a clip, else evenly spaced from frame 0. A video shorter
    than a clip repeats its last frame; at half the contract's rate or less each frame is repeated. Below half a frame
    per second the released code computes frame −1; here that is frame 0.
    """
    count = int(contract.clips(np.array([seconds]))[0])
    clip_frames = contract.clip_frames
    frames = max(frames, 1)
    ratio = fps * contract.clip_seconds / clip_frames
    if ratio > 0.5:
        step = max(1, math.floor(ratio))
        inside = np.arange(clip_frames, dtype=np.int64) * step
        length = clip_frames * step
    else:
        length = max(1, math.floor(clip_frames * ratio))
        copies = math.ceil(1 / ratio) if ratio > 0 else clip_frames
        inside = np.repeat(np.arange(length, dtype=np.int64), copies)[:clip_frames]
        inside = np.concatenate([inside, np.full(clip_frames - len(inside), length, dtype=np.int64)])
    section = frames // count
    if ratio > 0.5 and section > length:
        starts = np.arange(count, dtype=np.int64) * section + (section - length) // 2
    else:
        spacing = (frames - length) // max(1, count - 1) if frames > length else 0
        starts = np.arange(count, dtype=np.int64) * spacing
        inside = np.minimum(inside, min(length, frames) - 1)
    numbers = np.clip(starts[:, None] + inside[None, :], 0, frames - 1)
    rate = fps if fps > 0 else 1.0
    return ClipPlan(numbers, numbers[:, [0, -1]] / rate)


def build_video_text(times: NDArray[np.float64], seconds: float, contract: Contract) -> str:
    """Build the text that represents a video: number and length of its clips, then the time and tokens of each.

    times: float64 (clips, 2). Byte for byte the released code's replace_string.
    """
    try:
        from num2words import num2words
    except ImportError:
        raise MissingExtra("num2words", "train", "the text that represents a video") from None
    run = X_TOKEN["video"] * contract.clip_tokens
    clips = ",\n".join(f"{round(float(a), 1)}-{round(float(b), 1)} seconds: {run}" for a, b in times)
    return (
        f"You are provided the following series of {num2words(len(times))}, {contract.clip_seconds} second clips "
        f"from a {datetime.timedelta(seconds=seconds)} [H:MM:SS] video.\n{clips}"
    )


def build_image_text(contract: Contract) -> str:
    """Build the text that represents an image: the tokens of one clip, as which it is shown."""
    return X_TOKEN["image"] * contract.clip_tokens


def insert_media(turns: Sequence[dict[str, str]], media: Sequence[str], placeholder: str) -> list[dict[str, str]]:
    """Replace each placeholder, in order, with the text of its medium.

    Media at the start of a turn are followed by a blank line, as in the released code; those inside a sentence stay
    there. The caller ensures that there are as many placeholders as media.
    """
    texts = iter(media)
    replaced = []
    for turn in turns:
        text, *sections = turn["value"].split(placeholder)
        is_leading = not text.strip()
        for section in sections:
            text += next(texts)
            if is_leading and section.startswith("\n") and section.strip():
                text += "\n\n" + section.lstrip("\n")
                is_leading = False
            else:
                is_leading = is_leading and not section.strip()
                text += section
        replaced.append({**turn, "value": text})
    return replaced
