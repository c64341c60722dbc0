"""A run as a whole: checksums, manifests, every shard, every unit, and the sums between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from infra import storage, tables
from infra.commit import MANIFEST
from infra.errors import StageError
from pipelines.audit.audit_shard import AuditedShard, check_shard
from pipelines.audit.audit_units import AuditUnits
from pipelines.audit.deep import MediaAuditor, check_keys
from pipelines.audit.files import DAMAGED, AuditFiles
from pipelines.audit.findings import AuditFindings
from pipelines.core.verdicts import add_ledgers

CHECKSUMS = "checksums.json"

#: What knows this machine, and what may be removed: neither is covered.
NOT_COVERED = ("run.json", CHECKSUMS)
SCRATCH = "work/"

#: Folders of tables; each has a manifest, but for resample.
STAGES = ("samples", "signals", "late", "duplicates", "verdicts", "dialogues", "members")


def is_run(uri: str) -> bool:
    """Whether a folder holds a run, finished or damaged."""
    marks = ("run.json", CHECKSUMS, f"samples/{MANIFEST}", f"members/{MANIFEST}")
    return any(storage.is_file(storage.join(uri, mark)) for mark in marks)


def check_run(files: AuditFiles, deep: bool = False) -> dict[str, int]:
    """Audit a run; what is wrong is added to the files' findings. Returns what was looked at: shards, samples, inputs,
    and media where they are decoded.

    Raises StageError where another version of Reelmill wrote its tables.
    """
    findings = files.findings
    covered = _checksums(files)
    stamps: dict[str, str] = {}
    manifests = {stage: _manifest(files, stage, stamps) for stage in STAGES if f"{stage}/{MANIFEST}" in files.sizes}
    for stage in ("samples", "signals", "verdicts", "members"):
        if stage not in manifests:
            findings.add(f"{stage}/{MANIFEST}", "file", "a file", "no file")
    _refuse_other_versions(files, covered)
    for path in sorted(files.sizes, key=lambda path: path.split("/")[0] in ("members", "samples"), reverse=True):
        if not path.endswith(".tar") and _is_covered(path):
            files.hash(path)  # tars are hashed while they are read
    units = AuditUnits(files, manifests)
    media = MediaAuditor(files) if deep else None
    try:
        shards = [check_shard(files, units, name, unit, media) for name, unit in manifests.get("members", {}).items()]
    finally:
        if media is not None:
            media.close()
    units.finish()
    if deep:
        check_keys(files, units)
    _same_units(manifests, findings)
    _ledger(files, units, shards)
    for shard in shards:
        if shard.card is not None:
            found = files.digest(f"shards/{shard.name}.tar")
            findings.same(f"shards/{shard.name}.card.json", "tar.sha256", found, shard.card["tar"]["sha256"])
            made_of = shard.card["made_by"]["manifests"]
            known = {stage: stamps.get(stage, "no such stage") for stage in made_of}
            findings.deep(f"shards/{shard.name}.card.json", "made_by.manifests", known, made_of)
    _croissant(files, shards)
    _against_checksums(files, covered, manifests)
    looked = {"shards": len(shards), "samples": sum(shard.samples for shard in shards), "inputs": units.samples}
    return looked if media is None else {**looked, "media": media.media}


def _is_covered(path: str) -> bool:
    return path not in NOT_COVERED and not path.startswith(SCRATCH)


# -- files ------------------------------------------------------------------------------------------------------


def _checksums(files: AuditFiles) -> dict[str, str] | None:
    value = files.checked_json(CHECKSUMS, "checksums")
    return None if value is None else dict(value)


def _manifest(files: AuditFiles, stage: str, stamps: dict[str, str]) -> dict[str, dict[str, Any]]:
    """unit -> {rows, sha256}, in order; what the stage was made from is put into `stamps`."""
    path = f"{stage}/{MANIFEST}"
    value = files.checked_json(path, "manifest")
    if value is None:
        return {}
    files.findings.same(path, "stage", stage, value["stage"])
    stamps[stage] = value["input"]
    return {unit["name"]: unit for unit in value["units"]}


def _refuse_other_versions(files: AuditFiles, covered: Mapping[str, str] | None) -> None:
    """Tables that are what their run says, and of another version, are not this audit's to judge."""
    for path in sorted(files.sizes):
        if not path.startswith("members/") or not path.endswith(".parquet"):
            continue
        if covered is None or files.digest(path) != covered.get(path):
            return
        try:
            with storage.open_read(files.at(path)) as file:
                metadata = pq.ParquetFile(file).metadata.metadata or {}
        except DAMAGED:
            return
        version = metadata.get(b"reelmill.version", b"").decode("utf-8", "replace")
        if version != str(tables.VERSION):
            raise StageError(
                f"its tables are of version {version or 'unknown'}, and this Reelmill reads version {tables.VERSION}",
                where=files.at(path),
                hint="run `reelmill export` on its config with this version (nothing is measured again), "
                "or audit it with the version that wrote it",
            )
        return


def _against_checksums(
    files: AuditFiles, covered: Mapping[str, str] | None, manifests: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> None:
    """Every covered file is listed with the sha256 that it has, and nothing else lies there."""
    findings = files.findings
    for stage, units in manifests.items():
        for name, unit in units.items():
            path = f"{stage}/{name}.parquet"
            if path not in files.sizes:
                findings.add(path, "file", f"a file, which {stage}/{MANIFEST} lists", "no file")
            else:
                findings.same(path, "sha256", unit["sha256"], files.digest(path))
        known = {f"{stage}/{name}.parquet" for name in units}
        for path in sorted(files.sizes):
            if path.startswith(f"{stage}/") and path.endswith(".parquet") and path not in known:
                findings.add(path, "file", f"no file: {stage}/{MANIFEST} does not list it", "a file")
    if covered is None:
        return
    for path in sorted({*files.sizes, *covered}):
        if not _is_covered(path) and path not in covered:
            continue
        if path not in covered:
            findings.add(path, "file", f"no file: {CHECKSUMS} does not list it", "a file")
        elif path not in files.sizes:
            findings.add(path, "file", f"a file, which {CHECKSUMS} lists", "no file")
        else:
            findings.same(path, "sha256", covered[path], files.digest(path))


# -- sums -------------------------------------------------------------------------------------------------------


def _same_units(manifests: Mapping[str, Mapping[str, Mapping[str, Any]]], findings: AuditFindings) -> None:
    """samples, signals and verdicts have the same units with as many rows."""
    wanted = {name: unit["rows"] for name, unit in manifests.get("samples", {}).items()}
    for stage in ("signals", "verdicts"):
        if stage in manifests:
            found = {name: unit["rows"] for name, unit in manifests[stage].items()}
            findings.deep(f"{stage}/{MANIFEST}", "units", wanted, found)


def _ledger(files: AuditFiles, units: AuditUnits, shards: list[AuditedShard]) -> None:
    """The ledger is the tally of the verdicts; the cards and what lies in no shard add up to it."""
    findings, path = files.findings, "ledger.json"
    ledger = files.checked_json(path, "ledger")
    ignored = files.checked_json("samples/_ignored.json", "ignored")
    if ledger is None or ignored is None:
        return
    unsharded = ledger["all"].get("unsharded", {})
    told = {name: {k: v for k, v in entry.items() if k != "unsharded"} for name, entry in ledger.items()}
    findings.deep(path, "", units.ledger(ignored), told)
    if any(shard.card is None for shard in shards):
        return  # found already
    parts = [{"all": shard.card["ledger"]} for shard in shards if shard.card is not None] + [{"all": unsharded}]
    total = add_ledgers(parts)["all"]
    for name in ("inputs", "kept", "duplicates", "dropped", "failed"):
        findings.deep(path, f"sum of cards and unsharded: {name}", told["all"][name], total.get(name, 0))


def _croissant(files: AuditFiles, shards: list[AuditedShard]) -> None:
    """croissant.json names every tar, with its size and sha256, and no other."""
    path = "croissant.json"
    if path not in files.sizes:
        return  # where it is covered, checksums.json misses it
    value = files.checked_json(path, "croissant")
    if value is None:
        return
    told = {
        one["contentUrl"]: {"contentSize": one["contentSize"], "sha256": one["sha256"]}
        for one in value["distribution"]
        if one["@type"] == "cr:FileObject"
    }
    tars = [f"shards/{shard.name}.tar" for shard in shards]
    found = {tar: {"contentSize": f"{files.sizes.get(tar, 0)} B", "sha256": files.digest(tar)} for tar in tars}
    files.findings.deep(path, "distribution", found, told)
