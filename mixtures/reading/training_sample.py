"""Decoded samples for a trainer: pixels and times of the planned clips, and the conversation with its media inserted.

Media are decoded by infra.media.decoder, in a child process: a crash on untrusted bytes costs one sample.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadSample
from infra.media.decoder import Decoder, Limits
from infra.media.interface import FramePlan, MediaRef
from mixtures.reading.clip_plan import build_image_text, build_video_text, insert_media, plan_clips
from mixtures.reading.contract import Contract
from mixtures.reading.conversations import PLACEHOLDER
from mixtures.shards.unpack import list_media

#: Longest side of decoded frames, in pixels: SigLIP-SO400M's, the larger of Apollo's two encoders. Never enlarged.
FRAME_SIZE = 384

_FRAME_BYTES = 2 * 2**30  # limit per video; 200 clips of 4 at 384 x 384 are 354 MB


@dataclass(frozen=True)
class TrainingSample:
    """One decoded sample, the input of `mixtures.reading.apollo.to_apollo`.

    data_type: Apollo's type: image (also several), video or text; modality: ours.
    clips: uint8 RGB, one array (frames per clip, height, width, 3) per clip; an image is one clip of equal frames; a
    text has none. frames: int64 (clips, frames per clip), numbers in the video; times: float64 (clips, 2), seconds;
    both empty except for videos. conversations: turns, each placeholder replaced by the text and tokens of its medium.
    record: the sample's JSON.
    """

    key: str
    data_type: str
    modality: str
    clips: list[NDArray[np.uint8]]
    frames: NDArray[np.int64]
    times: NDArray[np.float64]
    conversations: list[dict[str, str]]
    record: Mapping[str, Any]


class SampleDecoder:
    """Decoder of raw samples. Every process, forks included, starts its own child.

    Threads: safe, one sample at a time, since a sample's bytes and its child are the decoder's.
    """

    def __init__(self, contract: Contract, frame_size: int = FRAME_SIZE, limits: Limits | None = None) -> None:
        self.contract = contract
        self.frame_size = frame_size
        self.limits = limits or Limits(max_frame_bytes=_FRAME_BYTES)
        self._start()

    def _start(self) -> None:
        self._decoder = Decoder(self.limits)
        self._fd, self._path = -1, ""
        self._owner = os.getpid()
        self._in_use = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleDecoder, (self.contract, self.frame_size, self.limits)

    def close(self) -> None:
        """End the child process; the next sample starts another."""
        if self._owner != os.getpid():
            return
        self._decoder.close()
        if self._path:
            os.close(self._fd)
            if not self._path.startswith("/proc/"):
                os.unlink(self._path)  # noqa: PTH108
            self._path = ""

    def decode(self, sample: Mapping[str, Any]) -> TrainingSample:
        """Decode a raw sample: {"__key__", "json": the record, media bytes by suffix}.

        Raises BadSample of the decoder's kind where media cannot be decoded, and of kind `placeholders` where the
        conversation does not have one per medium.
        """
        if self._owner != os.getpid():  # child and file belong to the parent
            self._start()
        with self._in_use:
            return self._decode(sample)

    def _decode(self, sample: Mapping[str, Any]) -> TrainingSample:
        record = sample["json"]
        modality = str(record["data_type"])
        names = list_media(sample)
        turns = record["conversations"]
        frames = np.zeros((0, self.contract.clip_frames), dtype=np.int64)
        times = np.zeros((0, 2), dtype=np.float64)
        clips: list[NDArray[np.uint8]] = []
        texts: list[str] = []
        if modality == "video":
            clips, frames, times, seconds = self._decode_video(sample[names[0]], record)
            texts = [build_video_text(times, seconds, self.contract)]
        elif modality != "text":
            clips = [self._decode_image(sample[name]) for name in names]
            texts = [build_image_text(self.contract)] * len(clips)
        placeholders = sum(turn["value"].count(PLACEHOLDER) for turn in turns)
        if placeholders != len(texts):
            raise BadSample("placeholders", f"{placeholders} for {len(texts)} media")
        return TrainingSample(
            key=str(sample["__key__"]),
            data_type="image" if modality == "multi_image" else modality,
            modality=modality,
            clips=clips,
            frames=frames,
            times=times,
            conversations=insert_media(turns, texts, PLACEHOLDER) if texts else list(turns),
            record=record,
        )

    def _decode_video(
        self, content: bytes, record: Mapping[str, Any]
    ) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64], NDArray[np.float64], float]:
        ref = MediaRef(self._expose(content), 0, len(content), kind="video")
        header: Mapping[str, Any] = {"frames": record.get("n_frames"), "fps": record.get("fps"),
                                     "duration": record.get("duration")}  # fmt: skip
        if not all(header.values()):  # the run did not measure them
            probe = self._decoder.probe(ref)
            _check(probe.error)
            header = probe.header
        seconds = float(header["duration"])
        plan = plan_clips(int(header["frames"]), float(header["fps"]), seconds, self.contract)
        numbers, positions = np.unique(plan.frames, return_inverse=True)
        pixels = self._decode_frames(ref, FramePlan("at", self.frame_size, "long", numbers=tuple(numbers.tolist())))
        # Where the video has fewer frames than its header says, the last frame replaces the missing ones.
        positions = np.minimum(positions.reshape(plan.frames.shape), len(pixels) - 1)
        return [_take_frames(pixels, clip) for clip in positions], plan.frames, plan.times, seconds

    def _decode_image(self, content: bytes) -> NDArray[np.uint8]:
        """uint8 (frames per clip, height, width, 3), a view of one frame."""
        ref = MediaRef(self._expose(content), 0, len(content), kind="image")
        pixels = self._decode_frames(ref, FramePlan("middle", self.frame_size, "long"))
        return np.broadcast_to(pixels, (self.contract.clip_frames, *pixels.shape[1:]))

    def _decode_frames(self, ref: MediaRef, plan: FramePlan) -> NDArray[np.uint8]:
        media = self._decoder.decode(ref, {"clips": plan}, {})
        _check(media.error)
        return media.frames["clips"].pixels

    def _expose(self, content: bytes) -> str:
        """Put bytes where the child can open them: in an anonymous file in memory, or a temporary file."""
        if not self._path:
            if sys.platform == "linux":
                self._fd = os.memfd_create("reelmill-medium")
                self._path = f"/proc/{os.getpid()}/fd/{self._fd}"
            else:
                self._fd, self._path = tempfile.mkstemp(prefix="reelmill-")
        os.ftruncate(self._fd, 0)
        done = 0
        while done < len(content):
            done += os.pwrite(self._fd, memoryview(content)[done:], done)
        return self._path

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


def _take_frames(pixels: NDArray[np.uint8], numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The frames of these numbers; a view where they are consecutive, as in nearly all clips."""
    first, last = int(numbers[0]), int(numbers[-1])
    return pixels[first : last + 1] if numbers.tolist() == list(range(first, last + 1)) else pixels[numbers]


def _check(error: str | None) -> None:
    """Raises BadSample for an error of the decoder."""
    if error is not None:
        kind, _, detail = error.partition(": ")
        raise BadSample(kind, detail)
