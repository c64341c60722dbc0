"""Files out of scenes: pictures and videos in many formats, the faults that are planted in them, copies, and damage.

Everything is a function of its specification: one encoder thread, no clock, no random names inside the containers,
so the same specification gives the same bytes on one machine and one set of libraries.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import StageError
from pipelines.demo.scenes import DemoScene, Pixels, font, generator


@dataclass(frozen=True)
class Codec:
    """suffix and muxer of the container, FFmpeg's encoder and its options, pixel format."""

    suffix: str
    muxer: str
    encoder: str
    options: tuple[tuple[str, str], ...]
    pixels: str = "yuv420p"


# x264's macroblock tree gives other bytes each time it runs here, even with one thread; without it they repeat.
_X264 = (("preset", "veryfast"), ("bf", "3"), ("crf", "27"), ("threads", "1"), ("x264-params", "mbtree=0"))
_X265 = (("preset", "ultrafast"), ("crf", "26"), ("x265-params", "log-level=none:pools=none:frame-threads=1:bframes=3"))
_VP9 = (("deadline", "realtime"), ("cpu-used", "8"), ("crf", "34"), ("b", "0"), ("threads", "1"), ("row-mt", "0"))
_AV1 = (("preset", "12"), ("crf", "38"), ("svtav1-params", "lp=1"))

#: What the world's videos are encoded with. The encoders' own speed settings; nothing here is tuned for quality.
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
#: Sound but rare: each must survive.
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
BREAKS = ("empty", "truncated", "text", "noise", "holes")


@dataclass(frozen=True)
class Shot:
    """A video to be made. static: "" or how a frozen frame is dressed up; overlay: "" or the kind of burned-in text."""

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
        film = self.scene.film(self.width, self.height)
        rng = generator(0, "pixels", self.name)
        burn = BurnedInText(self.overlay, self.width, self.height, rng) if self.overlay else None
        frozen = film.frame(0.0) if self.static else None
        for i in range(max(2, round(self.seconds * self.fps))):
            t = i / self.fps
            picture = film.frame(t) if frozen is None else _restless(frozen, self.static, t, rng)
            yield picture if burn is None else burn.on(picture, t)


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
        picture = self.scene.render(0.0, self.width, self.height)
        if not self.overlay:
            return picture
        return BurnedInText(self.overlay, self.width, self.height, generator(0, "pixels", self.name)).on(picture, 0.0)


@dataclass(frozen=True)
class Change:
    """What makes a copy: `crop` shares cut off left, top, right, bottom; `scale`; `cut` seconds kept of a video
    (end 0: all); `mirror`; `form` or codec and `quality` it is encoded with."""

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

    def apply(self, picture: Pixels) -> Pixels:
        import cv2

        high, wide = picture.shape[:2]
        left, top, right, bottom = self.crop
        x0, y0 = round(left * wide), round(top * high)
        x1, y1 = wide - round(right * wide), high - round(bottom * high)
        picture = picture[y0:y1, x0:x1]
        size = (_even((x1 - x0) * self.scale), _even((y1 - y0) * self.scale))
        if size != (x1 - x0, y1 - y0):
            smaller = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC
            picture = np.asarray(cv2.resize(picture, size, interpolation=smaller), dtype=np.uint8)
        return np.array(picture[:, ::-1] if self.mirror else picture, dtype=np.uint8)


@dataclass(frozen=True)
class RenderJob:
    """One original, its copies, and how it is damaged ("": it is not). Done by one worker."""

    original: Shot | Photo
    copies: tuple[Change, ...] = ()
    damage: str = ""


def make(job: RenderJob) -> list[tuple[str, bytes]]:
    """(name, bytes) of the original and of each copy. Raises StageError when damage cannot be done."""
    import cv2

    cv2.setNumThreads(1)  # workers give the parallelism
    original = job.original
    if isinstance(original, Shot):
        data = encode(original.frames(), original.codec, original.fps)
        made = [(original.name, data)]
        if job.copies:
            frames, fps = decode(data), original.fps
            for copy in job.copies:
                first, last = (round(s * fps) for s in copy.cut)
                kept = frames[first : last or None]
                made.append((copy.name, encode((copy.apply(f) for f in kept), copy.form, fps)))
    else:
        picture = original.pixels()
        made = [(original.name, write_image(picture, original.form, original.quality))]
        seen = read_image(made[0][1]) if job.copies else picture
        made += [(copy.name, write_image(copy.apply(seen), copy.form, copy.quality)) for copy in job.copies]
    if job.damage:
        name, data = made[0]
        made[0] = (name, damaged(data, job.damage, isinstance(original, Shot), generator(0, "damage", name)))
    return made


# ---------------------------------------------------------------- video


def encode(frames: Iterable[Pixels], codec: str, fps: int) -> bytes:
    """Frames (uint8 RGB, all of one size) as the bytes of a video file."""
    import av

    wanted = CODECS.get(codec) or ODD_CODECS[codec]
    target = io.BytesIO()
    pictures = iter(frames)
    first = next(pictures)
    with av.open(target, "w", format=wanted.muxer, container_options={"fflags": "bitexact"}) as container:
        stream: Any = container.add_stream(wanted.encoder, rate=fps, options=dict(wanted.options))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = wanted.pixels
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = 250
        sound = container.add_stream("aac", rate=16000) if codec == "h264-sound" else None
        count = 0
        for picture in _chain(first, pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = count
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
        if sound is not None:
            _hum(container, sound, count / fps)
    return target.getvalue()


def _hum(container: Any, stream: Any, seconds: float) -> None:
    import av

    for start in range(0, int(seconds * 16000), 1024):
        wave = 0.1 * np.sin(2 * np.pi * 220 * (start + np.arange(1024)) / 16000)
        frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def decode(data: bytes) -> list[Pixels]:
    """Every frame of a video as uint8 RGB, with one thread."""
    import av

    with av.open(io.BytesIO(data), "r") as container:
        stream: Any = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return [np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8) for frame in container.decode(stream)]


def _restless(frozen: Pixels, how: str, t: float, rng: np.random.Generator) -> Pixels:
    """One more look at a picture in which nothing moves: the same; in light that swells and fades by 0.3 %; or with
    the grain of a camera, here and there a level of 255 up or down."""
    if how == "frozen":
        return frozen
    if how == "flicker":
        gain = 1 + 0.003 * math.sin(2 * math.pi * 0.7 * t)
        return np.asarray(np.clip(frozen * gain + 0.5, 0, 255), dtype=np.uint8)
    shift = rng.choice(np.array([-1, 0, 0, 0, 0, 1], dtype=np.int16), (*frozen.shape[:2], 1))
    return np.asarray(np.clip(frozen.astype(np.int16) + shift, 0, 255), dtype=np.uint8)


STATICS = ("frozen", "flicker", "grain")


# ---------------------------------------------------------------- pictures


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
    elif form == "exif.jpg":  # lies on its side, and says so
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


def read_image(data: bytes) -> Pixels:
    """uint8 RGB, as Pillow decodes it."""
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.uint8)


# ---------------------------------------------------------------- burned-in text

VIDEO_OVERLAYS = ("subtitle", "ticker", "title", "watermark", "banner")
IMAGE_OVERLAYS = ("meme", "watermark", "banner")
_WORDS = (
    "breaking", "news", "from", "the", "harbour", "tonight", "weather", "will", "be", "mild", "subscribe", "now", "for",
    "more", "free", "stock", "footage", "sale", "ends", "sunday", "chapter", "two", "long", "road", "home", "please",
    "like", "and", "share", "official", "trailer", "live", "report", "episode", "seven",
)  # fmt: skip


class BurnedInText:
    """Text that was laid over the picture afterwards: it keeps its place, whatever the scene does."""

    def __init__(self, kind: str, width: int, height: int, rng: np.random.Generator) -> None:
        self._kind, self._width, self._height = kind, width, height
        self._size = max(15, round(min(height * 0.105, width * 0.085)))
        self._lines = [self._phrase(rng, 0.9) for _ in range(3)]
        self._speed = float(rng.uniform(0.12, 0.2)) * width
        self._second = bool(rng.integers(2))
        self._cache: dict[tuple[Any, ...], tuple[NDArray[np.uint8], NDArray[np.float32]]] = {}

    def _phrase(self, rng: np.random.Generator, share: float) -> str:
        face, text = font(self._size), ""
        for _ in range(12):
            longer = f"{text} {_WORDS[int(rng.integers(len(_WORDS)))]}".strip()
            if face.getlength(longer) > share * self._width:
                break
            text = longer
        text = text or "news"
        return text.upper() if rng.random() < 0.3 else text[0].upper() + text[1:]

    def on(self, picture: Pixels, t: float) -> Pixels:
        h, size = self._height, self._size
        ink, alpha = self._drawn(t)
        if self._kind in ("ticker", "banner"):
            y0 = h - round(1.7 * size) if self._kind == "ticker" else round(0.04 * h)
            picture = picture.copy()
            band = picture[y0 : y0 + round(1.5 * size)]
            band[:] = (band * 0.15 + np.array([18, 30, 84]) * 0.85).astype(np.uint8)
        blend = picture * (1 - alpha[..., None]) + ink * alpha[..., None]
        return np.asarray(blend + 0.5).astype(np.uint8)

    def _drawn(self, t: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """(colour, opacity) of the lettering at time t."""
        w, h, size = self._width, self._height, self._size
        lines, opacity = self._lines, 1.0
        places: list[tuple[str, float | None, float]]
        if self._kind == "subtitle":  # another line every 1.2 s
            n = int(t / 1.2) % 3
            places = [(lines[n], None, h - 1.6 * size)]
            if self._second:
                places.append((lines[(n + 1) % 3], None, h - 2.9 * size))
        elif self._kind == "ticker":
            text = "   ".join(lines)
            places = [(text + "   " + text, -round(self._speed * t) + 0.02 * w, h - 1.5 * size)]
        elif self._kind == "title":
            places = [(line, None, h / 2 + (i - 1) * 1.5 * size) for i, line in enumerate(lines[:2])]
        elif self._kind == "meme":
            places = [(lines[0].upper(), None, 0.05 * h), (lines[1].upper(), None, h - 1.7 * size)]
        elif self._kind == "banner":
            places = [(lines[0], None, 0.04 * h + 0.2 * size)]
        else:
            opacity = 0.72
            places = [("SAMPLE " + lines[0].split(" ")[0], None, h * (0.42 if self._second else 0.8))]
        key = tuple(places)
        if key not in self._cache:
            self._cache[key] = self._letters(places, opacity)
        return self._cache[key]

    def _letters(
        self, places: list[tuple[str, float | None, float]], opacity: float
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        from PIL import Image, ImageDraw

        size = (self._width, self._height)
        ink, mask = Image.new("RGB", size, (0, 0, 0)), Image.new("L", size, 0)
        draw, cover = ImageDraw.Draw(ink), ImageDraw.Draw(mask)
        face, edge = font(self._size), max(1, self._size // 12)
        for text, x, y in places:
            if x is None:
                x = max(0.0, (self._width - face.getlength(text)) / 2)
            draw.text((x, y), text, font=face, fill=(255, 255, 250), stroke_width=edge, stroke_fill=(0, 0, 0))
            cover.text((x, y), text, font=face, fill=255, stroke_width=edge, stroke_fill=255)
        return np.asarray(ink), np.asarray(mask).astype(np.float32) / 255.0 * np.float32(opacity)


# ---------------------------------------------------------------- damage


def damaged(data: bytes, how: str, video: bool, rng: np.random.Generator) -> bytes:
    """A file that cannot be decoded any more; `how` is one of BREAKS.

    Decoders forgive much, so every attempt is tried out and made worse until the decoder gives up.
    Raises StageError when it never does.
    """
    if how == "empty":
        return b""
    if how == "text":
        return b"This was a picture once. It was moved, and only this note was left behind.\n" * 9
    if how == "noise":
        return rng.bytes(len(data))
    for attempt in range(12):
        if how == "truncated":
            worse = data[: max(64, int(len(data) * 0.45 * 0.6**attempt))]
        else:
            spoiled = np.frombuffer(data, dtype=np.uint8).copy()
            start = max(16, int(len(data) * (0.25 * 0.5**attempt)))
            spoiled[start : len(data) - 8] = np.frombuffer(rng.bytes(len(data) - 8 - start), dtype=np.uint8)
            worse = spoiled.tobytes()
        if not decodes(worse, video):
            return worse
    raise StageError(f"a file could not be broken by {how!r}: the decoder forgives everything")


def decodes(data: bytes, video: bool) -> bool:
    """Whether PyAV (or Pillow) reads the whole file without complaint and finds something in it."""
    import av
    from PIL import Image

    try:
        if not video:
            Image.open(io.BytesIO(data)).load()
            return True
        with av.open(io.BytesIO(data), "r") as container:
            stream: Any = container.streams.video[0]
            stream.codec_context.thread_count = 1
            return sum(1 for _ in container.decode(stream)) > 0
    except (OSError, ValueError, SyntaxError, IndexError, EOFError, av.FFmpegError):
        return False


def _chain(first: Pixels, rest: Iterator[Pixels]) -> Iterator[Pixels]:
    yield first
    yield from rest


def _even(length: float) -> int:
    return max(2, 2 * math.floor(length / 2 + 0.5))
