"""Every stage from end to end, on a corpus of eighty inputs in every format."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apache_beam.runners.portability.fn_api_runner.execution import GroupingBuffer, ListBuffer

from infra.errors import ConfigError
from pipelines import cli, stages
from pipelines.core.run import Run
from pipelines.stages import STAGES
from tests import corpus
from tests.tiny import Tiny, read_json_of, rows

#: Files that checksums.json does not cover: run.json names this machine, and a file cannot contain its own checksum.
NOT_COVERED = {"run.json", "checksums.json"}


def files(run: Run) -> dict[str, bytes]:
    """Every covered file's bytes, by path. Hidden files are temporary: a killed job may leave some beside a run."""
    root = Path(run.out)
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    contents = {str(path.relative_to(root)): path.read_bytes() for path in paths}
    return {name: content for name, content in contents.items()
            if name not in NOT_COVERED and not name.startswith("work/")}  # fmt: skip


def same_bytes(first: Run, second: Run) -> None:
    a, b = files(first), files(second)
    assert sorted(a) == sorted(b)
    assert [name for name in a if a[name] != b[name]] == []


def count_measured(counters: dict[str, int]) -> dict[str, int]:
    return {name: count for name, count in counters.items() if name.endswith("_cells") and count}


def test_checksums_name_every_file_and_are_right(cold: Run) -> None:
    assert {name: hashlib.sha256(content).hexdigest() for name, content in files(cold).items()} == read_json_of(
        cold, "checksums.json"
    )


def test_each_medium_is_decoded_once_and_those_that_failed_on_text_or_header_never(cold: Run) -> None:
    outcomes = [(v["filter"], v["outcome"]) for v in rows(cold, "verdicts") if v["modality"] != "text"]
    before_pixels = Counter(o for o in outcomes if o[0] in ("ingest", "caption", "language", "quality", "measure"))
    counters = read_json_of(cold, "work/signals.counters.json")
    assert before_pixels[("quality", "dropped")] == 2  # a clip and an image
    assert before_pixels[("measure", "failed")] == 3  # their headers do not open
    assert counters["decodes"] == len(outcomes) - sum(before_pixels.values()) == 21
    assert counters["fingerprint_cells"] == 20  # all of these but the still clip
    assert counters["motion_cells"] == 5
    # The header is read apart from the pixels, once for each medium that came so far.
    assert counters["probes"] == counters["decodes"] + before_pixels[("measure", "failed")]


def test_every_input_is_accounted_for(cold: Run) -> None:
    ledger = read_json_of(cold, "ledger.json")
    for entry in ledger.values():
        out = entry["kept"] + entry["duplicates"] + sum(entry["dropped"].values()) + sum(entry["failed"].values())
        assert entry["inputs"] == out
    assert ledger["all"]["inputs"] == len(rows(cold, "samples")) == len(rows(cold, "verdicts")) == 79
    assert {m: ledger[m]["inputs"] for m in ("image", "video", "text")} == {"image": 31, "video": 7, "text": 41}
    assert ledger["all"]["ignored"] == 1
    accounts = read_json_of(cold, "samples/_members.json").values()
    reasons = [reason for account in accounts for reason in account["ignored"]]
    readme = Path(cold.at("README.md")).read_text("utf-8")
    assert len(reasons) == 1 and "no input" in readme and reasons[0] in readme
    total = Counter(_flat(ledger["all"]["unsharded"]))
    for path in Path(cold.at("shards")).glob("*.card.json"):
        total.update(_flat(json.loads(path.read_bytes())["ledger"]))
    expected = _flat({k: v for k, v in ledger["all"].items() if k not in ("unsharded", "ignored")})
    assert {k: v for k, v in total.items() if v} == {k: v for k, v in expected.items() if v}


def _flat(ledger: dict[str, Any]) -> dict[str, int]:
    counts = {}
    for name, entry in ledger.items():
        if isinstance(entry, dict):
            counts.update({f"{name}.{key}": count for key, count in entry.items()})
        elif name != "ignored":
            counts[name] = entry
    return counts


FATES = {
    ("photos", "copy.jpg", ""): ("duplicate", "duplicates", "copy_of_image"),
    ("photos", "shouted.jpg", ""): ("dropped", "quality", "shouted"),
    ("photos", "silent.jpg", ""): ("dropped", "caption", "no_caption"),
    ("photos", "orphan.txt", ""): ("failed", "ingest", "orphan caption"),
    ("photos", "broken.jpg", ""): ("failed", "measure", "facts: decode"),
    ("photos", "empty.jpg", ""): ("failed", "measure", "facts: empty"),
    ("captioned", "captions.jsonl", "gone.jpg"): ("failed", "ingest", "orphan caption"),
    ("archive", "good.tar", "../../evil.jpg"): ("failed", "ingest", "hostile member"),
    ("archive", "good.tar", "/abs.jpg"): ("failed", "ingest", "hostile member"),
    ("archive", "good.tar", "link.jpg"): ("failed", "ingest", "hostile member"),
    ("archive", "good.tar", "lonely.txt"): ("failed", "ingest", "orphan caption"),
    ("archive", "torn.tar", ""): ("failed", "ingest", "unreadable archive"),
    ("llava", "llava.json", "x/1@row=1"): ("failed", "ingest", "duplicate member"),
    ("llava", "llava.json", "missing"): ("failed", "ingest", "missing medium"),
    ("llava", "llava.json", "hostile"): ("failed", "ingest", "hostile path"),
    ("clips", "still.mp4", ""): ("dropped", "motion", "static"),
    ("clips", "silent.mp4", ""): ("dropped", "quality", "too_short"),
    ("clips", "torn.mp4", ""): ("failed", "measure", "facts: decode"),
    ("texts", "texts.jsonl", "t/0@row=36"): ("failed", "ingest", "duplicate member"),
    ("texts", "texts.jsonl", "row=39"): ("failed", "ingest", "broken row"),
    ("texts", "texts.jsonl", "short"): ("dropped", "quality", "too_short"),
}


def test_every_planted_fault_has_its_outcome_and_all_other_samples_are_kept_or_resampled(cold: Run) -> None:
    fates = {}
    for sample, verdict in zip(rows(cold, "samples"), rows(cold, "verdicts"), strict=True):
        assert sample["key"] == verdict["key"]
        location = (sample["source"], sample["container"], sample["position"])
        fates[location] = (verdict["outcome"], verdict["filter"], verdict["reason"])
    again = fates.pop(("archive", "good.tar", next(p for _, _, p in fates if p.startswith("00030.jpg@"))))
    assert again[1:] == ("ingest", "duplicate member: the name stands in this archive twice")
    copies = {fates.pop(("texts", "texts.jsonl", name))[0] for name in ("t/5", "again")}
    assert copies == {"kept", "duplicate"}
    for location, (outcome, name, reason) in FATES.items():
        assert fates[location][:2] == (outcome, name), location
        assert fates.pop(location)[2].startswith(reason), location
    rest = Counter(fate[:2] for fate in fates.values())
    assert set(rest) <= {("kept", None), ("dropped", "resample")}
    assert rest[("kept", None)] == read_json_of(cold, "ledger.json")["all"]["kept"] - 1  # one of the two copied texts


def test_odd_names_and_captions_are_kept_as_they_are_and_shown_clean(cold: Run) -> None:
    samples = {s["container"]: s for s in rows(cold, "samples") if s["source"] == "photos"}
    assert {"two.with.dots.jpg", "a/same.jpg", "a/b/same.jpg", "картинки/снимок №1.jpg"} <= set(samples)
    raw = samples["control.jpg"]["text"]
    assert "\x00" in raw and "<|im_start|>" in raw and raw.endswith("beach at noon.")
    assert json.loads(samples["copy.jpg"]["extra"])["note"] == "lone \ufffd"
    signal_of = dict(zip((s["key"] for s in rows(cold, "samples")), rows(cold, "signals"), strict=True))
    clean = signal_of[samples["control.jpg"]["key"]]["clean.text"]
    assert clean.isprintable()
    for name, content in shards(cold).items():
        if name.endswith(".txt") or name.endswith(".json"):
            assert b"<|im_start|>" not in content and b"\x00" not in content and b"\x1b" not in content


def shards(run: Run) -> dict[str, bytes]:
    """Every member of every shard."""
    contents = {}
    for path in sorted(Path(run.at("shards")).glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                assert info.isreg() and info.mtime == 0 and info.uid == 0 and info.uname == ""
                assert info.name not in contents
                contents[info.name] = tar.extractfile(info).read()  # type: ignore[union-attr]
    return contents


def test_shards_hold_exactly_what_was_kept_with_the_very_bytes_of_the_source(cold: Run, tiny: Tiny) -> None:
    members = shards(cold)
    kept = {v["key"]: s for s, v in zip(rows(cold, "samples"), rows(cold, "verdicts"), strict=True)
            if v["outcome"] == "kept"}  # fmt: skip
    assert {name.split(".")[0] for name in members} == set(kept)
    assert all(name.count(".") == 1 for name in members)
    for key, sample in kept.items():
        record = json.loads(members[f"{key}.json"])
        assert record["id"] == key and record["conversations"] and record["licence"]
        for medium in sample["media"]:
            root = tiny.root / sample["source"]
            content = (root / medium["uri"]).read_bytes()[medium["offset"] :]
            content = content if medium["length"] < 0 else content[: medium["length"]]
            suffix = "mp4" if sample["modality"] == "video" else "png" if content[:4] == b"\x89PNG" else "jpg"
            assert members[f"{key}.{suffix}"] == content
    licences = {json.loads(members[f"{k}.json"])["licence"] for k, s in kept.items() if s["source"] == "captioned"}
    assert licences <= {"CC-BY-4.0"}


def test_members_index_finds_every_member_by_byte_range(cold: Run) -> None:
    contents = shards(cold)
    index = rows(cold, "members")
    assert sum(len(row["members"]) for row in index) == len(contents)
    for row in index:
        tar = Path(cold.at("shards", f"{row['shard']}.tar")).read_bytes()
        for member in row["members"]:
            assert tar[member["offset"] : member["offset"] + member["size"]] == contents[member["name"]]
        with tarfile.open(fileobj=io.BytesIO(tar[row["offset"] : row["offset"] + row["size"]])) as sample_tar:
            assert sample_tar.getnames() == [member["name"] for member in row["members"]]
        assert row["bytes"] == sum(member["size"] for member in row["members"])


def test_cards_say_what_the_tars_are(cold: Run) -> None:
    index = rows(cold, "members")
    for path in Path(cold.at("shards")).glob("*.tar"):
        card = json.loads(path.with_suffix(".card.json").read_bytes())
        members = [row for row in index if row["shard"] == path.stem]
        assert card["tar"] == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
        assert card["samples"] == len(members) == card["ledger"]["kept"] <= 6
        assert card["tokens"] == sum(row["tokens"] for row in members)
        assert card["sources"] == Counter(row["source"] for row in members)
        assert [row["key"] for row in members] == sorted(row["key"] for row in members)


def test_plain_webdataset_reads_the_shards(cold: Run) -> None:
    import webdataset

    for modality, suffix in (("image", "jpg"), ("video", "mp4"), ("text", "json")):
        paths = sorted(str(path) for path in Path(cold.at("shards")).glob(f"{modality}-*.tar"))
        assert paths, modality
        samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
        expected_keys = [row["key"] for row in rows(cold, "members") if row["modality"] == modality]
        assert [sample["__key__"] for sample in samples] == expected_keys
        assert any(suffix in sample for sample in samples)
        for sample in samples:
            assert json.loads(sample["json"])["id"] == sample["__key__"]
            assert sample["txt"]


def test_hugging_face_reads_the_shards(cold: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    import datasets

    for modality in ("image", "video", "text"):
        series: dict[tuple[str, ...], list[str]] = {}
        for path in sorted(Path(cold.at("shards")).glob(f"{modality}-*.card.json")):
            card = json.loads(path.read_bytes())
            tar = str(path).replace(".card.json", ".tar")
            series.setdefault(tuple(card["suffixes"]), []).append(tar)
        assert series
        for suffixes, paths in series.items():
            if "png" in suffixes:  # the same again
                continue
            dataset = datasets.load_dataset("webdataset", data_files=paths, split="train", cache_dir=str(tmp_path))
            if modality == "video":
                dataset = dataset.cast_column("mp4", datasets.Video(decode=False))
            samples = list(dataset)
            expected_keys = [
                row["key"] for row in rows(cold, "members") if f"{Path(cold.at('shards', row['shard']))}.tar" in paths
            ]
            assert [sample["__key__"] for sample in samples] == expected_keys
            assert all(sample["json"]["id"] == sample["__key__"] for sample in samples)
            if modality == "image":
                assert samples[0]["jpg"].size == (160, 120)


# -- again ------------------------------------------------------------------------------------------------------


def test_a_second_run_measures_nothing_and_writes_the_same_bytes(cold: Run, tiny: Tiny) -> None:
    again = tiny.run("again")
    counters = read_json_of(again, "work/signals.counters.json")
    assert counters["samples"] == 79
    assert count_measured(counters) == {} and counters["decodes"] == 0 and counters["probes"] == 0
    same_bytes(cold, again)


def test_a_loosened_threshold_measures_only_the_newly_admitted(cold: Run, tiny: Tiny) -> None:
    quality = {"min_words": 1, "min_chars": 1, "max_shouted": None, "document": {"min_words": 10}}
    filters = {"caption": None, "language": None, "quality": quality, "facts": {"min_side": 32},
               "motion": {"min_score": 0.005}}  # fmt: skip
    run = tiny.open("loose", filters=filters)
    STAGES["ingest"](run)
    STAGES["measure"](run)
    counters = read_json_of(run, "work/signals.counters.json")
    # A shouted image and a clip called "hm" come further; nothing else is looked at.
    assert counters["decodes"] == counters["probes"] == 2
    assert count_measured(counters) == {"facts_cells": 2, "fingerprint_cells": 2, "motion_cells": 1, "ngrams_cells": 2}


def test_a_finished_run_is_not_made_into_another(
    cold: Run, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(cold)
    with pytest.raises(ConfigError, match="finished run of another config") as caught:
        tiny.open("cold", seed=4)
    assert caught.value.exit_code == 2 and "--out NEW" in str(caught.value)
    monkeypatch.setattr(sys, "argv", ["reelmill", "run", str(tiny.folder / "cold.yaml")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "--replace" in capsys.readouterr().err
    assert files(cold) == before
    replaced = stages.open_for_work(
        str(tiny.folder / "cold.yaml"), out=None, replace=True, runner=cold.runner, quiet=True
    )
    assert replaced.config.seed == 4
    tiny.open("cold")  # the first config is as welcome as before


def test_two_workers_write_the_same_bytes_and_no_medium_passes_through_beam(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every job starts its workers anew, so this is done with as few jobs as show all kinds of them.
    sources = [source for source in corpus.config(tiny.root, tiny.store, tiny.folder)["sources"]
               if source["name"] in ("photos", "clips")]  # fmt: skip
    changes = {"sources": sources, "duplicates": {"image": {}}, "resample": None, "measure": {}}
    passed: list[bytes] = []

    def seen(append: Callable[[Any, bytes], None]) -> Callable[[Any, bytes], None]:
        def also(self: Any, elements: bytes) -> None:
            passed.append(elements)
            append(self, elements)

        return also

    with monkeypatch.context() as patch:  # all that goes from one of Beam's stages to the next, in this process
        for buffer in (ListBuffer, GroupingBuffer):
            patch.setattr(buffer, "append", seen(buffer.append))
        single = tiny.run("one", store=tiny.folder / "store-one", **changes)
    passed_bytes = b"".join(passed)
    assert b"u000000" in passed_bytes and max(map(len, passed)) < 4096
    for sample in rows(single, "samples"):
        for medium in sample["media"]:
            content = (tiny.root / sample["source"] / medium["uri"]).read_bytes()
            assert len(content) == 0 or content[len(content) // 2 :][:24] not in passed_bytes
        assert sample["text"] is None or sample["text"].encode() not in passed_bytes
    parallel = tiny.run("two", store=tiny.folder / "store-two", workers=2, **changes)
    assert read_json_of(parallel, "work/signals.counters.json")["decodes"] > 5
    same_bytes(single, parallel)


def test_killed_again_and_again_it_ends_with_the_same_bytes(cold: Run, tiny: Tiny) -> None:
    run = tiny.open("killed", store=tiny.folder / "store-killed")
    for stage, count in (("signals", 4), ("verdicts", 3), ("members", 2)):
        _kill_when(tiny.folder / "killed.yaml", Path(run.at(stage)), count)
    stages.run_all(run)
    same_bytes(cold, run)


def _kill_when(config: Path, folder: Path, count: int) -> None:
    """Start the job and kill it, and what it started, once `folder` holds so many committed tables."""
    command = [sys.executable, "-m", "pipelines.cli", "run", str(config), "--json"]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while len(list(folder.glob("[!.]*.parquet"))) < count:
            assert job.poll() is None, "the job ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    assert not (folder / "_manifest.json").exists()


def test_a_new_file_disturbs_one_unit_whose_cells_are_borrowed(tiny: Tiny, cold: Run, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    shutil.copytree(tiny.root / "photos", root)
    shutil.copy(tiny.root / "archive" / "good.tar", root / "x.bin")
    (root / "zz.jpg").write_bytes((tiny.root / "captioned" / "20.jpg").read_bytes() + b"\0")
    (root / "zz.txt").write_text("A new picture of the harbour at night.")
    sources = [{"name": "photos", "path": str(root), "modality": "image", "licence": "CC-BY-SA-4.0"}]
    run = tiny.open("added", sources=sources)
    STAGES["ingest"](run)
    units = [unit.stem for unit in sorted(Path(cold.at("samples")).glob("*.parquet"))]
    photo_units = [name for name in units if rows_of(cold, name)[0]["source"] == "photos"]
    changed = [name for name in photo_units if rows_of(cold, name) != rows_of(run, name)]
    assert len(photo_units) > 1 and len(changed) == 1
    STAGES["measure"](run)
    counters = read_json_of(run, "work/signals.counters.json")
    assert counters["decodes"] == counters["probes"] == 1
    names = ("clean", "language", "quality", "facts", "fingerprint", "ngrams")
    assert count_measured(counters) == {f"{name}_cells": 1 for name in names}


def rows_of(run: Run, unit: str) -> list[dict[str, Any]]:
    from infra import tables

    return list(tables.read(run.at("samples", f"{unit}.parquet")).to_pylist())
