from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.hashing import file_sha256
from infra.media import decoder
from infra.media.interface import DecodedMedia, MediaRef
from pipelines.core.run import Run
from pipelines.decide.decide import judge_units
from pipelines.measure import unit_measurer
from pipelines.stages import STAGES
from tests import corpus
from tests.tiny import read_json_of, rows


def run_to_measure(run: Run) -> dict[str, int]:
    STAGES["ingest"](run)
    STAGES["measure"](run)
    return dict(read_json_of(run, "work/signals.counters.json"))


def test_nan_from_a_model_is_a_failure_and_no_low_score(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    torch = pytest.importorskip("torch")

    class Broken(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, x):  # type: ignore[no-untyped-def]
            vector = x.mean(dim=(2, 3))
            # Bright pictures break this model.
            return torch.where(x.mean(dim=(1, 2, 3)).unsqueeze(1) > 1.5, vector / 0 - vector / 0, vector)

    weights = tmp_path / "broken.pt"
    torch.jit.script(Broken()).save(str(weights))
    sources = corpus.write_captioned_pictures(tmp_path / "in", [1, 2])
    bright = np.clip(corpus.picture(3).astype(int) // 3 + 170, 0, 255).astype(np.uint8)
    (tmp_path / "in" / "03.jpg").write_bytes(corpus.image_bytes(bright))
    (tmp_path / "in" / "03.txt").write_text(corpus.caption(3))
    engine = {"engine": "sscd", "weights": str(weights), "sha256": file_sha256(weights), "size": 64}
    run = make_run(sources, measure={"fingerprint": engine}, duplicates={"image": {"threshold": 0.99}})
    assert run_to_measure(run)["fingerprint_cells"] == 3
    judge_units(run)
    fates = [(row["outcome"], row["filter"], row["reason"]) for row in rows(run, "work/judged")]
    assert fates[:2] == [("alive", None, None)] * 2
    assert fates[2][:2] == ("failed", "measure") and fates[2][2].startswith("fingerprint: model")


def test_a_timed_out_sample_fails_is_not_stored_and_is_measured_again(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(
        corpus.write_captioned_pictures(tmp_path / "in", [1, 2, 3]),
        filters={"facts": {"min_side": 32}},
        duplicates={"image": {}},
    )
    real = decoder.Decoder.decode

    def slow(self: decoder.Decoder, ref: MediaRef, *rest: Any) -> DecodedMedia:
        return DecodedMedia(error="watchdog: no answer") if ref.uri.endswith("02.jpg") else real(self, ref, *rest)

    monkeypatch.setattr(decoder.Decoder, "decode", slow)
    run_to_measure(run)
    errors = [row["fingerprint.error"] for row in rows(run, "signals")]
    assert errors == [None, "watchdog: no answer", None]
    monkeypatch.undo()
    counters = run_to_measure(run)
    assert counters["decodes"] == counters["fingerprint_cells"] == 1 and counters.get("facts_cells", 0) == 0
    assert [row["fingerprint.error"] for row in rows(run, "signals")] == [None, None, None]
    # A medium's own failure is stored like any measurement.
    (tmp_path / "in" / "03.jpg").write_bytes(b"no image")
    assert run_to_measure(run)["probes"] == 1
    again = make_run(run.config.model_dump(mode="json")["sources"], "again", filters={"facts": {"min_side": 32}},
                     duplicates={"image": {}})  # fmt: skip
    assert run_to_measure(again)["probes"] == 0


def test_results_do_not_depend_on_chunks_or_windows(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = corpus.write_captioned_pictures(tmp_path / "in", list(range(7)))
    how: Mapping[str, Any] = {"filters": {"caption": None, "facts": {"min_side": 32}}, "duplicates": {"image": {}}}
    first = make_run(sources, "one", **how)
    run_to_measure(first)
    monkeypatch.setattr(unit_measurer, "CHUNK_ROWS", 2)
    monkeypatch.setattr(unit_measurer, "PART_BYTES", 1)
    second = make_run(sources, "two", **{**how, "store": str(tmp_path / "other"), "measure": {"window_bytes": 1}})
    counters = run_to_measure(second)
    assert counters["decodes"] == 7
    for path in sorted(Path(first.at("signals")).glob("*.parquet")):
        assert path.read_bytes() == (Path(second.at("signals")) / path.name).read_bytes()
    # Cells that were stored in many parts are found again.
    third = make_run(sources, "third", **{**how, "store": str(tmp_path / "other")})
    assert {name for name, count in run_to_measure(third).items() if name.endswith("_cells") and count} == set()


def test_one_decode_serves_all_images_of_a_sample(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    import json

    corpus.write_captioned_pictures(tmp_path / "in", [1, 2, 3])
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "an answer"}]
    rows_ = [{"id": "x", "image": ["01.jpg", "02.jpg", "03.jpg"], "conversations": turns}]
    (tmp_path / "in" / "rows.json").write_text(json.dumps(rows_))
    sources = [{"name": "m", "path": str(tmp_path / "in"), "modality": "multi_image", "format": "llava",
                "include": "*.json"}]  # fmt: skip
    run = make_run(sources, filters={"facts": {"min_side": 32}}, duplicates={"multi_image": {}})
    counters = run_to_measure(run)
    assert counters["decodes"] == 3 and counters["fingerprint_cells"] == 1
    (row,) = rows(run, "signals")
    assert row["facts.images"] == 3 and row["fingerprint.frames"] == 3
