"""The benchmark of the filters' defaults, over a corpus that the test writes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from benchmarks.sets import defaults
from benchmarks.sets.text import COCO
from tests.benchmarks.sets.test_text import CAPTIONS, write_rows
from tests.corpus import picture


def test_each_filter_is_counted_for_itself(tmp_path: Path) -> None:
    write_rows(tmp_path, COCO, [{"lang": "en", "text": text} for text in [*CAPTIONS[:3], "ok"]])
    (tmp_path / "images").mkdir()
    Image.fromarray(picture(1, 320, 240)).save(tmp_path / "images" / "coco_1.png")
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "black.png")
    figures = defaults.measure_defaults(tmp_path, tmp_path)
    sizes = {name: figures[f"default_{name}_size"] for name in (COCO, "images_photographs", "images_all")}
    assert sizes == {COCO: 4, "images_photographs": 1, "images_all": 2}
    assert figures[f"default_{COCO}_quality_dropped"] == 0.25
    assert (figures["default_images_all_facts_dropped"], figures["default_images_all_blank_dropped"]) == (0.5, 0.5)
    assert figures["default_images_photographs_facts_dropped"] == 0.0
    assert figures["default_clips_ordinary_size"] == 0
