"""Copies of equal bytes, and texts of equal words, against a brute-force grouping of random corpora."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.core.run import Run
from pipelines.stages import STAGES
from tests import corpus
from tests.tiny import rows

#: Ways to write a document that change no word.
DISGUISES: tuple[Callable[[str], str], ...] = (
    str, str.upper, lambda text: text.replace(" ", "  "), lambda text: re.sub(r"[.,]", "", text),
    lambda text: text.replace(" ", "\n", 3),
)  # fmt: skip


def write_media(folder: Path, rng: np.random.Generator) -> None:
    """Forty pictures of fourteen contents that have no fingerprint, half of them with a caption."""
    for number in range(40):
        shade = int(rng.integers(7))
        kind = ("PNG", "JPEG")[int(rng.integers(2))]  # of one look, but not of equal bytes
        path = folder / str(number % 3) / f"{number}.{kind.lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(corpus.image_bytes(np.full((40, 40, 3), 30 * shade, np.uint8), kind))
        if rng.random() < 0.5:
            path.with_suffix(".txt").write_text(corpus.caption(shade))


def write_texts(path: Path, rng: np.random.Generator) -> None:
    """Forty documents of nine contents in several disguises."""
    path.parent.mkdir()
    drawn = zip(rng.integers(9, size=40).tolist(), rng.integers(len(DISGUISES), size=40).tolist(), strict=True)
    path.write_text("".join(json.dumps({"text": DISGUISES[i](corpus.document(n))}) + "\n" for n, i in drawn))


def expect_survivors(samples: list[dict[str, object]], folder: Path) -> dict[str, str]:
    """The key of the survivor of each sample, by comparing everything with everything."""
    groups = defaultdict(list)
    for sample in samples:
        key, text = str(sample["key"]), str(sample["text"] or "")
        if sample["modality"] == "text":
            content: object = tuple(re.findall(r"\w+", text.casefold()))
            groups[content].append((False, key))
        else:
            groups[(folder / str(sample["container"])).read_bytes()].append((not text, key))
    return {key: min(members)[1] for members in groups.values() for _, key in members}


@pytest.mark.parametrize("seed", [1, 2])
def test_equal_bytes_and_equal_words_are_grouped_as_by_brute_force(
    seed: int, tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    rng = np.random.default_rng(seed)
    write_media(tmp_path / "media", rng)
    write_texts(tmp_path / "texts" / "texts.jsonl", rng)
    sources = [
        {"name": "m", "path": str(tmp_path / "media"), "modality": "image", "captions": "optional"},
        {"name": "t", "path": str(tmp_path / "texts"), "modality": "text"},
    ]
    how = {"units": {"target_rows": 7}, "filters": {"facts": {"min_side": 8}}}
    run = make_run(sources, **how, duplicates={"image": {}, "text": {"threshold": None}, "buckets": 3})
    for stage in ("ingest", "measure", "decide"):
        STAGES[stage](run)
    samples = rows(run, "samples")
    expected = expect_survivors(samples, tmp_path / "media")
    assert len(samples) == 80 and 10 < len(set(expected.values())) < 24
    decided = {row["key"]: row["duplicate_of"] or row["key"] for row in rows(run, "verdicts")}
    assert decided == expected
