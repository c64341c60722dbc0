"""A picture of a run: for each filter some of what it dropped, with the value that decided.

python -m pipelines.demo.contact_sheet demo/config.yaml docs/images/demo.png
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from infra import tables
from infra.commit import need_manifest
from infra.hashing import draw_integers
from infra.media.decoder import Decoder, Limits
from infra.media.interface import FramePlan, MediaRef
from infra.storage import join
from pipelines.core.run import Run, open_run
from pipelines.core.sample_media import source_root

COLUMNS = 6
TILE = (210, 150)
TEXT = 64
LEFT = 150
ROWS = ("kept", "overlay", "motion", "alignment", "language", "quality", "duplicates")
WORDS = {
    "kept": "Kept",
    "overlay": "Dropped: text burned in",
    "motion": "Dropped: nothing moves",
    "alignment": "Dropped: caption of something else",
    "language": "Dropped: not English",
    "quality": "Dropped: poor caption",
    "duplicates": "Duplicates (left: the one kept)",
}


def main(config: str, target: str) -> None:
    """Write the picture of a finished run."""
    run = open_run(config)
    samples = _samples(run)
    by_key = {sample["key"]: sample for sample in samples}
    width, row_height = LEFT + COLUMNS * (TILE[0] + 6), TILE[1] + TEXT
    chosen = {name: _chosen(name, samples, by_key) for name in ROWS}
    shown = [name for name in ROWS if chosen[name]]
    sheet = Image.new("RGB", (width, len(shown) * row_height + 6), "white")
    draw = ImageDraw.Draw(sheet)
    face = str(files("matplotlib") / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")  # has the accents
    bold, small = ImageFont.truetype(face, 16), ImageFont.truetype(face, 11)
    with Decoder(Limits()) as door:
        for line, name in enumerate(shown):
            top = line * row_height + 6
            draw.multiline_text((8, top + 40), "\n".join(textwrap.wrap(WORDS[name], 16)), fill="black", font=bold)
            for column, sample in enumerate(chosen[name]):
                left = LEFT + column * (TILE[0] + 6)
                sheet.paste(_tile(run, door, sample), (left, top))
                text = _words(name, sample)
                draw.multiline_text((left + 2, top + TILE[1] + 3), text, fill=(60, 60, 60), font=small, spacing=2)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(200).save(target, optimize=True)


def _samples(run: Run) -> list[dict[str, Any]]:
    rows = []
    for unit in need_manifest(run.out, "verdicts").units:
        verdicts = tables.read(run.at("verdicts", f"{unit.name}.parquet")).to_pylist()
        found = tables.read(run.at("samples", f"{unit.name}.parquet")).to_pylist()
        rows += [{**sample, **verdict} for sample, verdict in zip(found, verdicts, strict=True)]
    return [row for row in rows if row["modality"] in ("video", "image") and row["media"]]


def _chosen(name: str, samples: Sequence[dict[str, Any]], by_key: dict[str, Any]) -> list[dict[str, Any]]:
    if name == "duplicates":
        copies = [s for s in samples if s["outcome"] == "duplicate" and s["duplicate_of"] in by_key]
        pairs = _some(copies, COLUMNS // 2)
        return [sample for copy in pairs for sample in (by_key[copy["duplicate_of"]], copy)]
    if name == "kept":
        return _some([s for s in samples if s["outcome"] == "kept"], COLUMNS)
    return _some([s for s in samples if s["outcome"] == "dropped" and s["filter"] == name], COLUMNS)


def _some(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    order = np.argsort(draw_integers(0, [row["key"] for row in rows], "picture"))
    return [rows[i] for i in order[:count]]


def _tile(run: Run, door: Decoder, sample: dict[str, Any]) -> Image.Image:
    source = next(s for s in run.config.sources if s.name == sample["source"])
    medium = sample["media"][0]
    kind = "video" if sample["modality"] == "video" else "image"
    ref = MediaRef(join(source_root(source), medium["uri"]), medium["offset"], medium["length"], kind=kind)  # type: ignore[arg-type]
    decoded = door.decode(ref, {"picture": FramePlan("middle", 320, "long")}, {})
    tile = Image.new("RGB", TILE, (235, 235, 235))
    if decoded.error is None:
        picture = Image.fromarray(decoded.frames["picture"].pixels[0])
        picture.thumbnail(TILE)
        tile.paste(picture, ((TILE[0] - picture.width) // 2, (TILE[1] - picture.height) // 2))
    return tile


def _words(name: str, sample: dict[str, Any]) -> str:
    caption = textwrap.shorten(sample["text"] or "", 62, placeholder="…")
    lines = textwrap.wrap(caption, 30)[:2]
    decided = sample["outcome"] == "duplicate" if name == "duplicates" else name != "kept"
    if decided and sample["value"] is not None:
        lines.append(f"{sample['reason']}: {sample['value']:.4g} against {sample['threshold']:.4g}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:3])
