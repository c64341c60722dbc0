"""Damage a finished run or mixture, with or without its hashes made right, and list what the audit finds."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import tables
from infra.hashing import canonical_json
from mixtures.cards import schemas
from mixtures.cards.croissant import DatasetInfo
from pipelines.audit import audit
from pipelines.audit.audit import AuditReport
from pipelines.export.dataset_card import build_description


def audit_folder(folder: Path, deep: bool = False) -> AuditReport:
    (report,) = audit.run(str(folder), deep=deep, quiet=True)
    assert report.ok == (not report.findings) == (report.total == 0)
    return report


def list_findings(folder: Path, deep: bool = False) -> set[tuple[str, str]]:
    """(file, field) of all findings."""
    return {(finding.file, finding.field) for finding in audit_folder(folder, deep).findings}


def list_covered_files(folder: Path) -> list[Path]:
    """Every covered file, and checksums.json itself."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "run.json")


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_bytes(canonical_json(content))


def edit_rows(path: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    table = pq.read_table(path)
    rows = table.to_pylist()
    change(rows)
    again = pa.Table.from_pylist(rows, schema=table.schema)
    path.write_bytes(tables.to_bytes(again))


def list_numbers(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all numbers in a JSON value."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    if isinstance(content, int | float) and not isinstance(content, bool):
        return [path]
    return [number_path for name, child in items for number_path in list_numbers(child, (*path, name))]


def change_number(content: Any, path: tuple[Any, ...]) -> None:
    *keys, last = path
    target = functools.reduce(lambda node, key: node[key], keys, content)
    target[last] += 0.001 if isinstance(target[last], float) else 1


def replace_in_tar(folder: Path, shard: str, old: bytes, new: bytes) -> None:
    """Replace the first occurrence of some bytes in a tar."""
    assert len(old) == len(new)
    path = folder / f"{shard}.tar"
    tar = path.read_bytes()
    assert old in tar
    path.write_bytes(tar.replace(old, new, 1))


def read_first_record(folder: Path, shard: str) -> dict[str, Any]:
    """The JSON of a shard's first sample."""
    row = pq.read_table(folder / "members" / f"{Path(shard).name}.parquet").slice(0, 1).to_pylist()[0]
    member = next(m for m in row["members"] if m["name"].endswith(".json"))
    tar = (folder / f"{shard}.tar").read_bytes()
    return dict(json.loads(tar[member["offset"] : member["offset"] + member["size"]]))


def resign(folder: Path) -> None:
    """Make checksums.json right again, and nothing else."""
    sums = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in list_covered_files(folder) if p.name != "checksums.json"}  # fmt: skip
    (folder / "checksums.json").write_bytes(canonical_json(sums))


def reissue(folder: Path) -> None:
    """Make every hash right again, as a forger would: manifests, cards, croissant.json, checksums.json."""
    sha256 = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.parquet")}
    for manifest in folder.glob("*/_manifest.json"):
        stage = manifest.parent.name

        def rehash(content: Any, stage: str = stage) -> None:
            for unit in content["units"]:
                unit["sha256"] = sha256.get(f"{stage}/{unit['name']}.parquet", unit["sha256"])

        edit_json(manifest, rehash)
    tars = {p.stem: p.read_bytes() for p in folder.glob("shards/*.tar")}
    for card in folder.glob("shards/*.card.json"):
        tar = tars.get(card.name.split(".")[0])
        if tar is not None:
            entry = {"sha256": hashlib.sha256(tar).hexdigest(), "bytes": len(tar)}
            edit_json(card, lambda content, entry=entry: content.update(tar=entry))

    def redistribute(content: Any) -> None:
        for file in content["distribution"]:
            tar = tars.get(Path(file.get("contentUrl", "")).stem)
            if tar is not None:
                file.update(sha256=hashlib.sha256(tar).hexdigest(), contentSize=f"{len(tar)} B")

    edit_json(folder / "croissant.json", redistribute)
    describe_again(folder)
    resign(folder)


def describe_again(folder: Path) -> None:
    """Write README.md, croissant.json and the pages anew from the cards and the ledger, if these can be read."""
    units = json.loads((folder / "members/_manifest.json").read_bytes())["units"]
    cards = [folder / f"shards/{unit['name']}.card.json" for unit in units]
    contents = [json.loads(path.read_bytes()) for path in cards]
    if any(schemas.find_errors("shard-card", content) for content in contents):
        return
    old = json.loads((folder / "croissant.json").read_bytes())
    ledger, members = (json.loads((folder / name).read_bytes()) for name in ("ledger.json", "samples/_members.json"))
    about = DatasetInfo(old["name"], old["description"])
    for path, content in build_description(about, contents, ledger, members).items():
        (folder / path).write_bytes(content)
