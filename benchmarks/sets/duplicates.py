"""Truth about copies: pairs of a real picture and a worse copy of it, judged by a whole run; and PDQ's published bits.

Each of COCO's pictures in the corpus is saved once as the better copy and once as a worse one, of a kind that its
number says: without a caption, grey, smaller, more compressed, with a letterbox, with a watermark. Both go through JPEG
at quality 90 unless the kind says otherwise, and a hash says which of them has the smaller key. The share that stays
rightly is of the pairs that the search finds; how many it does not find is a figure of its own. The config reads text
in pictures (`measure.late: [overlay]`), which alone tells a watermarked copy. Bits are compared with `pdqhash`, PDQ's
authors' code, on the pixels that Pillow decodes at their own size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps

from annotators.fingerprint import Fingerprint, measure_chroma
from infra.hashing import fingerprint
from infra.media.decoder import Decoder
from infra.media.interface import MediaRef
from pipelines import api
from pipelines.decide.duplicates.survivors import MIN_CHROMA

Image = PIL.Image.Image

#: Height of one bar of a letterbox, as a share of the picture: more of it changes over 31 bits.
BAR = 0.03


def measure_duplicates(corpus: Path, scratch: Path) -> dict[str, float | int]:
    """survivor_right, survivor_right_KIND, survivor_pairs, survivor_not_found, pdq_max_bits_off, pdq_pictures."""
    pairs = write_pairs(corpus, scratch / "pictures")
    stays = judge_pairs(scratch, pairs)
    found = {pair: right for pair, right in stays.items() if right is not None}
    figures: dict[str, float | int] = {
        "survivor_right": round(sum(found.values()) / max(len(found), 1), 4),
        "survivor_pairs": len(found),
        "survivor_not_found": len(stays) - len(found),
    }
    for kind in KINDS:
        of_kind = [right for pair, right in found.items() if pairs[pair] == kind]
        figures[f"survivor_right_{kind}"] = round(sum(of_kind) / max(len(of_kind), 1), 4)
        figures[f"survivor_{kind}_pairs"] = len(of_kind)
    return figures | measure_bits(corpus)


def _letterbox(picture: Image) -> Image:
    return PIL.ImageOps.expand(picture, (0, round(BAR * picture.height)))


def _watermark(picture: Image) -> Image:
    marked = picture.copy()
    font = PIL.ImageFont.truetype("DejaVuSans-Bold.ttf", picture.height // 12)
    centre = picture.width // 2, picture.height // 2
    draw = PIL.ImageDraw.Draw(marked)
    draw.text(centre, "stockphoto.com", "white", font, anchor="mm", stroke_width=1, stroke_fill="black")
    return marked


#: Kind: the worse copy of a picture, and the quality at which it is saved.
KINDS: Mapping[str, tuple[Callable[[Image], Image], int]] = {
    "uncaptioned": (lambda picture: picture, 95),
    "grey": (lambda picture: picture.convert("L").convert("RGB"), 95),
    "smaller": (lambda picture: picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)), 95),
    "compressed": (lambda picture: picture, 40),
    "letterbox": (_letterbox, 90),
    "watermark": (_watermark, 90),
}


def write_pairs(corpus: Path, folder: Path) -> dict[str, str]:
    """Write a better and a worse copy of each picture. Returns the kind of each pair, by its name."""
    kinds = list(KINDS)
    pairs = {}
    for number, path in enumerate(sorted((corpus / "images").glob("coco_*"))):
        kind = kinds[number % len(kinds)]
        spoil, quality = KINDS[kind]
        picture = PIL.Image.open(path).convert("RGB")
        if kind == "grey" and measure_chroma(np.asarray(picture)) < MIN_CHROMA:
            continue  # grey from the start: no copy of it is better
        pairs[f"{number:03}"] = kind
        for copy, which in zip(_folders(number), ("better", "worse"), strict=True):
            (folder / copy).mkdir(parents=True, exist_ok=True)
            stem = folder / copy / f"{number:03}-{which}"
            shown = picture if which == "better" else spoil(picture)
            shown.save(stem.with_suffix(".jpg"), quality=90 if which == "better" else quality)
            if which == "better" or kind != "uncaptioned":
                stem.with_suffix(".txt").write_text("A photograph of an ordinary scene.", encoding="utf-8")
    return pairs


def _folders(number: int) -> tuple[str, str]:
    """Folders of the better and the worse copy: whether the smaller key is the better one's is drawn by a hash."""
    return ("a", "b") if int(fingerprint(["order", str(number)])[:8], 16) % 2 else ("b", "a")


def judge_pairs(scratch: Path, pairs: Mapping[str, str]) -> dict[str, bool | None]:
    """Whether the better copy of each pair stays and the worse one does not; None where they are not in one group."""
    run = api.run({
        "name": "truth",
        "store": str(scratch / "store"),
        "out": str(scratch / "run"),
        "sources": [{"name": "p", "path": str(scratch / "pictures"), "modality": "image", "captions": "optional"}],
        "measure": {"fingerprint": {}, "late": ["overlay"]},
        "filters": {"facts": {"min_side": 32}},
        "duplicates": {"image": {}},
    })  # fmt: skip
    names, outcomes, twins = {}, {}, {}
    for unit in run.unit_names("verdicts"):
        for sample in run.read("samples", unit, ["key", "container"]).to_pylist():
            names[sample["key"]] = Path(sample["container"]).stem
        for verdict in run.read("verdicts", unit, ["key", "outcome", "duplicate_of"]).to_pylist():
            outcomes[verdict["key"]], twins[verdict["key"]] = verdict["outcome"], verdict["duplicate_of"]
    survivors = {names[key]: names[twin] for key, twin in twins.items() if twin}
    return {pair: _judge(f"{pair}-better", f"{pair}-worse", survivors) for pair in pairs}


def _judge(better: str, worse: str, survivors: Mapping[str, str]) -> bool | None:
    if survivors.get(worse) == better:
        return True
    return False if survivors.get(better) == worse else None


def measure_bits(corpus: Path) -> dict[str, float | int]:
    """pdq_max_bits_off: the most bits in which a picture's fingerprint is not the hash of PDQ's authors' code."""
    import pdqhash

    annotator = Fingerprint()
    worst, compared = 0, 0
    with Decoder() as decoder:
        for path in sorted((corpus / "images").glob("coco_*")):
            media = decoder.decode(MediaRef(str(path), kind="image"), {"fingerprint": annotator.plan}, {})
            if media.error:
                continue
            row = annotator.measure_one({"modality": "image"}, media.frames["fingerprint"])
            bits = np.frombuffer(row["vectors"], "<f2") > 0
            if not len(bits):
                continue  # not searched, see MIN_QUALITY
            upright = PIL.ImageOps.exif_transpose(PIL.Image.open(path)).convert("RGB")
            worst = max(worst, int((bits != (pdqhash.compute(np.asarray(upright))[0] > 0)).sum()))
            compared += 1
    return {"pdq_max_bits_off": worst, "pdq_pictures": compared}
