"""Audit the rows of a mixture: against its manifest, and against the members indexes of the runs that it draws from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import storage, tables
from infra.columns import Mask, to_strings
from infra.commit import MANIFEST, read_json
from infra.errors import StageError
from mixtures.cards.rollup import compute_modality_shares, compute_share, group_by_shard, match_offsets, round_amount
from mixtures.plan.recipe import UNITS
from mixtures.shards.manifest import MANIFEST as MIXTURE
from mixtures.shards.manifest import MEMBERS, Mixture
from pipelines.audit.files import DAMAGED, AuditFiles
from pipelines.audit.findings import AuditFindings

#: Columns of a run's members index that a mixture's rows are compared with.
PARENT_COLUMNS = ("key", "offset", "size", "members", "modality", "text_tokens", "images", "seconds", "bytes")


@dataclass(frozen=True)
class AuditedMixture:
    """A mixture with a valid manifest. keys (n,); columns: the other columns of its members, each (n,)."""

    mixture: Mixture
    files: AuditFiles
    keys: pa.ChunkedArray
    columns: Mapping[str, NDArray[Any]]

    @property
    def manifest(self) -> Mapping[str, Any]:
        return self.mixture.manifest

    @property
    def findings(self) -> AuditFindings:
        return self.files.findings


def check_references(audited: AuditedMixture) -> bool:
    """Whether the manifest lists every group and shard that a row names, and every run that a shard names."""
    valid, runs = True, len(audited.manifest["parents"])
    for number, shard in enumerate(audited.manifest["shards"]):
        if not 0 <= shard["parent"] < runs:
            audited.findings.add(MIXTURE, f"shards.{number}.parent", f"below {runs}", shard["parent"])
            valid = False
    for name, count in (("group", len(audited.manifest["groups"])), ("shard", len(audited.manifest["shards"]))):
        numbers = audited.columns[name]
        wrong = (numbers < 0) | (numbers >= count)
        audited.findings.add_rows(MEMBERS, name, audited.keys, wrong, f"below {count}", numbers)
        valid &= not wrong.any()
    return valid


def check_order(audited: AuditedMixture) -> None:
    """Rows must be sorted by virtual shard and position, both counted from 0 without a gap, and the repeats of a
    sample must be numbered from 0."""
    findings, columns, keys = audited.findings, audited.columns, audited.keys
    vshard = columns["vshard"].astype(np.int64)
    count, used = int(audited.manifest["vshards"]), np.unique(vshard)
    if len(vshard):
        findings.compare(MIXTURE, "vshards", int(used[-1]) + 1 if count != len(used) else count, count)
    step = np.diff(vshard, prepend=vshard[:1])
    wrong = (step < 0) | (step > 1)
    wrong[:1] |= vshard[:1] != 0
    findings.add_rows(MEMBERS, "vshard", keys, wrong, "ascending, from 0, none left out", vshard)
    findings.compare_arrays(MEMBERS, "position", keys, _count_within_runs(step == 0), columns["position"])
    # All repeats of a sample have the same shard and offset; sorted by these, they are numbered 0, 1, 2, …
    order = np.lexsort((columns["repeat"], columns["offset"], columns["shard"]))
    shard, offset = columns["shard"][order], columns["offset"][order]
    repeated = (np.diff(shard, prepend=shard[:1]) == 0) & (np.diff(offset, prepend=offset[:1]) == 0)
    expected = np.empty(len(order), np.int64)
    expected[order] = _count_within_runs(repeated)
    findings.compare_arrays(MEMBERS, "repeat", keys, expected, columns["repeat"])


def _count_within_runs(continues: Mask) -> NDArray[np.int64]:
    """int64 (n,): number of each row in its run of rows. continues: bool (n,), rows in the run of the row before."""
    continues = continues.copy()
    continues[:1] = False
    starts = np.flatnonzero(~continues)
    return np.arange(len(continues)) - np.repeat(starts, np.diff(np.append(starts, len(continues))))


def check_totals(audited: AuditedMixture) -> None:
    """Recompute the amounts of groups, the totals and the achieved shares from the rows, exactly: by the functions
    that wrote them, from rows in the same order."""
    findings, manifest = audited.findings, audited.manifest
    groups, group = manifest["groups"], audited.columns["group"]
    for unit in UNITS:
        weights = None if unit == "samples" else audited.columns[unit].astype(np.float64)
        sums = np.bincount(group, weights, len(groups))
        total = float(sums.sum())
        exact: list[dict[str, Any]] = []
        for number, (entry, amount) in enumerate(zip(groups, sums.tolist(), strict=True)):
            amount = round_amount(unit, float(amount))
            findings.compare_json(MIXTURE, f"groups.{number}.{unit}", amount, entry[unit])
            exact.append({"modality": entry["modality"], "cell": entry["cell"], unit: amount})
        findings.compare_json(MIXTURE, f"totals.{unit}", round_amount(unit, total), manifest["totals"][unit])
        shares = compute_modality_shares(exact, unit)
        findings.compare_json(MIXTURE, f"achieved.{unit}", shares, manifest["achieved"][unit])
        for number, constraint in enumerate(manifest.get("constraints", ())):
            share = compute_share(exact, unit, constraint["column"], constraint["value"])
            findings.compare_json(MIXTURE, f"constraints.{number}.achieved.{unit}", share, constraint["achieved"][unit])


# -- the runs ---------------------------------------------------------------------------------------------------


def check_runs(audited: AuditedMixture) -> list[pa.Table | None] | None:
    """Compare every row with the members index of its run.

    Returns the index of each shard, None if that cannot be read; None instead of the list if a run is missing.
    """
    findings, manifest, shard = audited.findings, audited.manifest, audited.columns["shard"]
    checksums: list[Mapping[str, Any]] = []
    for number, parent in enumerate(manifest["parents"]):
        run = audited.mixture.run(number)
        uri = storage.join(run, "members", MANIFEST)
        if not storage.is_file(uri):
            findings.add(MIXTURE, f"parents.{number}.run", "a run", f"none at {parent['run']}")
            return None
        findings.compare(MIXTURE, f"parents.{number}.members", storage.sha256(uri), parent["members"])
        checksums.append(_read_checksums(run, f"parents.{number}.run", findings))
    indexes: list[pa.Table | None] = [None] * len(manifest["shards"])
    for number, rows in group_by_shard(shard, len(manifest["shards"])):
        entry = manifest["shards"][number]
        sha256 = checksums[entry["parent"]].get(f"shards/{entry['name']}.tar")
        findings.compare(MIXTURE, f"shards.{number}.sha256", sha256, entry["sha256"])
        index = indexes[number] = _read_index(audited, number)
        if index is not None:
            _compare_rows(audited, index, rows)
    return indexes


def _read_checksums(run: str, field: str, findings: AuditFindings) -> Mapping[str, Any]:
    """The checksums.json of a run; {} if there is none."""
    uri = storage.join(run, "checksums.json")
    try:
        return dict(read_json(uri)) if storage.is_file(uri) else {}
    except StageError as error:
        findings.add(MIXTURE, field, "a readable checksums.json", error.what)
        return {}


def _read_index(audited: AuditedMixture, shard: int) -> pa.Table | None:
    entry = audited.manifest["shards"][shard]
    uri = storage.join(audited.mixture.run(entry["parent"]), "members", f"{entry['name']}.parquet")
    try:
        if storage.is_file(uri):
            return tables.read(uri, PARENT_COLUMNS)
        problem = "none"
    except DAMAGED as error:
        problem = str(error)
    audited.findings.add(MIXTURE, f"shards.{shard}.name", f"a members index of {entry['name']}", problem)
    return None


def _compare_rows(audited: AuditedMixture, index: pa.Table, rows: NDArray[np.int64]) -> None:
    """Compare key, offset, size, tokens, seconds and bytes of a shard's rows with the index of its run."""
    findings, columns = audited.findings, audited.columns
    position, matched = match_offsets(index, columns["offset"][rows])
    keys = audited.keys.take(pa.array(rows))
    findings.add_rows(MEMBERS, "offset", keys, ~matched, "a sample of its shard", columns["offset"][rows])
    position, rows, keys = position[matched], rows[matched], keys.filter(pa.array(matched))
    if not len(rows):
        return
    samples = index.take(pa.array(position))
    findings.compare_columns(MEMBERS, "key", keys, samples["key"], keys)
    for name in ("size", "seconds", "bytes"):
        findings.compare_arrays(MEMBERS, name, keys, samples[name].to_numpy(), columns[name][rows])
    if audited.manifest["recipe"].get("tokenizer") is None:  # otherwise only that tokenizer could count them
        seconds, images = samples["seconds"].to_numpy(), samples["images"].to_numpy()
        media_tokens = audited.mixture.contract.media_tokens(to_strings(samples["modality"]), seconds, images)
        expected = samples["text_tokens"].to_numpy() + media_tokens
        findings.compare_arrays(MEMBERS, "tokens", keys, expected, columns["tokens"][rows])
