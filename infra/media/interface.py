"""Types shared by annotators and the decoder: references to media, plans of frames, decoded media."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Modality = Literal["video", "image", "multi_image", "text"]
#: All modalities, in the order in which tables and documents list them.
MODALITIES: tuple[Modality, ...] = ("video", "image", "multi_image", "text")
#: Those that have media.
VISUAL: tuple[Modality, ...] = ("video", "image", "multi_image")

#: Part of the fingerprint of every annotator that is given media: raised when the same bytes give other frames or
#: facts. 2: joined recordings are one timeline, the default stream is decoded, pixels need not be square.
#: 3: of a sample with several images each is decoded as if it were alone.
DECODING_VERSION = 3


@dataclass(frozen=True)
class MediaRef:
    """One medium as a byte range: `uri` is a path or fsspec URI, `length` < 0 means to the end.

    sha256: of these bytes, in hex; a medium with other bytes is not decoded. "": not checked.
    """

    uri: str
    offset: int = 0
    length: int = -1
    start_s: float = 0.0
    end_s: float = -1.0  # < 0: to the end
    kind: Literal["video", "image"] = "video"
    sha256: str = ""


@dataclass(frozen=True)
class FramePlan:
    """Frames of a video that an annotator requests, and their size. An image always gives its one frame.

    times "middle": the one frame nearest half the duration.
    times "uniform": `count` frames at the centres of `count` equal parts of the duration.
    times "rate": `fps` frames per second from 0, plus the first and the last frame when `ends`;
        when that makes more than `count`, `count` of them spread evenly.
    times "at": the frames whose numbers (from 0, in presentation order) are `numbers`, ascending; a number beyond the
        end means the last frame. They are never thinned out: more than the limits allow are an error.
    fit "short"/"long": that side becomes `size` pixels, the aspect is kept, never enlarged;
        "skew": exactly size × size, aspect ignored.
    image_size: long side of an image in pixels, aspect kept, never enlarged, where it is not to be that of a frame.
    """

    times: Literal["middle", "uniform", "rate", "at"]
    size: int
    fit: Literal["short", "long", "skew"]
    count: int = 1
    fps: float = 1.0
    ends: bool = False
    numbers: tuple[int, ...] = ()
    image_size: int | None = None


@dataclass(frozen=True)
class Frames:
    """pictures: n of uint8 RGB (height, width, 3); one array (n, height, width, 3), but of several images n arrays.
    times: float64 (n,), seconds from the start, ascending; of several images their numbers from 0."""

    pictures: NDArray[np.uint8] | tuple[NDArray[np.uint8], ...]
    times: NDArray[np.float64]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The pictures of one video or image, (n, height, width, 3)."""
        if isinstance(self.pictures, tuple):
            raise TypeError("several images differ in shape: read `pictures`")
        return self.pictures


@dataclass(frozen=True)
class DecodedMedia:
    """The outcome of one pass over one medium. On failure `error` is "kind: detail" and the rest is empty."""

    header: Mapping[str, Any] = field(default_factory=dict)
    frames: Mapping[str, Frames] = field(default_factory=dict)  # by annotator name
    streams: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by annotator name
    error: str | None = None


class StreamObserver(Protocol):
    """Runs beside the decoder, in its process: sees every decoded frame once, in presentation order.

    Instances travel to the decoder's process by pickle, before `start`.
    """

    export_motion_vectors: bool

    def start(self, header: Mapping[str, Any]) -> None: ...

    def frame(self, frame: Any) -> None:
        """`frame` is an av.VideoFrame; it is only valid during the call."""

    def finish(self) -> Mapping[str, Any]:
        """Plain scalars, by column name; may contain "error": str."""
