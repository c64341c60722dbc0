"""Small videos and images with known content, and observers that behave badly on purpose."""

from __future__ import annotations

import io
import os
import signal
import stat
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from infra.errors import BadSample


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    count: int = 20,
    width: int = 64,
    height: int = 48,
    fps: int = 10,
    pix_fmt: str = "yuv420p",
    options: Mapping[str, str] | None = None,
    container: Mapping[str, str] | None = None,
    degrees: int | None = None,
    hflip: bool = False,
    noise: int = 0,
    step: int = 10,
    every: int = 1,
    pixel_aspect: Fraction | None = None,
) -> Path:
    """`count` frames at `fps`. Frame i is grey at level 20 + step·i, but for its top left quarter, which is white.

    `noise` adds that many levels of keyed noise, so that the file has some size. `every` n-th frame only is there, n
    times as long."""
    import av

    with av.open(str(path), "w", container_options=dict(container or {})) as out:
        stream = out.add_stream(codec, rate=fps, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if degrees is not None:
            stream.set_display_rotation(degrees, hflip=hflip)
        rng = np.random.default_rng(1)
        for i in range(count):
            level = 20 + step * i
            picture = np.full((height, width, 3), level, dtype=np.uint8)
            picture[: height // 2, : width // 2] = 255
            if noise:
                picture = np.clip(picture + rng.integers(-noise, noise + 1, picture.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = i * every, Fraction(1, fps)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return path


def write_sound(path: Path) -> Path:
    """A file with sound and no picture."""
    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    return path


def levels(pixels: np.ndarray, step: int = 10) -> list[int]:
    """The numbers of frames written by `write_video`, from their bottom right corner."""
    corner = pixels[:, -pixels.shape[1] // 4 :, -pixels.shape[2] // 4 :].mean(axis=(1, 2, 3))
    return [round(float(pixel - 20) / step) for pixel in corner]


def arrow(width: int = 40, height: int = 24) -> np.ndarray:
    """(height, width, 3) in four colours, so that no two of its eight turns look alike."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[: height // 2, : width // 2] = (250, 10, 10)
    picture[: height // 2, width // 2 :] = (10, 250, 10)
    picture[height // 2 :, : width // 2] = (10, 10, 250)
    picture[height // 2 :, width // 2 :] = (240, 240, 20)
    return picture


def encoded(picture: Any, kind: str, **how: Any) -> bytes:
    """A Pillow image as the bytes of a file."""
    file = io.BytesIO()
    picture.save(file, format=kind, **how)
    return file.getvalue()


class Counter:
    """Counts frames, and looks whether motion vectors come with them."""

    def __init__(self, motion_vectors: bool = False) -> None:
        self.export_motion_vectors = motion_vectors
        self.times: list[float] = []
        self.vectors = 0
        self.header: Mapping[str, Any] = {}

    def start(self, header: Mapping[str, Any]) -> None:
        self.header = header

    def frame(self, frame: Any) -> None:
        self.times.append(float(frame.time))
        self.vectors += int("MOTION_VECTORS" in frame.side_data)

    def finish(self) -> Mapping[str, Any]:
        return {
            "frames": len(self.times),
            "ordered": self.times == sorted(self.times),
            "vectors": self.vectors,
            "width": self.header["width"],
            "pid": os.getpid(),
        }


class Misbehaving(Counter):
    """At its third frame: crashes, hangs, gives the sample up, or shows a bug."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def frame(self, frame: Any) -> None:
        super().frame(frame)
        if len(self.times) < 3:
            return
        if self.how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self.how == "exit":
            os._exit(3)
        elif self.how == "hang":
            time.sleep(60)
        elif self.how == "give up":
            raise BadSample("no_vectors", "none at all")
        elif self.how == "bug":
            raise KeyError("a mistake of ours")


class Hoarding(Counter):
    """At its first frame: takes so many bytes of memory, and keeps them when `keep`."""

    kept: ClassVar[list[bytearray]] = []

    def __init__(self, size: int, keep: bool = False) -> None:
        super().__init__()
        self.size = size
        self.keep = keep

    def frame(self, frame: Any) -> None:
        if not self.times:
            block = bytearray(self.size)
            if self.keep:
                self.kept.append(block)
        super().frame(frame)


class TakenOver(Counter):
    """What a codec can do that runs a medium's code: at its first frame it sends `reply` as the child's own, and ends
    the child or lets it live."""

    def __init__(self, reply: bytes, end: bool = True) -> None:
        super().__init__()
        self.reply = reply
        self.end = end

    def frame(self, frame: Any) -> None:
        for path in list(Path("/proc/self/fd").iterdir()):
            if _is_pipe_to_write(path):
                os.write(int(path.name), self.reply)
        if self.end:
            os._exit(0)


def _is_pipe_to_write(path: Path) -> bool:
    return path.exists() and stat.S_ISFIFO(path.stat().st_mode) and path.lstat().st_mode & stat.S_IWUSR != 0
