"""Compare two mixtures: shares in all four units, samples that entered or left, repeats, recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra import storage, tables
from infra.columns import to_floats, to_ints
from infra.commit import read_manifest
from mixtures.plan.recipe import UNITS
from mixtures.shards.manifest import Mixture, open_mixture
from pipelines.core.console import print_text
from pipelines.diff.compare import compare_files, compare_settings, show_files, show_rows, show_settings

#: Keys listed as examples.
EXAMPLES = 5

#: Columns by which shares are compared; a mixture contains the first, the members of its runs contain the others.
BY = ("modality", "source", "licence", "kind")

#: Keys of the manifest that say what was requested.
_RECIPE = ("recipe", "unit", "seed", "contract", "vshards")

#: column -> name -> unit -> share
Shares = dict[str, dict[str, dict[str, float]]]


def compare(a: str, b: str) -> dict[str, Any]:
    """Compare two mixtures, as `reelmill diff --json` prints it; read-only."""
    mixtures = open_mixture(a), open_mixture(b)
    side_a, side_b = (mixture.manifest for mixture in mixtures)
    notes: list[str] = []
    shares = [_compute_shares(mixture, notes) for mixture in mixtures]
    recipe = compare_settings(*({name: manifest.get(name) for name in _RECIPE} for manifest in (side_a, side_b)))
    shards = compare_files(
        *({f"{s['name']}@{s['parent']}": s["sha256"] for s in manifest["shards"]} for manifest in (side_a, side_b))
    )
    parents = [{parent["name"]: parent["members"] for parent in manifest["parents"]} for manifest in (side_a, side_b)]
    tars = [{t["name"]: t["sha256"] for t in manifest.get("materialized") or ()} for manifest in (side_a, side_b)]
    same_members = side_a["members"]["sha256"] == side_b["members"]["sha256"]
    return {
        "same": same_members and not recipe and shards["same"] and tars[0] == tars[1],
        "recipe": recipe,
        "totals": {unit: {"a": side_a["totals"][unit], "b": side_b["totals"][unit]} for unit in UNITS},
        "shares": _compare_shares(*shares),
        "keys": _compare_keys(*(mixture.members(["key"]) for mixture in mixtures)),
        "parents": compare_settings(*parents),
        "shards": shards,
        "materialized": compare_files(*tars),
        "notes": notes,
    }


# -- shares -----------------------------------------------------------------------------------------------------


def _compare_shares(a: Shares, b: Shares) -> list[dict[str, Any]]:
    """[{by, name, unit, a, b}] of the shares that differ; None for a name that one mixture lacks."""
    entries = [
        {"by": by, "name": name, "unit": unit} | {
            side: shares.get(by, {}).get(name, {}).get(unit) for side, shares in (("a", a), ("b", b))
        }
        for by in BY
        for name in sorted({*a.get(by, {}), *b.get(by, {})})
        for unit in UNITS
    ]  # fmt: skip
    return [entry for entry in entries if entry["a"] != entry["b"]]


def _compute_shares(mixture: Mixture, notes: list[str]) -> Shares:
    """Shares by all columns that can be read, to six decimals."""
    table = mixture.members(["key", "group", "shard", "tokens", "seconds", "bytes"])
    groups = [str(group.get("modality", group["name"])) for group in mixture.manifest["groups"]]
    columns = {"modality": pa.chunked_array([pa.array(groups, pa.string())]).take(table["group"])}
    provenance = _read_provenance(mixture, table, notes)
    if provenance is not None:
        columns |= {by: provenance[by] for by in BY[1:]}
    weights = {unit: np.ones(table.num_rows) if unit == "samples" else to_floats(table[unit]) for unit in UNITS}
    shares: Shares = {}
    for by, column in columns.items():
        coded = pc.dictionary_encode(pc.fill_null(column, ""))
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        codes, names = to_ints(coded.indices), coded.dictionary.to_pylist()
        shares[by] = {name: {} for name in names}
        for unit, weight in weights.items():
            sums = np.bincount(codes, weights=weight, minlength=len(names))
            total = float(sums.sum())
            for name, amount in zip(names, sums.tolist(), strict=True):
                shares[by][name][unit] = round(amount / total, 6) if total else 0.0
    return shares


def _read_provenance(mixture: Mixture, table: pa.Table, notes: list[str]) -> pa.Table | None:
    """source, licence and kind of each row, from the members of its runs; None, with a note, if a run is missing."""
    columns, members = list(BY[1:]), []
    for number, shard in enumerate(mixture.manifest["shards"]):
        folder = storage.join(mixture.run(shard["parent"]), "members")
        uri = storage.join(folder, f"{shard['name']}.parquet")
        if read_manifest(folder) is None or not storage.is_file(uri):
            notes.append(f"{mixture.uri}: {uri} is missing, so shares by {', '.join(columns)} are left out")
            return None
        rows = tables.read(uri, ["key", *columns]).replace_schema_metadata(None)
        members.append(rows.append_column("shard", pa.array(np.full(rows.num_rows, number, dtype=np.int32))))
    if not members:
        return None
    # Two runs may contain the same key, so rows are matched by shard and key.
    index = pa.concat_tables(members)
    rows_of_keys = pc.index_in(_name_rows(table), value_set=_name_rows(index).combine_chunks())
    if rows_of_keys.null_count:
        notes.append(f"{mixture.uri}: {rows_of_keys.null_count:,} of its samples are no longer in its runs")
    return index.select(columns).take(rows_of_keys)


def _name_rows(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["key"], pc.cast(table["shard"], pa.string()), "@")


# -- keys -------------------------------------------------------------------------------------------------------


def _compare_keys(a: pa.Table, b: pa.Table) -> dict[str, Any]:
    """Samples that entered or left, and samples in both whose number of repeats changed."""
    (keys_a, counts_a), (keys_b, counts_b) = (_count_keys(table) for table in (a, b))
    row = to_ints(pc.index_in(keys_a, value_set=keys_b))
    in_both = row >= 0
    changed = in_both.copy()
    changed[in_both] = counts_a[in_both] != counts_b[row[in_both]]
    return {
        "a": len(keys_a),
        "b": len(keys_b),
        "both": int(in_both.sum()),
        "entered": _list_some(keys_b.filter(pc.invert(pc.is_in(keys_b, value_set=keys_a)))),
        "left": _list_some(keys_a.filter(pa.array(~in_both))),
        "repeats": _list_some(keys_a.filter(pa.array(changed))),
    }


def _count_keys(table: pa.Table) -> tuple[pa.Array, Any]:
    """(distinct keys, how often each occurs)."""
    counts = pc.value_counts(table["key"])
    return counts.field("values"), to_ints(counts.field("counts"))


def _list_some(keys: pa.Array) -> dict[str, Any]:
    first = keys.take(pc.select_k_unstable(keys, EXAMPLES, [("", "ascending")])) if len(keys) else keys
    return {"count": len(keys), "examples": first.to_pylist()}


# -- for people -------------------------------------------------------------------------------------------------


def show(changes: Mapping[str, Any]) -> None:
    """Print tables of what differs."""
    show_settings("Recipe", changes["recipe"])
    show_settings("Parents", changes["parents"])
    totals = [(unit, f"{entry['a']:,}", f"{entry['b']:,}") for unit, entry in changes["totals"].items()]
    show_rows("Totals", ("", "A", "B"), totals)
    shares = [
        (entry["by"], entry["name"], entry["unit"],
         *("" if entry[side] is None else f"{entry[side]:.2%}" for side in ("a", "b")))
        for entry in changes["shares"]
    ]  # fmt: skip
    show_rows("Shares that differ", ("by", "name", "unit", "A", "B"), shares, aligned_left=("name", "unit"))
    keys = changes["keys"]
    counts = ", ".join(f"{keys[name]['count']:,} {name}" for name in ("entered", "left"))
    print_text(f"samples: {keys['both']:,} in both, {counts}, {keys['repeats']['count']:,} with changed repeats")
    show_files("materialized", changes["materialized"])
    print_text(*(f"- {note}" for note in changes["notes"]))
