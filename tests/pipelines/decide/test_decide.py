from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from infra.hashing import draw_fractions
from pipelines.core.run import Run
from pipelines.stages import STAGES
from tests import corpus
from tests.tiny import read_json_of, rows


@pytest.fixture
def texts(tmp_path: Path) -> list[dict[str, str]]:
    (tmp_path / "in").mkdir()
    lines = [json.dumps({"text": corpus.document(number)}) for number in range(30)]
    (tmp_path / "in" / "a.jsonl").write_text("\n".join(lines))
    return [{"name": "t", "path": str(tmp_path / "in"), "modality": "text"}]


def run_to_decide(run: Run) -> Run:
    for name in ("ingest", "measure", "decide"):
        STAGES[name](run)
    return run


def test_resampling_equals_the_formula_computed_by_hand(cold: Run) -> None:
    """Frequencies and chances worked out again by hand, from captions and the vocabulary."""
    verdicts, signals = rows(cold, "verdicts"), rows(cold, "signals")
    pool = [(v, s) for v, s in zip(verdicts, signals, strict=True)
            if v["modality"] == "image" and (v["outcome"] == "kept" or v["filter"] == "resample")]  # fmt: skip
    assert len(pool) > 10
    frequency = Counter(entry for _, s in pool for entry in set(s["ngrams.ids"]))
    for verdict, signal in pool:
        chances = [min(1.0, math.sqrt(1 / frequency[entry])) for entry in set(signal["ngrams.ids"])]
        chance = 1 - math.prod(1 - p for p in chances) if chances else 1.0
        assert verdict["keep_probability"] == pytest.approx(chance, abs=1e-9)
        draw = draw_fractions(3, [verdict["key"]], "resample")[0]
        assert (verdict["outcome"] == "kept") == (draw < verdict["keep_probability"])
    others = [v for v in verdicts if v["modality"] != "image"]
    assert all(v["keep_probability"] is None for v in others)
    facts = read_json_of(cold, "resample/image.json")
    assert facts["t"] == 1 and facts["texts"] == len(pool)


def test_decide_again_changes_nothing_and_a_setting_changes_only_what_it_must(
    texts: list[dict[str, str]], make_run: Callable[..., Run]
) -> None:
    filters = {"quality": {"document": {"min_words": 10}}}
    run = run_to_decide(make_run(texts, filters=filters, units={"target_rows": 4}))
    before = {path: path.stat().st_mtime_ns for path in Path(run.at("verdicts")).glob("*.parquet")}
    assert len(before) > 2
    STAGES["decide"](run)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    strict = {"quality": {"document": {"min_words": 10_000}}}
    run_to_decide(make_run(texts, filters=strict, units={"target_rows": 4}))
    assert read_json_of(run, "ledger.json")["text"]["dropped"] == {"quality": 30}


def test_a_row_that_was_never_measured_stops_decide_with_a_hint(
    texts: list[dict[str, str]], make_run: Callable[..., Run]
) -> None:
    from infra.errors import StageError

    run = make_run(texts, filters={"quality": {"document": {"min_words": 10_000}}})
    with pytest.raises(StageError, match="reelmill ingest"):
        STAGES["decide"](run)
    STAGES["ingest"](run)
    with pytest.raises(StageError, match="reelmill measure"):
        STAGES["decide"](run)
    STAGES["measure"](run)
    # The cascade of these signals stopped at quality; another config's questions were never asked.
    loose = make_run(texts, filters={"quality": {"document": {"min_words": 1}}, "language": None})
    with pytest.raises((StageError, KeyError)):
        STAGES["decide"](loose)


def test_shares_become_cutoffs_over_all_rows(make_run: Callable[..., Run], tmp_path: Path) -> None:
    from pipelines.core.cascade import apply_cutoffs
    from pipelines.core.resolve import resolve

    (tmp_path / "v").mkdir()
    for number, speed in enumerate((0, 1, 2, 4)):
        corpus.write_clip(tmp_path / "v" / f"{number}.mp4", number, frames=8, speed=speed)
    sources = [{"name": "v", "path": str(tmp_path / "v"), "modality": "video", "captions": "optional"}]
    from filters.motion import MotionThresholds

    if "keep_top" not in MotionThresholds.model_fields:
        pytest.skip("motion has no share")
    run = run_to_decide(make_run(sources, filters={"motion": {"keep_top": 0.5}}))
    scores = [row["motion.score"] for row in rows(run, "signals")]
    kept = [row["outcome"] == "kept" for row in rows(run, "verdicts")]
    assert kept == [score >= np.sort(scores)[2] for score in scores]
    assert apply_cutoffs(resolve(run), {}) is resolve(run)
