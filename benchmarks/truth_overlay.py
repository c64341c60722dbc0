"""Truth about burned-in text: subtitles drawn into real clips, the same clips without, and signs under a moving camera.

Eight frames of each clip are decoded as the annotator asks for them; a clip of L seconds is one real clip, or for every
second one a montage of four, spread over L. Subtitles change every 1 to 6 s and one of seven is a pause; a style (font,
size, outline, box or shadow, lower or upper band, one or two lines, karaoke) and captions of COCO are drawn by a hash.
Each frame then goes through JPEG at quality 70, for a codec's noise. Signs are real pictures with writing, over which a
window pans. Pages for the recall of words are drawn black on white, some turned.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from annotators.overlay import ocr
from annotators.overlay.overlay import Overlay, OverlaySettings, look
from filters.overlay import OverlayThresholds
from infra.hashing import fingerprint
from infra.media.decoder import Decoder
from infra.media.interface import FramePlan, Frames, MediaRef
from infra.media.pixels import fit_size, resize

Picture = NDArray[np.uint8]

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansCondensed-Bold.ttf")
SECONDS = (8, 20, 60)
FRAMES = 8


def measure_overlay(corpus: Path, scratch: Path) -> dict[str, float | int]:
    """overlay_recall_{8,20,60}s, overlay_clean_dropped, overlay_scene_text_dropped, ocr_word_recall, set sizes."""
    del scratch
    figures: dict[str, float | int] = {}
    takes = read_takes(corpus)
    captions = read_captions(corpus)
    for seconds in SECONDS:
        clips = list(make_clips(takes, captions, seconds))
        figures[f"overlay_recall_{seconds}s"] = _share(drops(clip) for clip in clips)
        figures[f"overlay_{seconds}s_clips"] = len(clips)
    clean = [Frames(take, np.arange(FRAMES, dtype=np.float64)) for take in takes]
    figures |= {"overlay_clean_dropped": _share(drops(clip) for clip in clean), "overlay_clean_clips": len(clean)}
    signs = list(make_pans(corpus))
    figures |= {"overlay_scene_text_dropped": _share(drops(clip) for clip in signs), "overlay_scene_clips": len(signs)}
    return figures | measure_word_recall(captions)


def _share(verdicts: Iterator[bool]) -> float:
    listed = list(verdicts)
    return round(sum(listed) / max(len(listed), 1), 4)


def random(*name: object) -> np.random.Generator:
    """A generator seeded by a hash of the name."""
    return np.random.default_rng(int(fingerprint(list(map(str, name)))[:16], 16))


def drops(clip: Frames) -> bool:
    """Whether the filter drops a clip by its default threshold."""
    settings = OverlaySettings()
    long = settings.size
    pixels = np.stack([resize(p, *fit_size(p.shape[1], p.shape[0], long, "long")) for p in clip.pixels])
    with ocr.borrow(settings) as engine:
        row = look(Frames(pixels, clip.times), True, engine, settings)
    return bool(row["area"] > OverlayThresholds().max_area)


#: Videos of the corpus with text of their own, seen by eye: their subtitles and logos are no clean ground.
LETTERED = ("subtitle", "caption", "hitting_baseball", "midroll", "testvid", "bbb", "sample_with_srt", "MLLM")


def read_takes(corpus: Path) -> list[Picture]:
    """Eight frames each, long side up to 960 pixels, of the corpus's clips of people, animals and places."""
    plan = FramePlan(times="uniform", size=960, fit="long", count=FRAMES)
    takes = []
    with Decoder() as decoder:
        for path in sorted((corpus / "videos").iterdir()):
            if any(word in path.name for word in LETTERED):
                continue
            media = decoder.decode(MediaRef(str(path), kind="video"), {"a": plan}, {})
            frames = None if media.error else media.frames["a"].pixels
            if frames is not None and len(frames) == FRAMES and min(frames.shape[1:3]) >= 200 and frames.std() > 10:
                takes.append(frames)
    return takes


def read_captions(corpus: Path) -> list[str]:
    lines = (corpus / "text" / "captions_coco_val2017_a.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"].strip() for line in lines[:2000]]


def make_clips(takes: Sequence[Picture], captions: Sequence[str], seconds: int) -> Iterator[Frames]:
    """One clip with subtitles for each take."""
    times = (np.arange(FRAMES) + 0.5) * seconds / FRAMES
    for number, take in enumerate(takes):
        rng = random("subtitles", seconds, number)
        frames = [frame.copy() for frame in take]
        if number % 2:  # a montage: two frames of each of four takes
            size = take.shape[2], take.shape[1]
            others = [takes[int(i)] for i in rng.choice(len(takes), FRAMES // 2)]
            frames = [resize(others[i // 2][i], *size) for i in range(FRAMES)]
        style = draw_style(rng)
        spoken = plan_subtitles(rng, captions, seconds)
        for frame, time in zip(range(FRAMES), times, strict=True):
            text = next((text for start, end, text in spoken if start <= time < end), "")
            if text:
                frames[frame] = draw_subtitle(frames[frame], text, style, rng)
            frames[frame] = compress(frames[frame])
        yield Frames(np.stack(frames), times)


def plan_subtitles(rng: np.random.Generator, captions: Sequence[str], seconds: float) -> list[tuple[float, float, str]]:
    """(start, end, text) of the subtitles of a clip; one of seven is a pause."""
    spoken, start = [], 0.0
    while start < seconds:
        end = start + float(rng.uniform(1, 6))
        if rng.random() >= 1 / 7:
            spoken.append((start, end, captions[int(rng.integers(len(captions)))]))
        start = end
    return spoken


def draw_style(rng: np.random.Generator) -> dict[str, Any]:
    return {
        "font": FONTS[int(rng.integers(len(FONTS)))],
        "size": float(rng.uniform(1 / 20, 1 / 12)),
        "look": ("outline", "box", "shadow", "outline")[int(rng.integers(4))],
        "colour": ((255, 255, 255), (255, 255, 255), (255, 240, 60))[int(rng.integers(3))],
        "top": bool(rng.random() < 0.12),
        "lines": 1 + int(rng.integers(2)),
        "karaoke": bool(rng.random() < 0.12),
    }


def draw_subtitle(frame: Picture, text: str, style: dict[str, Any], rng: np.random.Generator) -> Picture:
    """Draw a subtitle, centred, in at most the style's number of lines, cut where it does not fit."""
    image = PIL.Image.fromarray(frame)
    draw = PIL.ImageDraw.Draw(image)
    size = max(12, round(style["size"] * image.height))
    font = PIL.ImageFont.truetype(style["font"], size)
    lines, row = [], ""
    for word in text.split():
        if row and draw.textlength(f"{row} {word}", font) > 0.88 * image.width:
            lines.append(row)
            row = word
        else:
            row = f"{row} {word}".strip()
    lines = [*lines, row][: style["lines"]]
    step = round(1.25 * size)
    y = round(0.05 * image.height) if style["top"] else round(0.94 * image.height) - step * len(lines)
    for i, line in enumerate(lines):
        wide = draw.textlength(line, font)
        x, top = (image.width - wide) / 2, y + i * step
        if style["look"] == "box":
            draw.rectangle((x - 6, top - 2, x + wide + 6, top + step - 2), fill=(0, 0, 0))
        if style["look"] == "shadow":
            draw.text((x + 2, top + 2), line, font=font, fill=(0, 0, 0))
        stroke = max(1, size // 14) if style["look"] == "outline" else 0
        draw.text((x, top), line, font=font, fill=style["colour"], stroke_width=stroke, stroke_fill=(0, 0, 0))
        if style["karaoke"]:
            sung = line[: int(rng.integers(1, len(line) + 1))]
            draw.text((x, top), sung, font=font, fill=(60, 200, 255), stroke_width=stroke, stroke_fill=(0, 0, 0))
    return np.asarray(image)


def compress(picture: Picture, quality: int = 70) -> Picture:
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(buffer).convert("RGB"))


def make_pans(corpus: Path) -> Iterator[Frames]:
    """A window that moves over each picture with writing, two directions each."""
    for path in sorted((corpus / "images").glob("text_*")):
        picture = np.asarray(PIL.Image.open(path).convert("RGB"))
        height, width = picture.shape[:2]
        if min(height, width) < 200:
            continue
        for direction in (0, 1):
            window = round(height * 0.7), round(width * 0.7)
            steps = np.linspace(0, 1, FRAMES)
            frames = []
            for step in steps if direction == 0 else steps[::-1]:
                y, x = round(float(step) * (height - window[0])), round(float(step) * (width - window[1]))
                frames.append(compress(picture[y : y + window[0], x : x + window[1]]))
            yield Frames(np.stack(frames), np.arange(FRAMES, dtype=np.float64))


def measure_word_recall(captions: Sequence[str], pages: int = 24) -> dict[str, float | int]:
    """ocr_word_recall: share of the words of drawn pages that are read, every fourth turned."""
    annotator = Overlay()
    found, total = 0, 0
    for number in range(pages):
        rng = random("page", number)
        page = PIL.Image.new("RGB", (1240, 1754) if number % 2 else (1600, 900), "white")
        draw = PIL.ImageDraw.Draw(page)
        size = int(rng.integers(22, 40))
        font = PIL.ImageFont.truetype(FONTS[number % len(FONTS)], size)
        words: list[str] = []
        for row in range(int((page.height - 120) / (1.6 * size))):
            line = captions[int(rng.integers(len(captions)))]
            while draw.textlength(line, font) > page.width - 120:
                line = line.rsplit(" ", 1)[0]
            draw.text((60, 60 + row * 1.6 * size), line, font=font, fill=(10, 10, 10))
            words += normalise(line)
        if number % 4 == 3:
            page = page.rotate((90, 180, 270)[number // 4 % 3], expand=True)
        pixels = np.asarray(page)
        plan = annotator.plan
        side, fit = (plan.image_size, "long") if plan.image_size else (plan.size, plan.fit)
        pixels = resize(pixels, *fit_size(pixels.shape[1], pixels.shape[0], side, fit))  # type: ignore[arg-type]
        row_ = annotator.measure_one({"modality": "image"}, Frames(pixels[None], np.zeros(1)))
        read = set(normalise(row_["text"]))
        found += sum(word in read for word in words)
        total += len(words)
    return {"ocr_word_recall": round(found / total, 4), "ocr_words": total}


def normalise(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    words = ("".join(c for c in word if c.isalnum()) for word in text.casefold().split())
    return [word for word in words if word]
