"""A run as it is written passes; one byte changed anywhere is found; so is what a forger changes with all hashes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infra import tables
from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json
from pipelines.audit import audit
from pipelines.cli import app
from tests.pipelines.audit.damage import (
    audit_folder,
    change_number,
    edit_json,
    edit_rows,
    list_covered_files,
    list_findings,
    list_numbers,
    read_first_record,
    reissue,
    replace_in_tar,
    resign,
)

# -- as it is written -------------------------------------------------------------------------------------------


def test_a_fresh_run_has_no_findings(copy: Path) -> None:
    report = audit_folder(copy)
    ledger = json.loads((copy / "ledger.json").read_bytes())["all"]
    assert report.ok, report.findings
    assert report.looked["samples"] == ledger["kept"] and report.looked["inputs"] == ledger["inputs"]
    assert report.looked["bytes"] == sum(p.stat().st_size for p in [*list_covered_files(copy), copy / "run.json"])


def test_rewriting_a_run_without_changes_has_no_findings(copy: Path) -> None:
    reissue(copy)
    assert audit_folder(copy).ok


# -- one byte ---------------------------------------------------------------------------------------------------


def flip(path: Path, offset: int, bit: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


def test_any_one_byte_of_any_covered_file_is_found(copy: Path) -> None:
    random = np.random.default_rng(4)
    files = list_covered_files(copy)
    sizes = np.array([path.stat().st_size for path in files])
    # Half of them as a disk would: by bytes; the others by file, so that small ones get their share.
    numbers = np.searchsorted(np.cumsum(sizes), random.integers(0, sizes.sum(), 15), side="right").tolist()
    numbers += random.choice(len(files), 10, replace=False).tolist()
    numbers += [files.index(copy / name) for name in ("checksums.json", "ledger.json", "README.md", "croissant.json")]
    for number in numbers:
        offset, bit = int(random.integers(sizes[number])), int(random.integers(8))
        flip(files[number], offset, bit)
        report = audit_folder(copy)
        name = str(files[number].relative_to(copy))
        assert not report.ok, f"bit {bit} of byte {offset} of {name}"
        if name != "checksums.json":
            assert name in {finding.file for finding in report.findings}
        flip(files[number], offset, bit)


def test_a_byte_in_every_file_at_once_names_every_file(copy: Path) -> None:
    random = np.random.default_rng(5)
    files = [path for path in list_covered_files(copy) if path.name != "checksums.json"]
    for path in files:
        flip(path, int(random.integers(path.stat().st_size)), int(random.integers(8)))
    assert {str(path.relative_to(copy)) for path in files} <= {file for file, _ in list_findings(copy)}


# -- what a forger changes --------------------------------------------------------------------------------------

TEXT = "shards/text-000000"
IMAGE = "shards/image-000000"


def test_columns_of_the_index_that_contradict_the_tar_are_found(copy: Path) -> None:
    changes: dict[str, Callable[[Any], Any]] = {
        "tokens": lambda v: v + 1,
        "text_tokens": lambda v: v - 1,
        "images": lambda v: v + 1,
        "seconds": lambda v: v + 0.5,
        "bytes": lambda v: v - 1,
        "kind": lambda v: v + "s",
        "source": lambda v: "elsewhere",
        "licence": lambda v: None,
        "language": lambda v: "xx",
        "shard": lambda v: "text-000001",
    }

    def forge(rows: list[dict[str, Any]]) -> None:
        for number, (column, change) in enumerate(changes.items()):
            row = rows[number % len(rows)]
            row[column] = change(row[column])

    edit_rows(copy / "members" / "text-000000.parquet", forge)
    reissue(copy)
    assert list_findings(copy) == {("members/text-000000.parquet", column) for column in changes}


def test_a_licence_forged_everywhere_except_in_the_samples_is_found(copy: Path) -> None:
    record = read_first_record(copy, TEXT)
    old = record["licence"]
    new = "X" * len(old)
    replace_in_tar(copy, TEXT, f'"licence":"{old}"'.encode(), f'"licence":"{new}"'.encode())
    edit_rows(copy / "members" / "text-000000.parquet", lambda rows: rows[0].update(licence=new))

    def recount(card: Any) -> None:
        card["licences"][old] -= 1
        card["licences"][new] = 1
        card["licences"] = {name: count for name, count in card["licences"].items() if count}

    edit_json(copy / f"{TEXT}.card.json", recount)
    reissue(copy)
    assert list_findings(copy) == {(f"{TEXT}.tar", "json.licence")}


def test_a_forged_hash_in_the_json_of_a_sample_is_found(copy: Path) -> None:
    (old,) = read_first_record(copy, IMAGE)["sha256"]
    replace_in_tar(copy, IMAGE, old.encode(), b"0" * 64)
    reissue(copy)
    findings = audit_folder(copy).findings
    assert {(f.file, f.field) for f in findings} == {(f"{IMAGE}.tar", "json.sha256")}
    assert (findings[0].expected, findings[0].actual, findings[0].key) == (
        old,
        "0" * 64,
        read_first_record(copy, IMAGE)["id"],
    )


def test_a_caption_that_differs_between_members_is_found(copy: Path) -> None:
    caption = read_first_record(copy, TEXT)["caption"]
    replace_in_tar(copy, TEXT, f'"caption":"{caption[:10]}'.encode(), f'"caption":"{caption[:9]}~'.encode())
    reissue(copy)
    assert list_findings(copy) == {(f"{TEXT}.tar", "txt")}


def test_invalid_json_is_found(copy: Path) -> None:
    replace_in_tar(copy, TEXT, b'{"caption":', b'{"caption";')
    reissue(copy)
    assert (f"{TEXT}.tar", "json") in list_findings(copy)


def test_fields_of_a_card_that_contradict_the_bytes_are_found(copy: Path) -> None:
    def forge(card: Any) -> None:
        for name in ("samples", "tokens", "seconds", "media_bytes"):
            card[name] += 1
        for name in ("licences", "kinds", "sources", "languages"):
            card[name]["forged"] = 1
        card["scores"]["quality.words"]["p50"] = 1.5
        card["shard"] = "text-000009"
        card["made_by"]["manifests"]["verdicts"] = "0" * 32
        card["made_by"]["lineage"][0]["kept"] = 99
        card["ledger"]["inputs"] += 1
        card["reasons"]["quality: forged"] = 1

    edit_json(copy / f"{TEXT}.card.json", forge)
    reissue(copy)
    expected = ("samples", "tokens", "seconds", "media_bytes", "licences.forged", "kinds.forged", "sources.forged",
              "languages.forged", "scores.quality.words.p50", "shard", "made_by.manifests.verdicts",
              "made_by.lineage.0.kept", "ledger.inputs", "reasons")  # fmt: skip
    assert {(f"{TEXT}.card.json", field) for field in expected} <= list_findings(copy)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("card", lambda c: c.update(card=99)),
        ("made_by", lambda c: c["made_by"].pop("seed")),
        ("value", lambda c: c.update(forged=1)),
        ("made_by.lineage.0.rows", lambda c: c["made_by"]["lineage"][0].update(rows=[0, 10**9])),
        ("samples", lambda c: c.update(samples=-1)),
    ],
)
def test_an_invalid_card_is_found(copy: Path, field: str, change: Any) -> None:
    edit_json(copy / f"{TEXT}.card.json", change)
    reissue(copy)
    assert (f"{TEXT}.card.json", field) in list_findings(copy)


def test_two_swapped_cards_are_found(copy: Path) -> None:
    first_card, second_card = copy / f"{TEXT}.card.json", copy / "shards/text-000001.card.json"
    a, b = first_card.read_bytes(), second_card.read_bytes()
    first_card.write_bytes(b)
    second_card.write_bytes(a)
    findings = list_findings(copy)
    assert {(f"{TEXT}.card.json", "shard"), (f"{TEXT}.card.json", "tar.sha256")} <= findings
    reissue(copy)
    assert (f"{TEXT}.card.json", "shard") in list_findings(copy)


def test_two_swapped_tars_are_found(copy: Path) -> None:
    first_tar, second_tar = copy / f"{TEXT}.tar", copy / "shards/text-000001.tar"
    a, b = first_tar.read_bytes(), second_tar.read_bytes()
    first_tar.write_bytes(b)
    second_tar.write_bytes(a)
    reissue(copy)
    assert {file for file, _ in list_findings(copy)} >= {f"{TEXT}.tar", "shards/text-000001.tar"}


def test_a_reversed_verdict_is_found(copy: Path) -> None:
    key = read_first_record(copy, TEXT)["id"]
    for path in (copy / "verdicts").glob("*.parquet"):
        if key in pq.read_table(path)["key"].to_pylist():
            edit_rows(
                path, lambda rows: [r.update(outcome="dropped", filter="quality") for r in rows if r["key"] == key]
            )
            name = f"verdicts/{path.name}"
    reissue(copy)
    findings = list_findings(copy)
    assert (name, "outcome") in findings and ("ledger.json", "all.kept") in findings


def test_a_dropped_sample_marked_as_kept_is_found(copy: Path) -> None:
    for path in sorted((copy / "verdicts").glob("*.parquet")):
        if "dropped" in pq.read_table(path)["outcome"].to_pylist():
            edit_rows(path, lambda rows: next(r for r in rows if r["outcome"] == "dropped").update(outcome="kept"))
            break
    reissue(copy)
    assert (f"verdicts/{path.name}", "kept") in list_findings(copy)


def test_a_ledger_that_moves_samples_between_filters_is_found(copy: Path) -> None:
    def move(ledger: Any) -> None:
        for entry in (ledger["all"], ledger["text"]):
            name = sorted(entry["dropped"])[0]
            entry["dropped"][name] -= 1
            entry["dropped"]["forged"] = 1

    edit_json(copy / "ledger.json", move)
    reissue(copy)
    findings = list_findings(copy)
    assert ("ledger.json", "all.dropped.forged") in findings
    assert any(field.startswith("sum of cards and unsharded") for _, field in findings)


def test_a_tar_missing_from_croissant_is_found(copy: Path) -> None:
    def forge(croissant: Any) -> None:
        for file in croissant["distribution"]:
            if file.get("contentUrl") == f"{TEXT}.tar":
                file["sha256"] = "0" * 64

    edit_json(copy / "croissant.json", forge)
    assert ("croissant.json", f"distribution.{TEXT}.tar.sha256") in list_findings(copy)


# -- any one number, any one fact -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ledger.json", f"{TEXT}.card.json", "shards/video-000000.card.json",
                                  "samples/_ignored.json", "samples/_members.json"])  # fmt: skip
def test_any_number_changed_with_checksums_made_right_is_found(copy: Path, name: str) -> None:
    original = (copy / name).read_bytes()
    numbers = list_numbers(json.loads(original))
    random = np.random.default_rng(7)
    for number in random.permutation(len(numbers))[:6].tolist():
        content = json.loads(original)
        change_number(content, numbers[number])
        (copy / name).write_bytes(canonical_json(content))
        resign(copy)
        assert list_findings(copy), numbers[number]


@pytest.mark.parametrize("name", ["README.md", "croissant.json", "cards/text-000000.html"])
def test_any_digit_of_a_description_changed_with_checksums_made_right_is_found(copy: Path, name: str) -> None:
    original = (copy / name).read_bytes()
    digits = [position for position, byte in enumerate(original) if chr(byte).isdigit()]
    random = np.random.default_rng(8)
    for position in random.choice(digits, 6, replace=False).tolist():
        digit = str((int(chr(original[position])) + 1) % 10).encode()
        (copy / name).write_bytes(original[:position] + digit + original[position + 1 :])
        resign(copy)
        assert name in {file for file, _ in list_findings(copy)}, original[position - 40 : position + 40]


@pytest.mark.parametrize("name", sorted(set(tables.MEMBERS.names) - {"members"}))
def test_any_column_of_the_index_changed_in_any_row_is_found(copy: Path, name: str) -> None:
    path = sorted((copy / "members").glob("video-*.parquet"))[0]

    def change(rows: list[dict[str, Any]]) -> None:
        row = rows[len(rows) // 2]
        row[name] = row[name] + 1 if isinstance(row[name], int | float) else f"{row[name]}x"

    edit_rows(path, change)
    reissue(copy)
    assert path.stem in {Path(file).stem for file, _ in list_findings(copy)}  # offsets are findings of the tar


def test_a_reason_changed_in_a_verdict_is_found(copy: Path) -> None:
    for path in sorted((copy / "verdicts").glob("*.parquet")):
        if "dropped" in pq.read_table(path)["outcome"].to_pylist():
            edit_rows(path, lambda rows: next(r for r in rows if r["outcome"] == "dropped").update(reason="forged"))
            break
    reissue(copy)
    assert any("reasons" in field for _, field in list_findings(copy))


# -- what is missing, torn or too much --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["shards/text-000000.tar", "shards/text-000000.card.json", "members/text-000000.parquet", "samples/u000000.parquet",
     "members/_manifest.json", "samples/_manifest.json", "ledger.json", "checksums.json", "croissant.json", "README.md",
     "cards/text-000000.html", "samples/_ignored.json", "samples/_members.json"],
)  # fmt: skip
def test_a_file_that_is_missing_torn_or_empty_is_found(copy: Path, name: str) -> None:
    path = copy / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert name in {file for file, _ in list_findings(copy)}
    path.unlink()
    assert (name, "file") in list_findings(copy)


def test_files_that_are_empty_or_zeros_are_found_all_of_them(copy: Path) -> None:
    files = list_covered_files(copy)
    for number, path in enumerate(files):
        path.write_bytes(b"\0" * 100 * (number % 2))
    named_files = {file for file, _ in list_findings(copy)}
    # Without any manifest that could be read nobody knows of the tables; that is found instead.
    assert {"checksums.json", "ledger.json", "members/_manifest.json", "samples/_manifest.json"} <= named_files


@pytest.mark.parametrize("name", ["members/text-000000.parquet", "samples/u000000.parquet", "verdicts/u000000.parquet"])
def test_an_unreadable_table_with_a_correct_hash_is_found(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-40] + content[-20:])
    reissue(copy)
    assert (name, "parquet") in list_findings(copy)
    (copy / name).write_bytes(tables.to_bytes(pa.table({"key": ["a"]})))
    reissue(copy)
    assert (name, "schema") in list_findings(copy)


def test_files_that_nothing_lists_are_named(copy: Path) -> None:
    names = ("shards/more.tar", "samples/u999999.parquet", "notes.txt", "members/x.parquet", "cards/more.html")
    for name in names:
        (copy / name).write_bytes(b"x")
    assert list_findings(copy) == {(name, "file") for name in names}


def test_scratch_and_hidden_files_are_ignored(copy: Path) -> None:
    (copy / "work").mkdir()
    (copy / "work" / "a").write_bytes(b"x")
    (copy / ".lock").write_bytes(b"x")
    assert audit_folder(copy).ok


def test_tables_of_another_version_are_refused(copy: Path) -> None:
    for path in (copy / "members").glob("*.parquet"):
        table = pq.read_table(path)
        metadata = {**table.schema.metadata, b"reelmill.version": b"1"}
        pq.write_table(table.replace_schema_metadata(metadata), path)
    reissue(copy)
    with pytest.raises(StageError, match="version 1") as caught:
        audit.run(str(copy), quiet=True)
    assert "export" in caught.value.hint


# -- the command ------------------------------------------------------------------------------------------------


def test_the_command_reports_what_and_where(copy: Path) -> None:
    runner = CliRunner()
    good = runner.invoke(app, ["audit", str(copy), "--json"])
    assert good.exit_code == 0 and json.loads(good.stdout)[0]["ok"] is True
    flip(copy / f"{TEXT}.tar", 600, 0)
    bad = runner.invoke(app, ["audit", str(copy), "--json"])
    (report,) = json.loads(bad.stdout)
    assert bad.exit_code == 1
    assert (f"{TEXT}.tar", "sha256") in {(finding["file"], finding["field"]) for finding in report["findings"]}
    shown = runner.invoke(app, ["audit", str(copy)])
    assert shown.exit_code == 1 and f"{TEXT}.tar" in shown.stdout


def test_a_folder_of_runs_is_audited_run_by_run(copy: Path) -> None:
    shutil.copytree(copy, copy.parent / "deeper" / "other")
    reports = audit.run(str(copy.parent), quiet=True)
    assert [report.uri for report in reports] == [f"{copy.parent}/deeper/other", str(copy)]
    with pytest.raises(ConfigError, match="neither a run nor a mixture"):
        audit.run(str(copy / "shards"), quiet=True)


def test_findings_are_in_the_same_order_every_time(copy: Path) -> None:
    random = np.random.default_rng(6)
    for path in list_covered_files(copy)[::3]:
        flip(path, int(random.integers(path.stat().st_size)), 3)
    assert audit_folder(copy) == audit_folder(copy)
