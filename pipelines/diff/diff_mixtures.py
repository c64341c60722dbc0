"""Two mixtures: shares in all four units, who entered and left, whose repeats changed, what differs in the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import storage, tables
from infra.commit import read_manifest
from mixtures.shards.manifest import Mixture, open_mixture
from pipelines.diff.diff_values import files_of, settings, show_files, show_settings

#: Keys shown as examples.
EXAMPLES = 5

UNITS = ("samples", "tokens", "seconds", "bytes")
#: By what shares are told; the first stands in the mixture itself, the others in its parents' members.
BY = ("modality", "source", "licence", "kind")


def compare(a: str, b: str) -> dict[str, Any]:
    """What differs between two mixtures; nothing is written."""
    one, other = open_mixture(a), open_mixture(b)
    notes: list[str] = []
    shares = [_shares(mixture, notes) for mixture in (one, other)]
    keys = _keys(one.members(["key"]), other.members(["key"]))
    asked = ("recipe", "unit", "seed", "contract", "vshards")
    recipe = settings(*({name: mixture.manifest.get(name) for name in asked} for mixture in (one, other)))
    shards = files_of(
        *({f"{s['name']}@{s['parent']}": s["sha256"] for s in m.manifest["shards"]} for m in (one, other))
    )
    members = one.manifest["members"]["sha256"] == other.manifest["members"]["sha256"]
    return {
        "same": members and not recipe and shards["same"] and _tars(one) == _tars(other),
        "recipe": recipe,
        "totals": {unit: {"a": one.manifest["totals"][unit], "b": other.manifest["totals"][unit]} for unit in UNITS},
        "shares": [
            {"by": by, "name": name, "unit": unit, "a": x, "b": y}
            for by in BY
            for name in sorted({*shares[0].get(by, {}), *shares[1].get(by, {})})
            for unit in UNITS
            if (x := shares[0].get(by, {}).get(name, {}).get(unit))
            != (y := shares[1].get(by, {}).get(name, {}).get(unit))
        ],
        "keys": keys,
        "parents": settings(_parents(one), _parents(other)),
        "shards": shards,
        "materialized": files_of(_tars(one), _tars(other)),
        "notes": notes,
    }


def _tars(mixture: Mixture) -> dict[str, str]:
    return {tar["name"]: tar["sha256"] for tar in mixture.manifest.get("materialized") or ()}


def _parents(mixture: Mixture) -> dict[str, str]:
    return {parent["name"]: parent["members"] for parent in mixture.manifest["parents"]}


# -- shares -----------------------------------------------------------------------------------------------------


def _shares(mixture: Mixture, notes: list[str]) -> dict[str, dict[str, dict[str, float]]]:
    """{by: {name: {unit: share}}}, shares to six decimals."""
    table = mixture.members(["key", "group", "shard", "tokens", "seconds", "bytes"])
    groups = [str(group.get("modality", group["name"])) for group in mixture.manifest["groups"]]
    labels = {"modality": _label(groups, table["group"])}
    facts = _facts(mixture, table, notes)
    labels |= {by: facts[by] for by in BY[1:]} if facts is not None else {}
    weights = {
        "samples": np.ones(table.num_rows),
        **{unit: np.asarray(table[unit], dtype=np.float64) for unit in UNITS[1:]},
    }
    found: dict[str, dict[str, dict[str, float]]] = {}
    for by, column in labels.items():
        coded = pc.dictionary_encode(pc.fill_null(column, ""))
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        codes, names = np.asarray(coded.indices, dtype=np.int64), coded.dictionary.to_pylist()
        for unit, weight in weights.items():
            sums = np.bincount(codes, weights=weight, minlength=len(names))
            total = float(sums.sum())
            for name, value in zip(names, sums.tolist(), strict=True):
                share = round(value / total, 6) if total else 0.0
                found.setdefault(by, {}).setdefault(name, {})[unit] = share
    return found


def _label(names: list[str], index: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(names, pa.string())]).take(index)


def _facts(mixture: Mixture, table: pa.Table, notes: list[str]) -> pa.Table | None:
    """source, licence and kind of each row, from the members of its runs; None where those are gone."""
    parts = []
    shards = mixture.manifest["shards"]
    for number, shard in enumerate(shards):
        folder = storage.join(mixture.run(shard["parent"]), "members")
        uri = storage.join(folder, f"{shard['name']}.parquet")
        if read_manifest(folder) is None or not storage.is_file(uri):
            notes.append(f"{mixture.uri}: {uri} is not there: shares by {', '.join(BY[1:])} are left out")
            return None
        part = tables.read(uri, ["key", *BY[1:]]).replace_schema_metadata(None)
        parts.append(part.append_column("shard", pa.array(np.full(part.num_rows, number, dtype=np.int32))))
    if not parts:
        return None
    # A key may lie in two runs: a row is found by shard and key.
    index = pa.concat_tables(parts)
    place = pc.index_in(_named(table), value_set=_named(index).combine_chunks())
    if place.null_count:
        notes.append(f"{mixture.uri}: {place.null_count:,} of its samples are no longer in the runs that it stands on")
    return index.select(list(BY[1:])).take(place)


def _named(table: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(table["key"], pc.cast(table["shard"], pa.string()), "@")


# -- keys -------------------------------------------------------------------------------------------------------


def _keys(a: pa.Table, b: pa.Table) -> dict[str, Any]:
    """Who entered, who left, and whose number of repeats changed."""
    left, right = _times(a), _times(b)
    place = np.asarray(pc.fill_null(pc.index_in(left["values"], value_set=right["values"]), -1), dtype=np.int64)
    there = place >= 0
    counts_a, counts_b = (np.asarray(t["counts"], dtype=np.int64) for t in (left, right))
    entered = pc.filter(right["values"], pc.invert(pc.is_in(right["values"], value_set=left["values"])))
    changed = there.copy()
    changed[there] = counts_a[there] != counts_b[place[there]]
    return {
        "a": len(counts_a),
        "b": len(counts_b),
        "both": int(there.sum()),
        "entered": _some(entered),
        "left": _some(pc.filter(left["values"], pa.array(~there))),
        "repeats": _some(pc.filter(left["values"], pa.array(changed))),
    }


def _times(table: pa.Table) -> dict[str, pa.Array]:
    found = pc.value_counts(table["key"])
    return {"values": found.field("values"), "counts": found.field("counts")}


def _some(keys: pa.Array) -> dict[str, Any]:
    first = keys.take(pc.select_k_unstable(keys, EXAMPLES, [("", "ascending")])) if len(keys) else keys
    return {"count": len(keys), "examples": first.to_pylist()}


# -- for people -------------------------------------------------------------------------------------------------


def show(out: Console, value: Mapping[str, Any]) -> None:
    """Tables of what differs."""
    show_settings(out, "Recipe", value["recipe"])
    show_settings(out, "Parents", value["parents"])
    totals = Table(title="Totals", title_justify="left")
    shares = Table(title="Shares, where they differ", title_justify="left")
    for name in ("", "A", "B"):
        totals.add_column(name, justify="right" if name else "left")
    for unit, entry in value["totals"].items():
        totals.add_row(unit, f"{entry['a']:,}", f"{entry['b']:,}")
    for name in ("by", "name", "unit", "A", "B"):
        shares.add_column(name, justify="right" if len(name) == 1 else "left")
    for entry in value["shares"]:
        both = ("" if entry[side] is None else f"{entry[side]:.2%}" for side in ("a", "b"))
        shares.add_row(entry["by"], escape(entry["name"]), entry["unit"], *both)
    for table in (totals, shares):
        if table.row_count:
            out.print(table)
    keys = value["keys"]
    counts = ", ".join(f"{keys[name]['count']:,} {name}" for name in ("entered", "left"))
    out.print(f"samples: {keys['both']:,} in both, {counts}, {keys['repeats']['count']:,} repeated otherwise")
    show_files(out, "materialized", value["materialized"])
    for note in value["notes"]:
        out.print(f"- {escape(note)}", highlight=False)
