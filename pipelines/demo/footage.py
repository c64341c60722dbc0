"""Render scenes to files: pictures and videos in many formats, with planted faults, copies and damage.

Everything is a function of its specification: one encoder thread, no clock, no random names inside the containers. So
the same specification gives the same bytes on one machine with one set of libraries.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.errors import StageError
from pipelines.demo.burned_in_text import BurnedInText
from pipelines.demo.film import Film
from pipelines.demo.scenes import DemoScene, Pixels, generator


@dataclass(frozen=True)
class Codec:
    """Suffix and muxer of the container, FFmpeg's encoder and its options, pixel format."""

    suffix: str
    muxer: str
    encoder: str
    options: tuple[tuple[str, str], ...]
    pixels: str = "yuv420p"


# x264's macroblock tree gives different bytes on every call here, even with one thread; without it they repeat.
_X264 = (("preset", "veryfast"), ("bf", "3"), ("crf", "27"), ("threads", "1"), ("x264-params", "mbtree=0"))
_X265 = (("preset", "ultrafast"), ("crf", "26"), ("x265-params", "log-level=none:pools=none:frame-threads=1:bframes=3"))
_VP9 = (("deadline", "realtime"), ("cpu-used", "8"), ("crf", "34"), ("b", "0"), ("threads", "1"), ("row-mt", "0"))
_AV1 = (("preset", "12"), ("crf", "38"), ("svtav1-params", "lp=1"))

#: Codecs of the world's videos, with the encoders' own speed settings; nothing is tuned for quality.
CODECS: dict[str, Codec] = {
    "h264-mp4": Codec("mp4", "mp4", "libx264", _X264),
    "hevc-mp4": Codec("mp4", "mp4", "libx265", _X265),
    "vp9-webm": Codec("webm", "webm", "libvpx-vp9", _VP9),
    "h264-mkv": Codec("mkv", "matroska", "libx264", _X264),
    "av1-mkv": Codec("mkv", "matroska", "libsvtav1", _AV1),
    "mpeg4-avi": Codec("avi", "avi", "mpeg4", (("b", "500000"),)),
    "hevc-mkv": Codec("mkv", "matroska", "libx265", _X265),
    "av1-mp4": Codec("mp4", "mp4", "libsvtav1", _AV1),
}
#: Sound but rare: the pipeline must accept each.
ODD_CODECS: dict[str, Codec] = {
    "h264-444": Codec("mp4", "mp4", "libx264", _X264, "yuv444p"),
    "h264-grey": Codec("mp4", "mp4", "libx264", _X264, "gray"),
    "h264-ts": Codec("ts", "mpegts", "libx264", _X264),
    "h264-mov": Codec("mov", "mov", "libx264", _X264),
    "matroska-named-mp4": Codec("mp4", "matroska", "libx264", _X264),
    "h264-sound": Codec("mp4", "mp4", "libx264", _X264),
    "mjpeg-avi": Codec("avi", "avi", "mjpeg", (("q", "4"),), "yuvj420p"),
    "h264-10bit": Codec("mkv", "matroska", "libx264", _X264, "yuv420p10le"),
}
IMAGES = ("jpg", "png", "webp", "jpg", "jpg-progressive", "webp", "jpg", "png")
ODD_IMAGES = (
    "cmyk.jpg",
    "exif.jpg",
    "palette.png",
    "grey16.png",
    "grey.jpg",
    "grey.png",
    "png-named.jpg",
    "alpha.png",
    "lossless.webp",
    "still.gif",
    "bitmap.bmp",
    "lzw.tiff",
)


@dataclass(frozen=True)
class Shot:
    """A video to be made. static: "" or one of STATICS; overlay: "" or the kind of burned-in text."""

    name: str
    scene: DemoScene
    width: int
    height: int
    fps: int
    seconds: float
    codec: str
    static: str = ""
    overlay: str = ""

    @property
    def suffix(self) -> str:
        return (CODECS.get(self.codec) or ODD_CODECS[self.codec]).suffix

    def frames(self) -> Iterator[Pixels]:
        film = Film(self.scene, self.width, self.height)
        rng = generator(0, "pixels", self.name)
        text = BurnedInText(self.overlay, self.width, self.height, rng) if self.overlay else None
        still = film.frame(0.0) if self.static else None
        for i in range(max(2, round(self.seconds * self.fps))):
            t = i / self.fps
            picture = film.frame(t) if still is None else _vary(still, self.static, t, rng)
            yield picture if text is None else text.draw_on(picture, t)


@dataclass(frozen=True)
class Photo:
    """A picture to be made; `form` is one of IMAGES or ODD_IMAGES."""

    name: str
    scene: DemoScene
    width: int
    height: int
    form: str
    quality: int = 88
    overlay: str = ""

    @property
    def suffix(self) -> str:
        return self.form.rsplit(".", 1)[-1].partition("-")[0]

    def pixels(self) -> Pixels:
        picture = Film(self.scene, self.width, self.height).frame(0.0)
        if not self.overlay:
            return picture
        text = BurnedInText(self.overlay, self.width, self.height, generator(0, "pixels", self.name))
        return text.draw_on(picture, 0.0)


@dataclass(frozen=True)
class Change:
    """How a copy differs from its original.

    form: format or codec of the copy. crop: shares cut off left, top, right, bottom. cut: (start, end) in seconds of
    the span of a video that is copied (end 0: all). quality: of lossy pictures.
    """

    name: str
    form: str
    crop: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    scale: float = 1.0
    cut: tuple[float, float] = (0.0, 0.0)
    mirror: bool = False
    quality: int = 60

    @property
    def suffix(self) -> str:
        return CODECS[self.form].suffix if self.form in CODECS else self.form.partition("-")[0]

    @property
    def kind(self) -> str:
        """The changes by name, "cropped+scaled"; "re-encoded" where there is no other."""
        changes = {
            "cut": self.cut != (0.0, 0.0), "cropped": any(self.crop), "scaled": self.scale != 1.0,
            "mirrored": self.mirror,
        }  # fmt: skip
        return "+".join(name for name, applies in changes.items() if applies) or "re-encoded"

    def apply(self, picture: Pixels) -> Pixels:
        import cv2

        high, wide = picture.shape[:2]
        cut_left, cut_top, cut_right, cut_bottom = self.crop
        x0, y0 = round(cut_left * wide), round(cut_top * high)
        x1, y1 = wide - round(cut_right * wide), high - round(cut_bottom * high)
        picture = picture[y0:y1, x0:x1]
        size = (_even((x1 - x0) * self.scale), _even((y1 - y0) * self.scale))
        if size != (x1 - x0, y1 - y0):
            interpolation = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
            picture = np.asarray(cv2.resize(picture, size, interpolation=interpolation), dtype=np.uint8)
        return np.array(picture[:, ::-1] if self.mirror else picture, dtype=np.uint8)


def _even(length: float) -> int:
    return max(2, 2 * math.floor(length / 2 + 0.5))


@dataclass(frozen=True)
class RenderJob:
    """One original, its copies, and the damage to the original ("": none). Done by one worker."""

    original: Shot | Photo
    copies: tuple[Change, ...] = ()
    damage: str = ""


def make(job: RenderJob) -> list[tuple[str, bytes]]:
    """(name, bytes) of the original and of each copy. Raises StageError when damage has no effect."""
    import cv2

    cv2.setNumThreads(1)  # workers give the parallelism; threads: the world is rendered in processes
    original = job.original
    copies = []
    if isinstance(original, Shot):
        content = encode(original.frames(), original.codec, original.fps)
        frames, fps = decode(content) if job.copies else [], original.fps
        for copy in job.copies:
            first, last = (round(seconds * fps) for seconds in copy.cut)
            span = frames[first : last or None]
            copies.append((copy.name, encode(map(copy.apply, span), copy.form, fps)))
    else:
        picture = original.pixels()
        content = write_image(picture, original.form, original.quality)
        if job.copies:
            picture = read_image(content)
        for copy in job.copies:
            copies.append((copy.name, write_image(copy.apply(picture), copy.form, copy.quality)))
    if job.damage:
        rng = generator(0, "damage", original.name)
        content = break_file(content, job.damage, isinstance(original, Shot), rng)
    return [(original.name, content), *copies]


# -- video -----------------------------------------------------------------------------------------------------------


def encode(frames: Iterable[Pixels], codec: str, fps: int) -> bytes:
    """Frames (uint8 RGB, all of one size) as the bytes of a video file."""
    import av

    settings = CODECS.get(codec) or ODD_CODECS[codec]
    target = io.BytesIO()
    pictures = iter(frames)
    first = next(pictures)
    with av.open(target, "w", format=settings.muxer, container_options={"fflags": "bitexact"}) as container:
        stream: Any = container.add_stream(settings.encoder, rate=fps, options=dict(settings.options))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = settings.pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 250
        sound = container.add_stream("aac", rate=16000) if codec == "h264-sound" else None
        count = 0
        for picture in itertools.chain([first], pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = count
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
        if sound is not None:
            _encode_hum(container, sound, count / fps)
    return target.getvalue()


def _encode_hum(container: Any, stream: Any, seconds: float) -> None:
    import av

    for start in range(0, int(seconds * 16000), 1024):
        wave = 0.1 * np.sin(2 * np.pi * 220 * (start + np.arange(1024)) / 16000)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def decode(content: bytes) -> list[Pixels]:
    """Every frame of a video as uint8 RGB, with one thread."""
    import av

    with av.open(io.BytesIO(content), "r") as container:
        stream: Any = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return [np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8) for frame in container.decode(stream)]


STATICS = ("frozen", "flicker", "grain")


def _vary(still: Pixels, static: str, t: float, rng: np.random.Generator) -> Pixels:
    """A picture in which nothing moves, at t seconds: unchanged; in light that varies by 0.3 %; or with a camera's
    grain, here and there one level of 255 up or down."""
    if static == "frozen":
        return still
    if static == "flicker":
        gain = 1 + 0.003 * math.sin(2 * math.pi * 0.7 * t)
        return np.asarray(np.clip(still * gain + 0.5, 0, 255), dtype=np.uint8)
    shift = rng.choice(np.array([-1, 0, 0, 0, 0, 1], dtype=np.int16), (*still.shape[:2], 1))
    return np.asarray(np.clip(still.astype(np.int16) + shift, 0, 255), dtype=np.uint8)


# -- pictures --------------------------------------------------------------------------------------------------------


def write_image(picture: Pixels, form: str, quality: int) -> bytes:
    """The picture as the bytes of a file in one of IMAGES or ODD_IMAGES."""
    from PIL import Image

    image = Image.fromarray(picture)
    target = io.BytesIO()
    if form in ("jpg", "jpg-progressive"):
        image.save(target, "JPEG", quality=quality, progressive=form != "jpg")
    elif form == "webp":
        image.save(target, "WEBP", quality=quality, method=1)
    elif form == "png":
        image.save(target, "PNG", compress_level=3)
    elif form == "cmyk.jpg":
        image.convert("CMYK").save(target, "JPEG", quality=quality)
    elif form == "exif.jpg":  # rotated, with the orientation tag
        tags = Image.Exif()
        tags[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(target, "JPEG", quality=quality, exif=tags)
    elif form == "palette.png":
        image.quantize(128, dither=Image.Dither.NONE).save(target, "PNG")
    elif form == "grey16.png":
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(grey).save(target, "PNG")
    elif form in ("grey.jpg", "grey.png"):
        image.convert("L").save(target, "JPEG" if form.endswith("jpg") else "PNG")
    elif form == "png-named.jpg":
        image.save(target, "PNG", compress_level=3)
    elif form == "alpha.png":
        image.putalpha(255)
        image.save(target, "PNG", compress_level=3)
    elif form == "lossless.webp":
        image.save(target, "WEBP", lossless=True, method=0)
    elif form == "still.gif":
        image.quantize(255).save(target, "GIF")
    elif form == "bitmap.bmp":
        image.save(target, "BMP")
    elif form == "lzw.tiff":
        image.save(target, "TIFF", compression="tiff_lzw")
    else:
        raise ValueError(f"unknown image form {form!r}")
    return target.getvalue()


def read_image(content: bytes) -> Pixels:
    """uint8 RGB, as Pillow decodes it."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.uint8)


# -- damage ----------------------------------------------------------------------------------------------------------

#: Kinds of damage.
BREAKS = ("empty", "truncated", "text", "noise", "holes")


def break_file(content: bytes, kind: str, video: bool, rng: np.random.Generator) -> bytes:
    """Damage a file so that it can no longer be decoded; `kind` is one of BREAKS.

    Decoders tolerate much, so every attempt is tried out, and made worse until the decoder gives up.
    Raises StageError when it never does.
    """
    if kind == "empty":
        return b""
    if kind == "text":
        return b"This was a picture once. It was moved, and only this note was left behind.\n" * 9
    if kind == "noise":
        return rng.bytes(len(content))
    for attempt in range(12):
        if kind == "truncated":
            damaged = content[: max(64, int(len(content) * 0.45 * 0.6**attempt))]
        else:
            spoiled = np.frombuffer(content, dtype=np.uint8).copy()
            start = max(16, int(len(content) * (0.25 * 0.5**attempt)))
            spoiled[start : len(content) - 8] = np.frombuffer(rng.bytes(len(content) - 8 - start), dtype=np.uint8)
            damaged = spoiled.tobytes()
        if not decodes(damaged, video):
            return damaged
    raise StageError(f"a file could not be broken by {kind!r}: the decoder still reads it")


def decodes(content: bytes, video: bool) -> bool:
    """Whether PyAV (or Pillow) decodes the whole file without an error, and at least one frame of it."""
    import av
    from PIL import Image

    try:
        if not video:
            Image.open(io.BytesIO(content)).load()
            return True
        with av.open(io.BytesIO(content), "r") as container:
            stream: Any = container.streams.video[0]
            stream.codec_context.thread_count = 1
            return sum(1 for _ in container.decode(stream)) > 0
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, av.FFmpegError):
        return False
