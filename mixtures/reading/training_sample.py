"""A sample as a trainer takes it: pixels of the planned clips, their times, and the conversation with its media put in.

Media are opened by infra.media.decoder, in a child process: what a codec does to untrusted bytes costs one sample.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
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

_FRAME_BYTES = 2 * 2**30  # of one video's frames; 200 clips of 4 at 384 x 384 are 354 MB


@dataclass(frozen=True)
class TrainingSample:
    """One sample, ready for `mixtures.reading.apollo.to_apollo`.

    data_type: image (also several), video or text, in Apollo's words; modality: in ours.
    clips: uint8 RGB, one array (frames a clip, height, width, 3) a clip; an image is one clip of equal frames; a text
    has none. frames: int64 (clips, frames a clip), numbers in the video; times: float64 (clips, 2), seconds; both
    empty but for videos. conversations: turns, each placeholder replaced by its medium's text and tokens.
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
    """Makes `Decoded` of raw samples. In another process, a fork of this one too, it starts a child of its own."""

    def __init__(self, contract: Contract, frame_size: int = FRAME_SIZE, limits: Limits | None = None) -> None:
        self.contract = contract
        self.frame_size = frame_size
        self.limits = limits or Limits(max_frame_bytes=_FRAME_BYTES)
        self._start()

    def _start(self) -> None:
        self._door = Decoder(self.limits)
        self._fd, self._path = -1, ""
        self._owner = os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        return SampleDecoder, (self.contract, self.frame_size, self.limits)

    def close(self) -> None:
        """End the child; the next sample starts another."""
        if self._owner != os.getpid():
            return
        self._door.close()
        if self._path:
            os.close(self._fd)
            if not self._path.startswith("/proc/"):
                os.unlink(self._path)  # noqa: PTH108
            self._path = ""

    def decode(self, sample: Mapping[str, Any]) -> TrainingSample:
        """`sample`: {"__key__", "json": the record, media bytes by suffix}.

        Raises BadSample, with the decoder's kind and words, where a medium cannot be shown, and kind `placeholders`
        where the conversation does not hold one for each medium.
        """
        if self._owner != os.getpid():  # the child and the file are the parent's
            self._start()
        record = sample["json"]
        modality = str(record["data_type"])
        names = list_media(sample)
        turns = record["conversations"]
        frames = np.zeros((0, self.contract.clip_frames), dtype=np.int64)
        times = np.zeros((0, 2), dtype=np.float64)
        clips: list[NDArray[np.uint8]] = []
        texts: list[str] = []
        if modality == "video":
            clips, frames, times, seconds = self._video(sample[names[0]], record)
            texts = [build_video_text(times, seconds, self.contract)]
        elif modality != "text":
            clips = [self._image(sample[name]) for name in names]
            texts = [build_image_text(self.contract)] * len(clips)
        held = sum(turn["value"].count(PLACEHOLDER) for turn in turns)
        if held != len(texts):
            raise BadSample("placeholders", f"{held} for {len(texts)} media")
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

    def _video(
        self, data: bytes, record: Mapping[str, Any]
    ) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64], NDArray[np.float64], float]:
        ref = MediaRef(self._place(data), 0, len(data), kind="video")
        facts: dict[str, Any] = {"frames": record.get("n_frames"), **{n: record.get(n) for n in ("fps", "duration")}}
        if not all(facts.values()):  # the run did not measure them
            found = self._door.probe(ref)
            _raise(found.error)
            facts = dict(found.header)
        seconds = float(facts["duration"])
        plan = plan_clips(int(facts["frames"]), float(facts["fps"]), seconds, self.contract)
        numbers, place = np.unique(plan.frames, return_inverse=True)
        wanted = FramePlan("at", self.frame_size, "long", numbers=tuple(numbers.tolist()))
        got = self._door.decode(ref, {"clips": wanted}, {})
        _raise(got.error)
        pixels = got.frames["clips"].pixels
        # Fewer came out than the container promised: the last one stands for those that are missing.
        place = np.minimum(place.reshape(plan.frames.shape), len(pixels) - 1)
        return [_rows(pixels, row) for row in place], plan.frames, plan.times, seconds

    def _image(self, data: bytes) -> NDArray[np.uint8]:
        """uint8 (frames a clip, height, width, 3), a view of one picture."""
        ref = MediaRef(self._place(data), 0, len(data), kind="image")
        got = self._door.decode(ref, {"clips": FramePlan("middle", self.frame_size, "long")}, {})
        _raise(got.error)
        pixels = got.frames["clips"].pixels
        return np.broadcast_to(pixels, (self.contract.clip_frames, *pixels.shape[1:]))

    def _place(self, data: bytes) -> str:
        """Bytes where the child can open them: a file without a name in memory, or a temporary one."""
        if not self._path:
            if sys.platform == "linux":
                self._fd = os.memfd_create("reelmill-medium")
                self._path = f"/proc/{os.getpid()}/fd/{self._fd}"
            else:
                self._fd, self._path = tempfile.mkstemp(prefix="reelmill-")
        os.ftruncate(self._fd, 0)
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, memoryview(data)[done:], done)
        return self._path

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self.close()


def _rows(pixels: NDArray[np.uint8], row: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Those rows; a view where they lie side by side, as nearly all clips do."""
    first, last = int(row[0]), int(row[-1])
    return pixels[first : last + 1] if row.tolist() == list(range(first, last + 1)) else pixels[row]


def _raise(error: str | None) -> None:
    """A medium's error as BadSample."""
    if error is not None:
        kind, _, detail = error.partition(": ")
        raise BadSample(kind, detail)
