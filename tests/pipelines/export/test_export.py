from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from infra.errors import StageError
from pipelines import stages
from pipelines.core.run import Run
from pipelines.export import samples
from tests import corpus
from tests.tiny import read_json_of, rows


def test_a_medium_changed_after_ingest_stops_export_until_ingested_again(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run(corpus.write_captioned_pictures(tmp_path / "in", range(4)), filters={"caption": None})
    for name in ("ingest", "measure", "decide"):
        stages.STAGES[name](run)
    path = tmp_path / "in" / "02.jpg"
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"\0")
    with pytest.raises(StageError, match="not what it was at ingest") as caught:
        stages.STAGES["export"](run)
    assert caught.value.where.endswith("02.jpg") and "reelmill run" in caught.value.hint
    assert not list(Path(run.at("shards")).glob("*")) and not Path(run.at("members", "_manifest.json")).exists()
    stages.run_all(run)
    assert read_json_of(run, "ledger.json")["all"]["kept"] == 4


def test_the_forecast_size_of_a_sample_is_its_size_in_the_shard(cold: Run) -> None:
    index = {row["key"]: row for row in rows(cold, "members")}
    checked = 0
    for path in sorted(Path(cold.at("samples")).glob("*.parquet")):
        from infra import tables

        keys = tables.read(str(path), ["key"])["key"].to_pylist()
        exported = [i for i, key in enumerate(keys) if key in index]
        if exported:
            previews = samples.preview_samples(cold, path.stem, exported)
            assert previews == [(index[keys[i]]["bytes"], index[keys[i]]["tokens"]) for i in exported]
            checked += len(exported)
    assert checked == len(index)


def test_a_lost_shard_is_written_again_byte_for_byte(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(
        corpus.write_captioned_pictures(tmp_path / "in", range(5)),
        filters={"caption": None},
        export={"shard_samples": 2},
    )
    stages.run_all(run)
    before = {path.name: path.read_bytes() for path in Path(run.at("shards")).iterdir()}
    assert len(before) == 6
    Path(run.at("shards", "image-000001.tar")).unlink()
    Path(run.at("shards", "image-000002.card.json")).unlink()
    stages.run_all(run)
    assert {path.name: path.read_bytes() for path in Path(run.at("shards")).iterdir()} == before
    assert read_json_of(run, "work/export.counters.json")["shards_kept"] == 1


def test_a_smaller_run_keeps_no_old_shard_in_the_checksums(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(
        corpus.write_captioned_pictures(tmp_path / "in", range(5)),
        filters={"caption": None},
        export={"shard_samples": 2},
    )
    stages.run_all(run)
    for number in (2, 3, 4):
        (tmp_path / "in" / f"{number:02d}.jpg").unlink()
        (tmp_path / "in" / f"{number:02d}.txt").unlink()
    stages.run_all(run)
    covered = read_json_of(run, "checksums.json")
    left_out = ("run.json", "checksums.json")
    files = [path for path in Path(run.out).rglob("*") if path.is_file() and path.name not in left_out]
    on_disk = {str(path.relative_to(run.out)) for path in files if "work" not in path.parts}
    assert {name for name in covered if name.startswith("shards/")} == {
        "shards/image-000000.tar",
        "shards/image-000000.card.json",
    }
    assert on_disk == set(covered)


def test_text_in_the_picture_is_joined_as_configured(make_run: Callable[..., Run]) -> None:
    sources = [{"name": "a", "path": ".", "modality": "image"}]
    signals = pa.table({"clean.text": ["A sign.", "A wall.", None, "<|im_end|>A door."],
                        "overlay.text": ["STOP  <|im_start|>now", None, "EXIT ONLY", "x"]})  # fmt: skip
    plain = make_run(sources, "plain")
    assert samples.build_captions(plain, signals) == ["A sign.", "A wall.", "", "A door."]
    joined = make_run(
        sources, "joined", export={"ocr": {"join": True, "min_words": 2, "template": "{caption} [{text}]"}}
    )
    assert samples.build_captions(joined, signals) == ["A sign. [STOP now]", "A wall.", " [EXIT ONLY]", "A door."]


def test_samples_of_several_images_have_a_series_for_each_count(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    corpus.write_captioned_pictures(tmp_path / "in", range(4))
    answer = {"from": "gpt", "value": "One is large."}
    named = [["00.jpg", "01.jpg"], ["02.jpg", "03.jpg", "00.jpg"], ["01.jpg", "02.jpg"]]
    questions = [{"from": "human", "value": "<image>" * len(names) + "\nCompare the boats."} for names in named]
    rows = [{"image": names, "conversations": [q, answer]} for names, q in zip(named, questions, strict=True)]
    (tmp_path / "in" / "rows.json").write_text(json.dumps(rows))
    run = make_run([{"name": "m", "path": str(tmp_path / "in"), "modality": "multi_image", "format": "llava",
                     "include": "*.json"}])  # fmt: skip
    stages.run_all(run)
    suffixes = {}
    for path in sorted(Path(run.at("shards")).glob("*.tar")):
        with tarfile.open(path) as tar:
            suffixes[path.stem] = {name.split(".", 1)[1] for name in tar.getnames()}
            for info in tar:
                if info.name.endswith(".json"):
                    record = json.loads(tar.extractfile(info).read())  # type: ignore[union-attr]
                    assert record["conversations"][0]["value"].count("<image>") == len(record["sha256"])
    assert suffixes == {
        "multi_image-000000": {"0.jpg", "1.jpg", "2.jpg", "json", "txt"},  # series are numbered in sorted order
        "multi_image-000001": {"0.jpg", "1.jpg", "json", "txt"},
    }


def test_a_run_that_keeps_no_sample_is_exported(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(corpus.write_captioned_pictures(tmp_path / "in", range(2)), filters={"facts": {"min_side": 5000}})
    stages.run_all(run)
    ledger = read_json_of(run, "ledger.json")["all"]
    assert ledger["dropped"] == {"facts": 2} == ledger["unsharded"]["dropped"]
    assert not list(Path(run.at("shards")).glob("*.tar")) and stages.summarize_run(run)["shards"] == []
