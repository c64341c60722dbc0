"""croissant.json: valid for mlcroissant and for our own schema, and its records really come out of the tars."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mixtures.cards import croissant, schemas
from pipelines.core.run import Run
from tests.tiny import rows

#: mlcroissant takes its cache's place from the environment when it is imported, and keys it by relative address only.
READ = """
import json, sys, mlcroissant
dataset = mlcroissant.Dataset(sys.argv[1])
context = dataset.metadata.ctx
found = {"issues": context.issues.report(), "records": {}, "version": context.conforms_to.value}
for name in sys.argv[2:]:
    records = []
    for record in dataset.records(name):
        records.append({k.rsplit("/", 1)[-1]: v.decode("utf-8", "replace") if isinstance(v, bytes) else
                        [v.format, list(v.size)] if hasattr(v, "size") else v for k, v in record.items()})
    found["records"][name] = records
print(json.dumps(found))
"""


def read(folder: Path, cache: Path, *names: str) -> dict[str, Any]:
    """Read with mlcroissant a folder's croissant.json, in a process whose cache is empty."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(folder / "croissant.json"), *names],
        env={**os.environ, "CROISSANT_CACHE": str(cache)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


def read_croissant(run: Run) -> dict[str, Any]:
    return dict(json.loads(Path(run.at("croissant.json")).read_bytes()))


def test_records_are_read_through_mlcroissant(cold: Run, tmp_path: Path) -> None:
    pytest.importorskip("mlcroissant")
    document = read_croissant(cold)
    sets = [entry["@id"] for entry in document["recordSet"]]
    record_sets = ["samples", *[name for name in sets if name.startswith("text_") and name.endswith(".json")][:1],
              *[name for name in sets if name.startswith("image_jpg") and name.endswith((".jpg", ".txt"))]]  # fmt: skip
    answer = read(Path(cold.out), tmp_path, *record_sets)
    assert answer["version"] == croissant.CONFORMS[0]
    assert "error" not in answer["issues"]
    members = rows(cold, "members")
    by_key = {row["key"]: row for row in members}
    samples = answer["records"]["samples"]
    assert len(samples) == len(members)
    for record in samples:
        assert record == {name: by_key[record["key"]][name] for name, _, _ in croissant.COLUMNS}
    texts = answer["records"][record_sets[1]]
    assert {record["key"] for record in texts} == {row["key"] for row in members if row["modality"] == "text"}
    assert all(json.loads(record["content"])["id"] == record["key"] for record in texts)
    pictures = next(answer["records"][name] for name in record_sets if name.endswith(".jpg"))
    assert pictures and all(record["content"][0] == "JPEG" for record in pictures)


def test_croissant_matches_its_schema_and_describes_every_filter(cold: Run) -> None:
    document = read_croissant(cold)
    assert schemas.find_errors("croissant", document) == []
    protocol = document["rai:dataPreprocessingProtocol"]
    for name in cold.config.filters:
        assert any(line.startswith(f"Filter {name}: ") for line in protocol)
    ledger = json.loads(Path(cold.at("ledger.json")).read_bytes())["all"]
    assert f"{ledger['inputs']:,} inputs" in document["rai:dataCollection"]
    tars = {p.name for p in Path(cold.at("shards")).glob("*.tar")}
    assert {entry["name"] for entry in document["distribution"] if entry["@type"] == "cr:FileObject"} == tars


def test_facts_that_only_the_publisher_knows_are_stated_or_absent(cold: Run) -> None:
    facts = {"url", "creator", "datePublished", "version"}
    assert not facts & set(read_croissant(cold))
    about = croissant.DatasetInfo("pets", "Pets.", "https://pets.example/", "Zoo", "2026-01-02")
    document = croissant.build_croissant(
        about, [], {"inputs": 0, "kept": 0, "duplicates": 0, "dropped": {}, "failed": {}}
    )
    assert (document["url"], document["datePublished"]) == ("https://pets.example/", "2026-01-02")
    assert document["creator"] == {"@type": "sc:Organization", "name": "Zoo"}
    assert "version" not in document  # that of Reelmill is none of the data


@pytest.mark.parametrize(
    ("ledger", "sentence"),
    [
        ({"dropped": {"facts": 2}}, "2 dropped by filters or resampling"),
        ({"dropped": {"takedown": 2, "facts": 1}}, "1 dropped by filters or resampling, 0 were duplicates, 0 failed, "
         "2 were taken down."),
        ({"failed": {"environment": 2, "ingest": 1}}, "1 failed, 2 could not be read or measured by a fault of"),
        ({"ignored": 3}, "3 further files, members or rows were no input."),
    ],
)  # fmt: skip
def test_the_outcomes_of_a_ledger_are_described_one_by_one(ledger: dict[str, Any], sentence: str) -> None:
    empty = {"inputs": 3, "kept": 0, "duplicates": 0, "ignored": 0, "dropped": {}, "failed": {}}
    assert sentence not in croissant.describe_ledger(empty)
    assert sentence in croissant.describe_ledger({**empty, **ledger})


WRITER = {"generator": "llm", "model": "seer", "revision": "r1", "steps": {}, "captioner": "eyes"}


@pytest.mark.parametrize("writer", [WRITER, "rules: written by rule"])
@pytest.mark.parametrize("dialogues", [None, {"accepted": 0}])
def test_without_accepted_dialogues_no_sentence_says_that_any_were_written(writer: Any, dialogues: Any) -> None:
    card = {"made_by": {"name": "a", "dialogues": writer}, "dialogues": dialogues}
    rai = croissant._build_rai("", [croissant.History.of_cards([card])], {}, {}, "")
    protocol = rai["rai:dataAnnotationProtocol"]
    assert protocol == "Dialogues: a writer was configured, but no dialogue of it was accepted."
    assert "seer" not in json.dumps(rai) and "repeat their mistakes" not in json.dumps(rai)
    written = croissant._build_rai("", [croissant.History.of_cards([card, {"dialogues": {"accepted": 1}}])], {}, {}, "")
    assert written["rai:dataAnnotationProtocol"] != protocol and "repeat their mistakes" in json.dumps(written)


def test_no_step_is_called_none_and_not_everything_kept() -> None:
    assert croissant.describe_processing({}) == ["No filter, no search for duplicates and no resampling."]


def test_token_counts_are_an_estimate_only_where_no_tokenizer_counted() -> None:
    assert "estimate" in croissant.describe_token_counts({"tokenizer": None})
    counted = croissant.describe_token_counts({"tokenizer": {"sha256": "f00d"}})
    assert "estimate" not in counted and "f00d" in counted


@pytest.mark.parametrize("name", ["name", "description", "license", "distribution", "recordSet",
                                  "rai:dataBiases", "rai:personalSensitiveInformation"])  # fmt: skip
def test_the_schema_rejects_errors_that_mlcroissant_accepts(cold: Run, name: str) -> None:
    document = read_croissant(cold)
    del document[name]
    assert schemas.find_errors("croissant", document)


@pytest.mark.parametrize("name", ["sha256", "contentUrl", "contentSize"])
def test_a_tar_needs_hash_location_and_size(cold: Run, name: str) -> None:
    document = copy.deepcopy(read_croissant(cold))
    tar = next(entry for entry in document["distribution"] if entry["@type"] == "cr:FileObject")
    del tar[name]
    assert schemas.find_errors("croissant", document)


def test_a_run_that_kept_nothing_is_described_too() -> None:
    about = croissant.DatasetInfo("empty", "Nothing.")
    ledger = {"inputs": 2, "kept": 0, "duplicates": 0, "dropped": {"facts": 2}, "failed": {}}
    document = croissant.build_croissant(about, [], ledger)
    assert schemas.find_errors("croissant", document) == []
    assert document["license"] == ["not stated"]


def test_settings_are_written_flat_without_those_that_are_not_set() -> None:
    text = croissant.format_settings({"a": 1, "b": None, "c": {"d": 0.5, "e": {"f": None}}, "g": ["x", "y"]})
    assert text == "a = 1; c.d = 0.5; g = x, y"
