"""Build the page of a mixture: shares against the recipe, amounts taken and available, each virtual shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import storage, tables
from infra.columns import to_floats, to_ints
from infra.commit import read_manifest
from infra.media.interface import MODALITIES
from mixtures.plan.recipe import UNITS
from mixtures.shards.manifest import Mixture

#: Columns of the parents' members by which samples are counted.
COUNTED = ("source", "licence", "kind", "language")


def build_meta(mixture: Mixture) -> dict[str, Any]:
    """meta.js of a mixture.

    tables: [column, [[name, samples with repeats, different samples]]], [] if a parent cannot be read;
    vshards: by unit and modality, the amount in each virtual shard.
    """
    manifest, members = mixture.manifest, mixture.members()
    groups = manifest["groups"]
    modality = np.array([group["modality"] for group in groups], dtype=object)[to_ints(members["group"])]
    modalities = [name for name in MODALITIES if (modality == name).any()]
    return {
        "kind": "mixture",
        "name": manifest["recipe"].get("name") or "mixture",
        **{name: manifest[name] for name in ("seed", "unit", "recipe", "warnings", "totals", "parents", "shards",
                                             "materialized", "members")},
        "constraints": manifest.get("constraints", []),
        "ratios": _compute_ratios(manifest),
        "groups": [{name: group[name] for name in ("name", "modality", "available", *UNITS)} for group in groups],
        "repeated": int(pc.sum(pc.greater(members["repeat"], 0)).as_py() or 0),
        "tables": _count_samples(mixture, members),
        "modalities": modalities,
        "vshards": _sum_vshards(members, modality, modalities, int(manifest["vshards"])),
    }  # fmt: skip


def _compute_ratios(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ratios of cells that the recipe limits: {label, low, high, achieved by unit (null: division by zero)}."""
    ratios = []
    for rule in manifest["recipe"].get("ratios") or ():
        achieved = {}
        for unit in UNITS:
            sums = {
                side: sum(
                    group[unit] for group in manifest["groups"] if group["cell"].get(rule["column"]) == rule[side]
                )
                for side in ("of", "to")
            }
            achieved[unit] = round(sums["of"] / sums["to"], 4) if sums["to"] else None
        low, high = rule["between"]
        ratios.append({"label": f"{rule['of']} to {rule['to']}", "low": low, "high": high, "achieved": achieved})
    return ratios


def _sum_vshards(
    members: pa.Table, modality: Any, modalities: Sequence[str], count: int
) -> dict[str, list[list[float]]]:
    """By unit, a list for each modality: its amount in each virtual shard."""
    vshard = to_ints(members["vshard"])
    sums: dict[str, list[list[float]]] = {}
    for unit in UNITS:
        weight = np.ones(len(vshard)) if unit == "samples" else to_floats(members[unit])
        lists = [np.bincount(vshard, weights=weight * (modality == name), minlength=count) for name in modalities]
        sums[unit] = [[round(float(amount), 3) for amount in amounts] for amounts in lists]
    return sums


def _count_samples(mixture: Mixture, members: pa.Table) -> list[list[Any]]:
    parents = []
    for number in range(len(mixture.manifest["parents"])):
        folder = storage.join(mixture.run(number), "members")
        manifest = read_manifest(folder)
        if manifest is None:
            return []
        for unit in manifest.units:
            table = tables.read(storage.join(folder, f"{unit.name}.parquet"), ["key", *COUNTED])
            parents.append(table.replace_schema_metadata(None))
    index = pa.concat_tables(parents)
    row = pc.index_in(members["key"], value_set=index["key"].combine_chunks())
    first = pc.cast(pc.equal(members["repeat"], 0), pa.int64())
    counts = []
    for column in COUNTED:
        names = pa.table({"name": pc.fill_null(index[column].take(row), ""), "first": first})
        groups = names.group_by("name").aggregate([("first", "count"), ("first", "sum")]).to_pylist()
        entries = [[group["name"], group["first_count"], group["first_sum"]] for group in groups]
        counts.append([column, sorted(entries, key=lambda entry: (-entry[1], entry[0]))])
    return counts
