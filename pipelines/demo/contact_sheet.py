"""Draw a picture of a run: for each filter some of the samples that it dropped, with the value that decided.

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

from infra.commit import need_manifest
from infra.hashing import draw_integers
from infra.media.decoder import Decoder, Limits
from infra.media.interface import FramePlan
from pipelines.core.run import Run, open_run
from pipelines.core.sample_media import media_refs, media_root

COLUMNS = 6
TILE = (210, 150)
TEXT = 64
HEADING_WIDTH = 150
#: Rows of the picture: filters (or "kept") and their headings.
HEADINGS = {
    "kept": "Kept",
    "overlay": "Dropped: text burned in",
    "motion": "Dropped: nothing moves",
    "alignment": "Dropped: caption does not match",
    "language": "Dropped: not English",
    "quality": "Dropped: poor caption",
    "duplicates": "Duplicates (left: the one kept)",
}


def main(config: str, target: str) -> None:
    """Write the picture of a finished run."""
    run = open_run(config)
    samples = _read_samples(run)
    width, row_height = HEADING_WIDTH + COLUMNS * (TILE[0] + 6), TILE[1] + TEXT
    rows = {name: selected for name in HEADINGS if (selected := _select(name, samples))}
    sheet = Image.new("RGB", (width, len(rows) * row_height + 6), "white")
    draw = ImageDraw.Draw(sheet)
    face = str(files("matplotlib") / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf")  # has accented letters
    bold, small = ImageFont.truetype(face, 16), ImageFont.truetype(face, 11)
    with Decoder(Limits()) as decoder:
        for line, (name, selected) in enumerate(rows.items()):
            y = line * row_height + 6
            draw.multiline_text((8, y + 40), "\n".join(textwrap.wrap(HEADINGS[name], 16)), fill="black", font=bold)
            for column, sample in enumerate(selected):
                x = HEADING_WIDTH + column * (TILE[0] + 6)
                sheet.paste(_tile(run, decoder, sample), (x, y))
                text = _text(name, sample)
                draw.multiline_text((x + 2, y + TILE[1] + 3), text, fill=(60, 60, 60), font=small, spacing=2)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(200).save(target, optimize=True)


def _read_samples(run: Run) -> list[dict[str, Any]]:
    """Rows of samples and verdicts joined; those with videos or images."""
    rows = []
    for unit in need_manifest(run.out, "verdicts").units:
        tables = run.read("samples", unit.name), run.read("verdicts", unit.name)
        rows += [{**s, **v} for s, v in zip(*(table.to_pylist() for table in tables), strict=True)]
    return [row for row in rows if row["modality"] in ("video", "image") and row["media"]]


def _select(name: str, samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    if name == "duplicates":
        by_key = {sample["key"]: sample for sample in samples}
        copies = [s for s in samples if s["outcome"] == "duplicate" and s["duplicate_of"] in by_key]
        pairs = _draw(copies, COLUMNS // 2)
        return [sample for copy in pairs for sample in (by_key[copy["duplicate_of"]], copy)]
    if name == "kept":
        return _draw([s for s in samples if s["outcome"] == "kept"], COLUMNS)
    return _draw([s for s in samples if s["outcome"] == "dropped" and s["filter"] == name], COLUMNS)


def _draw(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    order = np.argsort(draw_integers(0, [row["key"] for row in rows], "picture"))
    return [rows[i] for i in order[:count]]


def _tile(run: Run, decoder: Decoder, sample: dict[str, Any]) -> Image.Image:
    source = next(s for s in run.config.sources if s.name == sample["source"])
    ref = media_refs(sample, media_root(run, source))[0]
    decoded = decoder.decode(ref, {"picture": FramePlan("middle", 320, "long")}, {})
    tile = Image.new("RGB", TILE, (235, 235, 235))
    if decoded.error is None:
        picture = Image.fromarray(decoded.frames["picture"].pixels[0])
        picture.thumbnail(TILE)
        tile.paste(picture, ((TILE[0] - picture.width) // 2, (TILE[1] - picture.height) // 2))
    return tile


def _text(name: str, sample: dict[str, Any]) -> str:
    lines = textwrap.wrap(sample["text"] or "", 30, max_lines=2, placeholder=" …")
    decided = sample["outcome"] == "duplicate" if name == "duplicates" else name != "kept"
    if decided and sample["value"] is not None:
        lines.append(f"{sample['reason']}: {sample['value']:.4g}, limit {sample['threshold']:.4g}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:3])
