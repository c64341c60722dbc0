"""What the page of a mixture says: shares against the recipe, what was taken of what there is, each virtual shard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import storage, tables
from infra.commit import read_manifest
from mixtures.shards.manifest import Mixture

UNITS = ("samples", "tokens", "seconds", "bytes")
#: Columns of the parents' members by which a mixture is summed up.
ROLLED = ("source", "licence", "kind", "language")


def overview(mixture: Mixture) -> dict[str, Any]:
    """meta.js of a mixture.

    tables: [column, [[value, samples with repeats, different samples]]] where the parents can be read, else [];
    vshards: by unit and modality, what each virtual shard holds.
    """
    value = mixture.manifest
    members = mixture.members()
    modality = np.array([group["modality"] for group in value["groups"]], dtype=object)[np.asarray(members["group"])]
    modalities = [name for name in ("video", "image", "multi_image", "text") if (modality == name).any()]
    return {
        "kind": "mixture",
        "name": value["recipe"].get("name") or "mixture",
        "seed": value["seed"],
        "unit": value["unit"],
        "recipe": value["recipe"],
        "constraints": value.get("constraints", []),
        "ratios": _ratios(value),
        "warnings": value["warnings"],
        "totals": value["totals"],
        "groups": [
            {name: group[name] for name in ("name", "modality", "available", *UNITS)} for group in value["groups"]
        ],
        "parents": value["parents"],
        "shards": value["shards"],
        "materialized": value["materialized"],
        "members": value["members"],
        "repeated": int(pc.sum(pc.greater(members["repeat"], 0)).as_py() or 0),
        "tables": _tables(mixture, members),
        "modalities": modalities,
        "vshards": _vshards(members, modality, modalities, int(value["vshards"])),
    }


def _ratios(value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the recipe asks of one cell against another: {label, low, high, achieved by unit (null: there is none)}."""
    found = []
    for rule in value["recipe"].get("ratios") or ():
        sums = {
            side: [g for g in value["groups"] if g["cell"].get(rule["column"]) == rule[side]] for side in ("of", "to")
        }
        achieved = {}
        for unit in UNITS:
            of, to = (sum(group[unit] for group in sums[side]) for side in ("of", "to"))
            achieved[unit] = round(of / to, 4) if to else None
        low, high = rule["between"]
        found.append({"label": f"{rule['of']} to {rule['to']}", "low": low, "high": high, "achieved": achieved})
    return found


def _vshards(members: pa.Table, modality: Any, modalities: list[str], count: int) -> dict[str, list[list[float]]]:
    """By unit, one list a modality: what each virtual shard holds of it."""
    vshard = np.asarray(members["vshard"])
    found = {}
    for unit in UNITS:
        weight = np.ones(len(vshard)) if unit == "samples" else np.asarray(members[unit], dtype=np.float64)
        lists = [np.bincount(vshard, weights=weight * (modality == name), minlength=count) for name in modalities]
        found[unit] = [[round(float(x), 3) for x in sums] for sums in lists]
    return found


def _tables(mixture: Mixture, members: pa.Table) -> list[list[Any]]:
    parents = []
    for number in range(len(mixture.manifest["parents"])):
        folder = storage.join(mixture.run(number), "members")
        manifest = read_manifest(folder)
        if manifest is None:
            return []
        for unit in manifest.units:
            part = tables.read(storage.join(folder, f"{unit.name}.parquet"), ["key", *ROLLED])
            parents.append(part.replace_schema_metadata(None))
    known = pa.concat_tables(parents)
    place = pc.index_in(members["key"], value_set=known["key"].combine_chunks())
    first = pc.equal(members["repeat"], 0)
    found = []
    for column in ROLLED:
        values = pc.fill_null(known[column].take(place), "")
        counted = pa.table({"value": values, "first": pc.cast(first, pa.int64())})
        rows = counted.group_by("value").aggregate([("first", "count"), ("first", "sum")]).to_pylist()
        listed = [[row["value"], row["first_count"], row["first_sum"]] for row in rows]
        found.append([column, sorted(listed, key=lambda row: (-row[1], row[0]))])
    return found
