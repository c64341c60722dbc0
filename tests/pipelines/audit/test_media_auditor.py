"""Faults that only decoding finds: media that contradict their records, though every hash and number agrees."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.audit import audit, media_auditor
from tests.pipelines.audit.damage import edit_rows, list_findings, read_first_record, reissue, replace_in_tar

IMAGE, VIDEO = "shards/image-000000", "shards/video-000000"


def medium(folder: Path, shard: str) -> dict[str, Any]:
    """The first sample's medium in the index."""
    row = pq.read_table(folder / "members" / f"{Path(shard).name}.parquet").slice(0, 1).to_pylist()[0]
    return next(m for m in row["members"] if not m["name"].endswith((".json", ".txt")))


def every_sample(folder: Path, key: str, stage: str, change: Any) -> None:
    for path in (folder / stage).glob("*.parquet"):
        if key in pq.read_table(path)["key"].to_pylist():
            edit_rows(path, lambda rows: [change(row) for row in rows if row["key"] == key])


def test_a_sound_run_has_no_findings_and_every_medium_is_decoded(copy: Path) -> None:
    (report,) = audit.run(str(copy), deep=True, quiet=True)
    assert report.ok, report.findings
    kept = [row for path in (copy / "members").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
    media = [m for row in kept for m in row["members"] if not m["name"].endswith((".json", ".txt"))]
    assert report.looked["media"] == len(media) > 10


def test_a_medium_replaced_together_with_all_file_hashes_is_found(copy: Path) -> None:
    member = medium(copy, IMAGE)
    path = copy / f"{IMAGE}.tar"
    tar = bytearray(path.read_bytes())
    tar[member["offset"] + member["size"] - 40] ^= 1
    path.write_bytes(bytes(tar))
    reissue(copy)
    assert list_findings(copy) == set()
    assert (f"{IMAGE}.tar", "media.sha256") in list_findings(copy, deep=True)


def test_a_medium_that_this_machine_cannot_decode_is_not_called_broken(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_auditor, "LIMITS", replace(media_auditor.LIMITS, watchdog_s=1e-3))
    (report,) = audit.run(str(copy), deep=True, quiet=True)
    (expected,) = {finding.expected for finding in report.findings}
    assert expected == "enough memory and time on this machine to verify it"


def test_a_broken_medium_with_every_hash_forged_is_found(copy: Path) -> None:
    member, record = medium(copy, VIDEO), read_first_record(copy, VIDEO)
    path = copy / f"{VIDEO}.tar"
    tar = bytearray(path.read_bytes())
    tar[member["offset"] : member["offset"] + member["size"]] = bytes(member["size"])
    path.write_bytes(bytes(tar))
    (old,), new = record["sha256"], hashlib.sha256(bytes(member["size"])).hexdigest()
    replace_in_tar(copy, VIDEO, old.encode(), new.encode())
    every_sample(copy, record["id"], "samples", lambda row: row["media"][0].update(sha256=new))
    reissue(copy)
    assert list_findings(copy) == set()
    findings = list_findings(copy, deep=True)
    assert (f"{VIDEO}.tar", "media") in findings
    # A key is a hash of its media's hashes.
    assert any(field == "key" and file.startswith("samples/") for file, field in findings)


def test_facts_that_contradict_the_medium_are_found(copy: Path) -> None:
    record = read_first_record(copy, VIDEO)
    width, wrong = record["width"], record["width"] + 1
    replace_in_tar(copy, VIDEO, f'"width":{width}'.encode(), f'"width":{wrong}'.encode())
    every_sample(copy, record["id"], "signals", lambda row: row.update({"facts.width": wrong}))
    reissue(copy)
    assert (f"{VIDEO}.tar", "media.width") in list_findings(copy, deep=True)


def test_a_text_that_contradicts_its_key_is_found(copy: Path) -> None:
    key = read_first_record(copy, "shards/text-000000")["id"]
    every_sample(copy, key, "samples", lambda row: row.update(text=row["text"] + " And more."))
    reissue(copy)
    assert list_findings(copy) == set()
    assert {field for _, field in list_findings(copy, deep=True)} == {"key"}
