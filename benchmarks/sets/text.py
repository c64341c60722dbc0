"""Truth about text and blank pictures: texts that people wrote, sentences in known languages, drawn pictures.

Texts are of the corpus's folder text/, the odd ones of each set (the second, the fourth, ...): thresholds were chosen
on the even ones. They are measured by the annotators and judged by the filters with their defaults. The sets:

human: captions by people of COCO, MSR-VTT, Multi30k (its English ones) and IIW, whose captions are long; all English.
shouted: COCO's, every letter a capital; the filters caption, language and quality judge what `clean` repairs.
shouting: captions of COCO that `clean` repairs as their authors wrote them.
foreign: sentences of lingua's test set in 78 languages other than English. english: human and its English sentences.
alt_text: alt-texts of the web, in any language: nobody labelled them, so the share dropped is no error rate.
documents: answers in FiQA's forum and long texts, by the rules for documents.
blank: pictures drawn here, black, white, of one colour, or noise of seven kinds, saved as PNG or JPEG. The
rule was chosen on other draws of the first five; grainy and streaked noise was added afterwards.
blank_video: the same kinds as videos of 12 frames in H.264, at CRF 18, 28 and 40; noise is drawn anew for each frame.
photographs: COCO's, of which none is blank, and the same darkened to so many per cent of their levels.

A set that the corpus lacks has size 0, and its share is 0.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
from numpy.typing import NDArray

from annotators.clean import Clean, caption
from annotators.language import Language
from annotators.quality import Quality
from infra.hashing import fingerprint
from pipelines import api

Picture = NDArray[np.uint8]

#: Sets of captions by people: a file of the corpus each.
HUMAN = ("captions_coco_val2017_a", "captions_msrvtt_test", "captions_multi30k_train2200", "longcaptions_iiw400")
COCO = HUMAN[0]
TEXT_FILTERS = ("caption", "language", "quality")
DRAWN = 160
DARKENED = (20, 10, 5, 2, 1)
CRFS = (18, 28, 40)


def measure_text(corpus: Path, scratch: Path) -> dict[str, float | int]:
    """Shares kept and dropped of each set, as KIND_SET_kept or KIND_SET_dropped, and its size."""
    human = [text for name in HUMAN for text in read_odd(corpus, name)]
    sentences = read_rows(corpus, "langid_sentences_a")
    foreign = pick_odd(row["text"] for row in sentences if row["lang"] != "en")
    english = [*human, *pick_odd(row["text"] for row in sentences if row["lang"] == "en")]
    alt_text = read_odd(corpus, "alttext_web_a")
    documents = pick_odd(read_documents(corpus))
    figures = measure_shouting(read_odd(corpus, COCO))
    kept = keep_texts(foreign, ["language"])
    figures |= {"language_foreign_kept": share(kept), "language_foreign_size": len(kept)}
    dropped = {
        "language_english": drop_texts(english, ["language"]),
        "language_alt_text": drop_texts(alt_text, ["language"]),
        "quality_human": drop_texts(human, ["quality"]),
        "quality_documents": drop_texts(documents, ["quality"], "text"),
    }
    for name, flags in dropped.items():
        figures |= {f"{name}_dropped": share(flags), f"{name}_size": len(flags)}
    return figures | measure_blank(corpus, scratch / "drawn")


def share(flags: Sequence[bool]) -> float:
    return round(sum(flags) / max(len(flags), 1), 4)


def read_rows(corpus: Path, name: str) -> list[dict[str, str]]:
    path = corpus / "text" / f"{name}.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def pick_odd(texts: Iterable[str]) -> list[str]:
    return list(texts)[1::2]


def read_odd(corpus: Path, name: str) -> list[str]:
    """The odd texts of a set, of those in English where the set has several languages."""
    return pick_odd(row["text"] for row in read_rows(corpus, name) if row.get("lang", "en") == "en")


def read_documents(corpus: Path) -> list[str]:
    """FiQA's answers and the texts of the sets of long ones."""
    answers = [answer for row in read_rows(corpus, "longform_fiqa_150") for answer in row["documents"]]
    names = sorted(path.stem for path in (corpus / "text").glob("longform_*.jsonl") if "fiqa" not in path.name)
    return answers + [row["text"] for name in names for row in read_rows(corpus, name)]


def judge_texts(texts: Sequence[str], filters: Sequence[str], modality: str = "image") -> pa.Table:
    """The verdicts of texts by default settings: captions, or documents where the modality is text."""
    table = pa.table({
        "key": [str(number) for number in range(len(texts))],
        "modality": pa.array([modality] * len(texts), pa.string()),
        "text": pa.array(texts, pa.string()),
        "error": pa.nulls(len(texts), pa.string()),
    })  # fmt: skip
    for annotator in (Clean(), Language(), Quality()):
        cells = annotator.measure(table, [None] * len(texts))
        for column in cells.column_names:
            table = table.append_column(f"{annotator.name}.{column}", cells[column])
    return api.judge(table, filters)


def keep_texts(texts: Sequence[str], filters: Sequence[str], modality: str = "image") -> list[bool]:
    if not texts:
        return []
    return [outcome == "kept" for outcome in judge_texts(texts, filters, modality)["outcome"].to_pylist()]


def drop_texts(texts: Sequence[str], filters: Sequence[str], modality: str = "image") -> list[bool]:
    return [not kept for kept in keep_texts(texts, filters, modality)]


def measure_shouting(captions: Sequence[str]) -> dict[str, float | int]:
    """Shares kept of captions put into capitals, and of those that people wrote so and that `clean` repairs."""
    chunk = pa.table({"modality": ["image"] * len(captions), "text": pa.array(captions, pa.string())})
    repaired = Clean().measure(chunk, [None] * len(captions))["text"].to_pylist()
    shouting = [raw for raw, clean in zip(captions, repaired, strict=True) if clean != caption(raw)]
    figures: dict[str, float | int] = {}
    for name, texts in (("shouted_repaired", [raw.upper() for raw in captions]), ("shouting_repaired", shouting)):
        kept = keep_texts(texts, TEXT_FILTERS)
        figures |= {f"{name}_kept": share(kept), f"{name}_size": len(kept)}
    return figures


def measure_blank(corpus: Path, folder: Path) -> dict[str, float | int]:
    """blank_kept of drawn pictures, blank_KIND_kept, blank_photographs_dropped, and the sizes."""
    folder.mkdir(parents=True)
    kinds = write_drawn(folder)
    kept = keep_pictures([folder / name for name in kinds])
    figures: dict[str, float | int] = {"blank_kept": share(list(kept.values())), "blank_size": len(kept)}
    for kind in DRAWINGS:
        of_kind = [flag for name, flag in kept.items() if kinds[name] == kind]
        figures |= {f"blank_{kind}_kept": share(of_kind), f"blank_{kind}_size": len(of_kind)}
    videos = list(keep_pictures(write_videos(folder)).values())
    figures |= {"blank_video_kept": share(videos), "blank_video_size": len(videos)}
    photographs = sorted((corpus / "images").glob("coco_*"))
    figures["blank_photographs_size"] = len(photographs)
    figures["blank_photographs_dropped"] = drop_share(photographs)
    for percent in DARKENED:
        dark = [darken(path, percent, folder) for path in photographs]
        figures[f"blank_darkened_{percent}_dropped"] = drop_share(dark)
    return figures


def drop_share(paths: Sequence[Path]) -> float:
    return share([not kept for kept in keep_pictures(paths).values()])


def write_videos(folder: Path) -> list[Path]:
    """Write a video of 320 × 240 of each kind for each CRF, but no more than DRAWN."""
    import av

    paths = []
    for kind, crf in itertools.islice(itertools.product(DRAWINGS, CRFS), DRAWN):
        rng = np.random.default_rng(int(fingerprint(["blank_video", kind, str(crf)])[:16], 16))
        paths.append(folder / f"{kind}-{crf}.mp4")
        still = DRAWINGS[kind](rng, (240, 320))
        with av.open(str(paths[-1]), "w") as out:
            stream = out.add_stream("libx264", rate=10, options={"crf": str(crf), "threads": "1"})
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for _ in range(12):
                levels = DRAWINGS[kind](rng, (240, 320)) if kind.endswith("noise") else still
                frame = av.VideoFrame.from_ndarray(np.clip(levels, 0, 255).astype(np.uint8), format="rgb24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return paths


def darken(path: Path, percent: int, folder: Path) -> Path:
    """Write a photograph with its levels multiplied, as PNG."""
    levels = np.asarray(PIL.Image.open(path).convert("RGB").reduce(2)) * (percent / 100)
    darker = folder / f"{path.stem}-{percent}.png"
    PIL.Image.fromarray(np.round(levels).astype(np.uint8)).save(darker)
    return darker


def keep_pictures(paths: Sequence[Path]) -> Mapping[str, bool]:
    """Whether each picture passes the filter of blank ones, by its file's name."""
    if not paths:
        return {}
    table = api.measure(map(str, paths), ["blank"])
    names = [Path(container).name for container in table["container"].to_pylist()]
    outcomes = api.judge(table, ["blank"])["outcome"].to_pylist()
    return {name: outcome == "kept" for name, outcome in zip(names, outcomes, strict=True)}


Rng = np.random.Generator


def _plain(level: Callable[[Rng], object]) -> Callable[[Rng, tuple[int, int]], NDArray[np.float64]]:
    """A picture of one colour; every second one under sensor noise of up to 1.5 levels."""

    def draw(rng: Rng, size: tuple[int, int]) -> NDArray[np.float64]:
        sigma = float(rng.uniform(0, 1.5)) if rng.random() < 0.5 else 0.0
        return np.zeros((*size, 3)) + level(rng) + rng.normal(0, 1, (*size, 3)) * sigma

    return draw


def _speckle(rng: Rng, size: tuple[int, int]) -> NDArray[np.float64]:
    """Salt and pepper on grey."""
    dice = rng.random((*size, 1))
    density = float(rng.uniform(0.1, 0.5))
    return np.where(dice < density / 2, 0.0, np.where(dice < density, 255.0, 128.0)) + np.zeros(3)


def _coarse(rng: Rng, size: tuple[int, int]) -> NDArray[np.float64]:
    """Noise whose grains are 2 to 6 pixels wide."""
    grain = int(rng.integers(2, 7))
    small = rng.uniform(0, 255, (-(-size[0] // grain), -(-size[1] // grain), 3))
    return small.repeat(grain, axis=0).repeat(grain, axis=1)[: size[0], : size[1]]


def _grainy(rng: Rng, size: tuple[int, int]) -> NDArray[np.float64]:
    """Noise under a blur, as of film."""
    levels = rng.normal(0, 1, (*size, 3))
    spread = float(rng.uniform(20, 60))
    for _ in range(int(rng.integers(1, 4))):
        levels = (levels + np.roll(levels, 1, axis=0) + np.roll(levels, 1, axis=1)) / 3
    return 128 + levels * spread / levels.std()


def _streaked(rng: Rng, size: tuple[int, int]) -> NDArray[np.float64]:
    """Noise whose grains are 2 to 8 pixels wide and one high, as of a disturbed analogue signal."""
    wide = int(rng.integers(2, 9))
    return rng.uniform(0, 255, (size[0], -(-size[1] // wide), 1)).repeat(wide, axis=1)[:, : size[1]] + np.zeros(3)


#: Kind: levels of a picture of a size, float64 (h, w, 3), drawn at random.
DRAWINGS: Mapping[str, Callable[[Rng, tuple[int, int]], NDArray[np.float64]]] = {
    "black": _plain(lambda rng: rng.choice([0, 16])),
    "white": _plain(lambda rng: rng.choice([255, 235])),
    "one_colour": _plain(lambda rng: rng.integers(0, 256, 3)),
    "uniform_noise": lambda rng, size: rng.uniform(0, 255, (*size, 3)),
    "gaussian_noise": lambda rng, size: 128 + rng.normal(0, rng.uniform(10, 60), (*size, 3)),
    "grey_noise": lambda rng, size: 128 + rng.normal(0, rng.uniform(10, 60), (*size, 1)) + np.zeros(3),
    "speckle_noise": _speckle,
    "coarse_noise": _coarse,
    "grainy_noise": _grainy,
    "streaked_noise": _streaked,
}


def draw_picture(kind: str, number: int) -> Picture:
    """uint8 (h, w, 3): sides of 96 to 960 pixels."""
    rng = np.random.default_rng(int(fingerprint(["blank", kind, str(number)])[:16], 16))
    size = int(rng.integers(96, 961)), int(rng.integers(96, 961))
    return np.clip(DRAWINGS[kind](rng, size), 0, 255).astype(np.uint8)


def write_drawn(folder: Path) -> dict[str, str]:
    """Write DRAWN pictures. Returns the kind of each file, by its name."""
    kinds = {}
    for number in range(DRAWN):
        kind = list(DRAWINGS)[number % len(DRAWINGS)]
        buffer, as_png = io.BytesIO(), number // len(DRAWINGS) % 2 == 0
        quality = (95, 75, 40)[number % 3]
        image = PIL.Image.fromarray(draw_picture(kind, number))
        image.save(buffer, "PNG") if as_png else image.save(buffer, "JPEG", quality=quality)
        name = f"{number:03}.{'png' if as_png else 'jpg'}"
        (folder / name).write_bytes(buffer.getvalue())
        kinds[name] = kind
    return kinds
