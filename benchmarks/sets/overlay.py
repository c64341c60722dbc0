"""Truth about burned-in text: subtitles drawn into real clips, the same clips without, and signs under a moving camera.

**Held out.** Real clips and real pictures are numbered by name. Those with an even number are for tuning, those with an
odd one for judging: the figures are of the odd half, whose footage no rule was tuned on since the two were separated.
Of several clips of one footage one is taken, and montages are made of clips of one half.

**Subtitles.** Eight frames of each clip are decoded as the annotator asks for them; a clip of L seconds is one real
clip, or for every second one a montage of four, spread over L. It begins with a subtitle; each lasts 1 to 6 s and one
of seven is a pause. A style (font, size, outline, box or shadow, lower or upper band, one or two lines, karaoke) and
captions of COCO are drawn by a hash. Each frame then goes through JPEG at quality 70, for a codec's noise.

**Clean clips** have no burned-in text (`LETTERED` lists those that have, seen by eye); logos in a corner stay, since
they must pass. **Signs** are real pictures with writing, over which a window moves. **Pages** for the recall of words
are drawn black on white, some turned; **scans** have lines of small print on a large page.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import PIL.ImageFont
from numpy.typing import NDArray

from annotators.overlay import ocr
from annotators.overlay.overlay import Overlay
from annotators.overlay.settings import OverlaySettings
from annotators.overlay.videos import look_at_video
from filters.overlay import OverlayThresholds
from infra.hashing import fingerprint
from infra.media.decoder import Decoder
from infra.media.interface import FramePlan, Frames, MediaRef
from infra.media.pixels import fit_size, resize

Picture = NDArray[np.uint8]

FONTS = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansCondensed-Bold.ttf")
SECONDS = (2, 8, 12, 20, 30, 60)
FRAMES = 8
#: Clips with subtitles that are drawn for each real clip, by length.
DRAWN = 2
#: The half of the clips and pictures on which the figures are measured: odd numbers.
JUDGED = 1


def measure_overlay(corpus: Path, scratch: Path) -> dict[str, float | int]:
    """overlay_recall_{2,8,12,20,30,60}s, overlay_clean_dropped, overlay_scene_text_dropped, ocr_word_recall, sizes."""
    del scratch
    return measure_half(corpus, JUDGED) | measure_word_recall(read_captions(corpus))


def measure_half(corpus: Path, half: int) -> dict[str, float | int]:
    """The figures of videos, of the clips and pictures with even (0) or odd (1) numbers."""
    figures: dict[str, float | int] = {}
    takes = list(read_takes(corpus, half).values())
    captions = read_captions(corpus)
    for seconds in SECONDS:
        clips = list(make_clips(takes, captions, seconds, half))
        figures[f"overlay_recall_{seconds}s"] = _share(drops(clip) for clip in clips)
        figures[f"overlay_{seconds}s_clips"] = len(clips)
    clean = [Frames(take, np.arange(FRAMES, dtype=np.float64)) for take in takes]
    figures |= {"overlay_clean_dropped": _share(drops(clip) for clip in clean), "overlay_clean_clips": len(clean)}
    signs = make_signs(corpus, half)
    dropped = {name: drops(clip) for name, clip in signs}
    figures |= {"overlay_scene_text_dropped": _share(iter(dropped.values())), "overlay_scene_clips": len(dropped)}
    for movement in MOVEMENTS:
        of_movement = [verdict for name, verdict in dropped.items() if name.endswith(f" {movement}")]
        figures[f"overlay_scene_text_dropped_{movement}"] = _share(iter(of_movement))
    return figures


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
        row = look_at_video(Frames(pixels, clip.times), engine, settings)
    return bool(row["area"] > OverlayThresholds().max_area)


#: Videos of the corpus with burned-in text that is not a logo in a corner, seen by eye: titles, captions, time codes,
#: counters of test pictures, displays of games and programs.
LETTERED = (
    "androidx_mkv_bbb_960x540_60fps_vp8.webm",
    "androidx_mkv_sample_with_chapters.mkv",
    "androidx_mp4_fragmented_captions.mp4",
    "androidx_mp4_h265_bframes.mp4",
    "androidx_mp4_iibbibb_editlist_videoonly.mp4",
    "androidx_mp4_midroll-5s.mp4",
    "androidx_mp4_testvid_1022ms.mp4",
    "androidx_ts_sample_h263.ts",
    "androidx_ts_sample_h264.ts",
    "androidx_ts_sample_h265.ts",
    "androidx_ts_sample_h265_rps_pred.ts",
    "androidx_vp9_roadtrip-vp92-10bit.webm",
    "llavanext_jobs_captioned.mp4",
    "mmaction_demo_stdet.mp4",
    "moviepy_example.mp4",
    "moviepy_smpte-2997.mp4",
    "panda70m_UaQKCrszICw.16.mp4",
    "panda70m_ZQiXQ1oKfuk.14.mp4",
    "panda70m_gWR0Kl5ktLs.6.mp4",
    "skvideo_scene_cuts_plot.mp4",
    "torchcodec_av1_video.mkv",
)
#: Videos of the same footage as another one.
TWINS = (
    "androidx_mkv_sample.mkv",
    "androidx_mkv_sample_with_srt.mkv",
    "androidx_mp4_bbb_800x640_768kbps_30fps_avc_pyramid_3b.mp4",
    "androidx_mp4_bbb_800x640_768kbps_30fps_vp9.mp4",
    "androidx_mp4_bt601.mov",
    "androidx_mp4_sample.mp4",
    "androidx_mp4_sample_av1.mp4",
    "androidx_mp4_sample_fragmented.mp4",
    "androidx_mp4_sample_gamma2.2.mp4",
    "androidx_mp4_sample_portrait.mp4",
    "androidx_mp4_sample_rotate_and_reflect.mp4",
    "mmaction_part_0.mp4",
    "mmaction_part_1.mp4",
)


def read_takes(corpus: Path, half: int) -> dict[str, Picture]:
    """Eight frames each, long side up to 960 pixels, of the corpus's clips without burned-in text, by name."""
    plan = FramePlan(times="uniform", size=960, fit="long", count=FRAMES)
    takes = {}
    paths = [path for path in sorted((corpus / "videos").iterdir()) if path.name not in LETTERED + TWINS]
    with Decoder() as decoder:
        for path in paths[half::2]:
            media = decoder.decode(MediaRef(str(path), kind="video"), {"a": plan}, {})
            frames = None if media.error else media.frames["a"].pixels
            if frames is not None and len(frames) == FRAMES and min(frames.shape[1:3]) >= 200 and frames.std() > 10:
                takes[path.name] = frames
    return takes


def read_captions(corpus: Path) -> list[str]:
    lines = (corpus / "text" / "captions_coco_val2017_a.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"].strip() for line in lines[:2000]]


def make_clips(takes: Sequence[Picture], captions: Sequence[str], seconds: int, half: int) -> Iterator[Frames]:
    """Clips with subtitles, DRAWN for each take: as it is, then a montage, and so on."""
    times = (np.arange(FRAMES) + 0.5) * seconds / FRAMES
    for number in range(DRAWN * len(takes)):
        rng = random("subtitles", half, seconds, number)
        frames = list(takes[number // DRAWN])
        if number % 2:  # a montage: two frames of each of four takes
            size = frames[0].shape[1], frames[0].shape[0]
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
    """(start, end, text) of the subtitles of a clip; the first starts at 0 s, then one of seven is a pause."""
    spoken, start = [], 0.0
    while start < seconds:
        end = start + float(rng.uniform(1, 6))
        if not spoken or rng.random() >= 1 / 7:
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


#: Movements of the window over a picture with writing: its size, and where its corner starts and ends, as shares.
Window = tuple[float, tuple[float, float]]
MOVEMENTS: Mapping[str, tuple[Window, Window]] = {
    "across": ((0.7, (0, 0.15)), (0.7, (0.3, 0.15))),
    "diagonal": ((0.7, (0, 0)), (0.7, (0.3, 0.3))),
    "slow": ((0.9, (0, 0.05)), (0.9, (0.06, 0.08))),
    "zoom": ((0.95, (0.02, 0.02)), (0.6, (0.2, 0.2))),
}


def make_signs(corpus: Path, half: int) -> Iterator[tuple[str, Frames]]:
    """A window that moves over each picture with writing, in each of MOVEMENTS; names are "picture movement"."""
    paths = [*(corpus / "images").glob("text_*"), *(corpus / "images").glob("imageio_page.png")]
    pictures = {path.name: PIL.Image.open(path).convert("RGB") for path in sorted(paths)}
    large = [name for name, picture in pictures.items() if min(picture.size) >= 200]
    for name in large[half::2]:
        picture = pictures[name]
        for movement, (first, last) in MOVEMENTS.items():
            frames = []
            for share in np.linspace(0, 1, FRAMES):
                side, x, y = (float((1 - share) * a + share * b) for a, b in _pairs(first, last))
                left, top = x * picture.width, y * picture.height
                box = left, top, left + side * picture.width, top + side * picture.height
                size = round(first[0] * picture.width), round(first[0] * picture.height)
                frames.append(compress(np.asarray(picture.resize(size, PIL.Image.Resampling.BICUBIC, box))))
            yield f"{name} {movement}", Frames(np.stack(frames), np.arange(FRAMES, dtype=np.float64))


def _pairs(first: Window, last: Window) -> list[tuple[float, float]]:
    return list(zip((first[0], *first[1]), (last[0], *last[1]), strict=True))


def measure_word_recall(captions: Sequence[str], pages: int = 24, scans: int = 8) -> dict[str, float | int]:
    """ocr_word_recall, ocr_small_print_recall: shares of the words of drawn pages, and of scans, that are read."""
    figures: dict[str, float | int] = {}
    for name, numbers, draw in (("word", pages, draw_page), ("small_print", scans, draw_scan)):
        found = total = 0
        for number in range(numbers):
            picture, words = draw(captions, number)
            read = Counter(normalise(read_image(picture)))
            found += (read & Counter(words)).total()
            total += len(words)
        figures |= {f"ocr_{name}_recall": round(found / total, 4), f"ocr_{name}_words": total}
    return figures


def read_image(picture: Picture) -> str:
    """The text that the annotator reads in an image, without the copies of a line that it leaves out."""
    annotator = Overlay()
    plan = annotator.plan
    side = plan.image_size or plan.size
    pixels = resize(picture, *fit_size(picture.shape[1], picture.shape[0], side, "long"))
    boxes = annotator.measure_one({"modality": "image"}, Frames(pixels[None], np.zeros(1)))["boxes"]
    return " ".join(box["text"] for box in boxes)


def draw_page(captions: Sequence[str], number: int) -> tuple[Picture, list[str]]:
    """A page of ordinary print or a screen, every fourth turned, and its words."""
    rng = random("page", number)
    size = (1240, 1754) if number % 2 else (1600, 900)
    page, words = draw_lines(rng, captions, size, int(rng.integers(22, 40)), FONTS[number % len(FONTS)], 60)
    if number % 4 == 3:
        page = page.rotate((90, 180, 270)[number // 4 % 3], expand=True)
    return np.asarray(page), words


def draw_scan(captions: Sequence[str], number: int) -> tuple[Picture, list[str]]:
    """An A4 page of 300 dots per inch with sixteen lines of 3.4 to 5.5 points, blurred, as JPEG, and its words."""
    rng = random("scan", number)
    font = FONTS[number % len(FONTS)]
    page, words = draw_lines(rng, captions, (2480, 3508), int(rng.integers(14, 24)), font, 200, rows=16)
    return compress(np.asarray(page.filter(PIL.ImageFilter.GaussianBlur(0.7)))), words


def draw_lines(
    rng: np.random.Generator,
    captions: Sequence[str],
    shape: tuple[int, int],
    size: int,
    font_name: str,
    margin: int,
    rows: int = 1000,
) -> tuple[PIL.Image.Image, list[str]]:
    """A white page (width, height) full of captions in lines as wide as it, and their words."""
    page = PIL.Image.new("RGB", shape, "white")
    draw = PIL.ImageDraw.Draw(page)
    font = PIL.ImageFont.truetype(font_name, size)
    words: list[str] = []
    for row in range(min(int((page.height - 2 * margin) / (1.6 * size)), rows)):
        line = " ".join(captions[int(i)] for i in rng.integers(len(captions), size=1 + page.width // (12 * size)))
        while draw.textlength(line, font) > page.width - 2 * margin:
            line = line.rsplit(" ", 1)[0]
        draw.text((margin, margin + row * 1.6 * size), line, font=font, fill=(10, 10, 10))
        words += normalise(line)
    return page, words


def normalise(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    words = ("".join(c for c in word if c.isalnum()) for word in text.casefold().split())
    return [word for word in words if word]
