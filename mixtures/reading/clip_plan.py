"""Which frames of a video a trainer sees, when they are, and the text that stands for them in the prompt.

As the released Apollo sampler computes them (github.com/Apollo-LMMs/Apollo, apollo/mm_utils.py; arXiv 2412.10360,
section 5.2 and Table 2), so that what is trained on is what that code shows at inference.
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

#: What stands for one visual token in a prompt, by data type.
X_TOKEN = {"image": "<|image_token|>", "video": "<|video_token|>"}


@dataclass(frozen=True)
class ClipPlan:
    """frames: int64 (clips, frames a clip), numbers from 0; times: float64 (clips, 2), seconds of the first and the
    last frame of each clip."""

    frames: NDArray[np.int64]
    times: NDArray[np.float64]


def plan_clips(frames: int, fps: float, seconds: float, contract: Contract) -> ClipPlan:
    """The clips of a video of so many frames.

    There are contract.clips(seconds) of them, each of contract.clip_frames frames that are floor(fps · c / N) apart.
    They stand in the middle of equal parts where these are longer than a clip, else evenly spread from frame 0. A
    video shorter than a clip repeats its last frame; at half the wanted rate or less each frame is repeated.
    Below half a frame a second the released code computes frame −1; here that is frame 0.
    """
    count = int(contract.clips(np.array([seconds]))[0])
    wanted = contract.clip_frames
    frames = max(frames, 1)
    ratio = fps * contract.clip_seconds / wanted
    if ratio > 0.5:
        step = max(1, math.floor(ratio))
        inside = np.arange(wanted, dtype=np.int64) * step
        length = wanted * step
    else:
        length = max(1, math.floor(wanted * ratio))
        inside = np.repeat(np.arange(length, dtype=np.int64), math.ceil(1 / ratio) if ratio > 0 else wanted)[:wanted]
        inside = np.concatenate([inside, np.full(wanted - len(inside), length, dtype=np.int64)])
    part = frames // count
    if ratio > 0.5 and part > length:
        starts = np.arange(count, dtype=np.int64) * part + (part - length) // 2
    else:
        apart = (frames - length) // max(1, count - 1) if frames > length else 0
        starts = np.arange(count, dtype=np.int64) * apart
        inside = np.minimum(inside, min(length, frames) - 1)
    numbers = np.clip(starts[:, None] + inside[None, :], 0, frames - 1)
    rate = fps if fps > 0 else 1.0
    return ClipPlan(numbers, numbers[:, [0, -1]] / rate)


def build_video_text(times: NDArray[np.float64], seconds: float, contract: Contract) -> str:
    """What stands for a video: how many clips of what length, then for each its time and its tokens.

    times: float64 (clips, 2). Byte for byte the released code's replace_string.
    """
    try:
        from num2words import num2words
    except ImportError:
        raise MissingExtra("num2words", "train", "the text that stands for a video") from None
    run = X_TOKEN["video"] * contract.clip_tokens
    clips = ",\n".join(f"{round(float(a), 1)}-{round(float(b), 1)} seconds: {run}" for a, b in times)
    return (
        f"You are provided the following series of {num2words(len(times))}, {contract.clip_seconds} second clips "
        f"from a {datetime.timedelta(seconds=seconds)} [H:MM:SS] video.\n{clips}"
    )


def build_image_text(contract: Contract) -> str:
    """What stands for one image: the tokens of one clip, as which it is shown."""
    return X_TOKEN["image"] * contract.clip_tokens


def insert_media(turns: Sequence[dict[str, str]], media: Sequence[str], placeholder: str) -> list[dict[str, str]]:
    """Turns with each placeholder replaced, in order, by the text of its medium.

    Media that lead a turn are set off by a blank line, as in the released code; those inside a sentence stay there.
    The caller sees to it that there are as many placeholders as media.
    """
    left = list(media)
    made = []
    for turn in turns:
        parts = turn["value"].split(placeholder)
        text = parts[0]
        lead = not text.strip()
        for part in parts[1:]:
            text += left.pop(0)
            if lead and part.startswith("\n") and part.strip():
                text += "\n\n" + part.lstrip("\n")
                lead = False
            else:
                lead = lead and not part.strip()
                text += part
        made.append({**turn, "value": text})
    return made
