"""Audit a run: checksums, manifests, every shard, every unit, and the totals over them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow.parquet as pq

from infra import storage, tables
from infra.commit import MANIFEST
from infra.errors import StageError
from pipelines.audit.audit_descriptions import check_descriptions, check_reasons
from pipelines.audit.audit_shard import AuditedShard, check_shard
from pipelines.audit.audit_units import AuditUnits
from pipelines.audit.files import DAMAGED, AuditFiles
from pipelines.audit.findings import AuditFindings
from pipelines.audit.media_auditor import MediaAuditor, check_keys
from pipelines.core.verdicts import add_ledgers

CHECKSUMS = "checksums.json"

#: Not covered by checksums: what is specific to this machine, and what may be removed.
NOT_COVERED = ("run.json", CHECKSUMS)
SCRATCH = "work/"

#: Stages with a manifest.
STAGES = ("samples", "signals", "late", "duplicates", "verdicts", "dialogues", "members")

Manifests = Mapping[str, Mapping[str, Mapping[str, Any]]]


def is_run(uri: str) -> bool:
    """Whether a folder contains a run, finished or damaged."""
    marks = ("run.json", CHECKSUMS, f"samples/{MANIFEST}", f"members/{MANIFEST}")
    return any(storage.is_file(storage.join(uri, mark)) for mark in marks)


def check_run(files: AuditFiles, deep: bool = False) -> dict[str, int]:
    """Audit a run, adding to the files' findings. deep: also decode all media and recompute all keys.

    Returns the number of shards, samples and inputs checked, and of media decoded.
    Raises StageError if another version of Reelmill wrote its tables.
    """
    findings = files.findings
    checksums: dict[str, str] | None = files.read_json(CHECKSUMS, "checksums")
    inputs: dict[str, str] = {}
    manifests = {
        stage: _read_manifest(files, stage, inputs) for stage in STAGES if f"{stage}/{MANIFEST}" in files.sizes
    }
    for stage in ("samples", "signals", "verdicts", "members"):
        if stage not in manifests:
            findings.add(f"{stage}/{MANIFEST}", "file", "a file", "no file")
    _refuse_other_versions(files, checksums)
    for path in sorted(files.sizes, key=lambda path: path.split("/")[0] in ("members", "samples"), reverse=True):
        if not path.endswith(".tar") and _is_covered(path):
            files.start_hash(path)  # tars are hashed while they are read
    units = AuditUnits(files, manifests)
    auditor = MediaAuditor(files) if deep else None
    try:
        shards = [
            check_shard(files, units, name, entry, auditor) for name, entry in manifests.get("members", {}).items()
        ]
    finally:
        if auditor is not None:
            auditor.close()
    units.finish()
    if deep:
        check_keys(files, units)
    _compare_units(manifests, findings)
    ledger, members = _check_ledger(files, units, shards)
    check_reasons(files, units, shards)
    if ledger is not None:
        check_descriptions(files, shards, ledger, members)
    _check_card_sources(files, shards, inputs)
    _check_croissant(files, shards)
    _check_manifests(files, manifests)
    _check_checksums(files, checksums)
    looked = {"shards": len(shards), "samples": sum(shard.samples for shard in shards), "inputs": units.samples}
    return looked if auditor is None else {**looked, "media": auditor.media}


def _is_covered(path: str) -> bool:
    return path not in NOT_COVERED and not path.startswith(SCRATCH)


# -- files ------------------------------------------------------------------------------------------------------


def _read_manifest(files: AuditFiles, stage: str, inputs: dict[str, str]) -> dict[str, dict[str, Any]]:
    """unit -> {rows, sha256}, in order; adds the fingerprint of the stage's input to `inputs`."""
    path = f"{stage}/{MANIFEST}"
    manifest = files.read_json(path, "manifest")
    if manifest is None:
        return {}
    files.findings.compare(path, "stage", stage, manifest["stage"])
    inputs[stage] = manifest["input"]
    return {unit["name"]: unit for unit in manifest["units"]}


def _refuse_other_versions(files: AuditFiles, checksums: Mapping[str, str] | None) -> None:
    """Raise StageError if an undamaged table of members has another version, which this audit cannot judge."""
    path = min((path for path in files.sizes if path.startswith("members/") and path.endswith(".parquet")), default="")
    if not path or checksums is None or files.digest(path) != checksums.get(path):
        return
    try:
        with storage.open_read(files.at(path)) as file:
            metadata = pq.ParquetFile(file).metadata.metadata or {}
    except DAMAGED:
        return
    version = metadata.get(b"reelmill.version", b"").decode("utf-8", "replace")
    if version != str(tables.VERSION):
        raise StageError(
            f"its tables have version {version or 'unknown'}, but this Reelmill reads version {tables.VERSION}",
            where=files.at(path),
            hint="run `reelmill export` on its config with this version (nothing is measured again), "
            "or audit it with the version that wrote it",
        )


def _check_manifests(files: AuditFiles, manifests: Manifests) -> None:
    """Every table must be listed in its stage's manifest with its sha256, and every listed table must exist."""
    for stage, units in manifests.items():
        listed = {f"{stage}/{name}.parquet": unit["sha256"] for name, unit in units.items()}
        actual = [path for path in files.sizes if path.startswith(f"{stage}/") and path.endswith(".parquet")]
        _check_listed(files, listed, actual, f"{stage}/{MANIFEST}")


def _check_checksums(files: AuditFiles, checksums: Mapping[str, str] | None) -> None:
    """Every covered file must be listed in checksums.json with its sha256, and every listed file must exist."""
    if checksums is not None:
        _check_listed(files, checksums, filter(_is_covered, files.sizes), CHECKSUMS)


def _check_listed(files: AuditFiles, listed: Mapping[str, str], actual: Any, by: str) -> None:
    """Compare {path: sha256} as listed in the file `by` with the files that should be listed there."""
    for path in sorted({*listed, *actual}):
        if path not in listed:
            files.findings.add(path, "file", f"no file: {by} does not list it", "a file")
        elif path not in files.sizes:
            files.findings.add(path, "file", f"a file, which {by} lists", "no file")
        else:
            files.findings.compare(path, "sha256", listed[path], files.digest(path))


# -- totals -----------------------------------------------------------------------------------------------------


def _compare_units(manifests: Manifests, findings: AuditFindings) -> None:
    """samples, signals and verdicts must have the same units with the same numbers of rows."""
    samples = {name: unit["rows"] for name, unit in manifests.get("samples", {}).items()}
    for stage in ("signals", "verdicts"):
        if stage in manifests:
            units = {name: unit["rows"] for name, unit in manifests[stage].items()}
            findings.compare_json(f"{stage}/{MANIFEST}", "units", samples, units)


def _check_ledger(
    files: AuditFiles, units: AuditUnits, shards: list[AuditedShard]
) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The ledger must be the tally of the verdicts, and the sum of the cards and of the rows booked to no shard.

    Returns the ledger, None where it or the counts of ignored members cannot be read, and the accounts of members.
    """
    findings, path = files.findings, "ledger.json"
    ledger = files.read_json(path, "ledger")
    ignored = files.read_json("samples/_ignored.json", "ignored")
    if ledger is None or ignored is None:
        return None, {}
    members, unused = _check_members(files, units, ignored)
    reported = {name: entry["unused_captions"] for name, entry in ledger.items() if "unused_captions" in entry}
    findings.compare_json(path, "unused_captions", unused, reported)
    unsharded = ledger["all"].get("unsharded", {})
    further = ("unsharded", "unused_captions")
    recorded = {name: {k: v for k, v in entry.items() if k not in further} for name, entry in ledger.items()}
    named = {name: count for name, count in ignored.items() if count or name in unused}
    findings.compare_json(path, "", units.build_ledger(named), recorded)
    cards = [shard.card for shard in shards if shard.card is not None]
    if len(cards) < len(shards):
        return ledger, members  # the missing card is a finding already
    total = add_ledgers([*({"all": card["ledger"]} for card in cards), {"all": unsharded}])["all"]
    for name in ("inputs", "kept", "duplicates", "dropped", "failed"):
        field = f"sum of cards and unsharded: {name}"
        findings.compare_json(path, field, recorded["all"][name], total.get(name, 0))
    return ledger, members


def _check_members(
    files: AuditFiles, units: AuditUnits, ignored: Mapping[str, int]
) -> tuple[dict[str, Any], dict[str, int]]:
    """The inputs of each source must be its verdicts, its members those of its samples, and the ignored members by
    reason those by modality.

    Returns the accounts of members by source, and the captions that are not used, as the ledger has them. Runs of
    older versions have neither.
    """
    path = "samples/_members.json"
    if path not in files.sizes:
        return {}, {}
    totals: Counter[str] = Counter()
    unused: Counter[str] = Counter()
    members = files.read_json(path, "members") or {}
    for source, account in members.items():
        files.findings.compare(path, f"{source}.inputs", units.sources[source], account["inputs"])
        files.findings.compare(path, f"{source}.members", units.members[source], account["members"])
        unused_captions = account.get("unused_captions", 0)
        files.findings.compare(path, f"{source}.unused_captions", units.unused_captions[source], unused_captions)
        totals[account["modality"]] += sum(count["members"] for count in account["ignored"].values())
        unused[account["modality"]] += unused_captions
    files.findings.compare_json(path, "ignored", dict(+totals), {k: n for k, n in ignored.items() if n})
    unused["all"] = unused.total()
    return dict(members), dict(+unused)


def _check_card_sources(files: AuditFiles, shards: list[AuditedShard], inputs: Mapping[str, str]) -> None:
    """Every card must name the sha256 of its tar and the inputs of the stages that it was made from."""
    for shard in shards:
        if shard.card is None:
            continue
        path = f"shards/{shard.name}.card.json"
        sha256 = files.digest(f"shards/{shard.name}.tar")
        files.findings.compare(path, "tar.sha256", sha256, shard.card["tar"]["sha256"])
        recorded = shard.card["made_by"]["manifests"]
        expected = {stage: inputs.get(stage, "no such stage") for stage in recorded}
        files.findings.compare_json(path, "made_by.manifests", expected, recorded)


def _check_croissant(files: AuditFiles, shards: list[AuditedShard]) -> None:
    """croissant.json must list every tar with its size and sha256, and no other."""
    path = "croissant.json"
    if path not in files.sizes:
        return  # if it should exist, checksums.json lists it
    croissant = files.read_json(path, "croissant")
    if croissant is None:
        return
    recorded = {
        entry["contentUrl"]: {"contentSize": entry["contentSize"], "sha256": entry["sha256"]}
        for entry in croissant["distribution"]
        if entry["@type"] == "cr:FileObject"
    }
    tars = [f"shards/{shard.name}.tar" for shard in shards]
    expected = {tar: {"contentSize": f"{files.sizes.get(tar, 0)} B", "sha256": files.digest(tar)} for tar in tars}
    files.findings.compare_json(path, "distribution", expected, recorded)
