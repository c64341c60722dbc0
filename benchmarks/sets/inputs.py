"""Generate the inputs of the measure benchmarks: pictures, clips and texts computed from random numbers alone.

Pictures: smooth random colour fields (a grid of 9 x 7 colours enlarged by bicubic interpolation) under sensor-like
noise, JPEG quality 90. Clips: a window that wanders over such a picture, new noise in every frame, x264 (veryfast, CRF
23, its B-frames, one thread). Texts: English sentences put together from a few hundred words.

Few are generated and many are needed, so copies differ in bytes that are ignored: a comment segment in a JPEG, a free
box at the end of an MP4. No cache can serve one for another: all are decoded and measured.
"""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PICTURE_SIZES = ((320, 240), (512, 384), (640, 480), (768, 576))
CLIP_SIZES = ((320, 240), (480, 270), (640, 360))

WORDS = """
river boat garden kitchen mountain window street child dog horse market bridge train table teacher music
forest city lake engine bicycle bird bread winter morning harbour doctor letter library farmer island camera
road building field student painter cloud stone fire water machine question answer history language village
story cross follow watch carry open leave find paint build remember hold clean repair meet pass describe draw
sell hear move turn lift visit small old quiet bright heavy green broken distant early careful wooden warm
empty narrow famous slow young yellow simple strange busy wide gentle long people between another always
together number without again country around thought school never world something paper group often important
example family later course believe power reason during several learn figure
"""
STOP = "the be to of and that have with a in is it for was on as at by from this or an are not they which one had"


def sentence(rng: np.random.Generator) -> str:
    """8 to 24 words, two fifths of them common English function words."""
    words, stop = WORDS.split(), STOP.split()
    drawn = [stop if short else words for short in rng.random(int(rng.integers(8, 25))) < 0.4]
    return " ".join(kind[int(rng.integers(len(kind)))] for kind in drawn).capitalize() + "."


def caption(number: int) -> str:
    return sentence(np.random.default_rng([1, number]))


def document(number: int) -> str:
    """40 to 400 words in paragraphs."""
    rng = np.random.default_rng([2, number])
    return "\n\n".join(
        " ".join(sentence(rng) for _ in range(int(rng.integers(1, 5)))) for _ in range(int(rng.integers(2, 6)))
    )


def picture(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 RGB (height, width, 3), without noise."""
    rng = np.random.default_rng([3, number])
    field = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8))
    return np.asarray(field.resize((width, height), Image.Resampling.BICUBIC))


def add_noise(pixels: NDArray[np.uint8], rng: np.random.Generator, deviation: float) -> NDArray[np.uint8]:
    noise = rng.normal(0, deviation, pixels.shape).astype(np.float32)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def jpeg(number: int) -> bytes:
    width, height = PICTURE_SIZES[number % len(PICTURE_SIZES)]
    pixels = add_noise(picture(number, width, height), np.random.default_rng([4, number]), 6.0)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def clip(number: int, size: tuple[int, int], *, seconds: float = 3.0, fps: int = 25, words: bool = False) -> bytes:
    """An MP4; with `words` every frame has the same two lines of text."""
    import av

    width, height = size
    rng = np.random.default_rng([5, number])
    wide = picture(number, width + 96, height + 64)
    text = _words(number, width, height) if words else None
    speed = rng.uniform(4, 30, 2)
    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(round(seconds * fps)):
            offsets_x, offsets_y = (np.abs((speed * index / fps + span) % (2 * span) - span) for span in (96, 64))
            x, y = int(offsets_x[0]), int(offsets_y[1])
            pixels = add_noise(wide[y : y + height, x : x + width], rng, 3.0)
            if text is not None:
                pixels = np.where(text[..., None] > 0, 255, pixels).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return sink.getvalue()


def _words(number: int, width: int, height: int) -> NDArray[np.uint8]:
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    font = ImageFont.load_default(size=height // 12)
    for line, text in enumerate(caption(number).split(" that ")[:2]):
        draw.text((width // 20, height - (2 - line) * height // 8), text[:28], fill=255, font=font)
    return np.asarray(layer)


def jpeg_copy(content: bytes, number: int) -> bytes:
    """The same picture, other bytes."""
    return content[:2] + b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big") + content[2:]


def clip_copy(content: bytes, number: int) -> bytes:
    """The same clip, other bytes."""
    return content + struct.pack(">I4sQ", 16, b"free", number)


def write_media(folder: Path, suffix: str, media: list[bytes], count: int) -> None:
    """`count` files out of `media` in turn, and captions.jsonl beside them."""
    folder.mkdir(parents=True)
    copy = jpeg_copy if suffix == "jpg" else clip_copy
    with open(folder / "captions.jsonl", "w", encoding="utf-8") as captions:
        for number in range(count):
            name = f"{number:06d}.{suffix}"
            (folder / name).write_bytes(copy(media[number % len(media)], number))
            captions.write(json.dumps({"file": name, "text": caption(number)}) + "\n")


def write_texts(folder: Path, count: int) -> None:
    """texts.jsonl with `count` documents."""
    folder.mkdir(parents=True)
    with open(folder / "texts.jsonl", "w", encoding="utf-8") as file:
        for number in range(count):
            file.write(json.dumps({"text": document(number)}) + "\n")
