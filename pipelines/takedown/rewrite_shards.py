"""Shards of a run that lose samples, or whose card books a row otherwise: tar, index and card anew."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters import histogram_columns
from infra import storage, tables
from infra.commit import need_manifest, read_json
from infra.errors import StageError
from infra.hashing import canonical_json
from mixtures.cards import cards
from mixtures.shards.shards import assign_shards
from pipelines.core import tombstones
from pipelines.core.run import Run
from pipelines.core.signals import read_signals
from pipelines.core.verdicts import tally
from pipelines.export import export
from pipelines.takedown import rewrite_rows as rows
from pipelines.takedown import rewrite_tars
from pipelines.takedown.scan import TakedownScan
from pipelines.takedown.staging import Staging


class ShardPlan:
    """Where the rows of a run's units are booked, by the plan that its shards were made of."""

    def __init__(self, run: Run) -> None:
        self.run = run
        _need_plan(run)
        self.layout = read_json(run.work("export-layout.json"))

    @functools.lru_cache(maxsize=64)
    def booked(self, unit: str) -> NDArray[np.object_]:
        """object (n,): for each row of a unit the shard whose card accounts for it, "" where none does."""
        plan = tables.read(self.run.work("export", f"{unit}.parquet"), ["series", "weight"])
        series = np.array(plan["series"].to_pylist(), dtype=object)
        weight = np.asarray(plan["weight"], dtype=np.int64)
        found = np.full(len(series), "", dtype=object)
        for one in sorted(set(series.tolist()) & {name for name, used in self.layout["used"].items() if used}):
            mine = series == one
            start = self.layout["starts"][unit].get(one, 0)
            before = start + np.cumsum(weight[mine]) - weight[mine]
            index = assign_shards(before, self.layout["capacity"], self.layout["used"][one])
            first, modality = self.layout["first"][one], one.split(":")[0]
            found[mine] = [f"{modality}-{first + i:06d}" for i in index.tolist()]
        return found


def _need_plan(run: Run) -> None:
    """Plan again where RUN/work was cleared; it comes to the same, which is held against the shards below."""
    names = [unit.name for unit in need_manifest(run.out, "verdicts").units]
    plans = set(storage.list_names(run.work("export")))
    if storage.is_file(run.work("export-layout.json")) and {f"{name}.parquet" for name in names} <= plans:
        return
    for name in names:
        export.plan_unit(run, "takedown", name)
    export.plan_layout(run, names)


def stage(found: TakedownScan, verdicts: dict[str, pa.Table], staging: Staging) -> list[dict[str, Any]]:
    """Stage tars, indexes and cards of the shards that change; `verdicts`: new tables of the units that change.

    Returns what was done to each tar, for the report. Raises StageError where index, tar or plan do not fit together.
    """
    shards = ShardPlan(found.run)
    changed = {unit: np.union1d(_rows(found.rows, unit), _rows(found.beside, unit)) for unit in found.units}
    names = {name for unit, rows in changed.items() for name in shards.booked(unit)[rows].tolist()} - {""}
    told = []
    for name in sorted(names | set(found.shards)):
        card = read_json(found.run.at("shards", f"{name}.card.json"))
        members = tables.read(found.run.at("members", f"{name}.parquet"))
        if name in found.shards:
            source = found.run.at("shards", f"{name}.tar")
            rewrite_tars.check(source, members)
            members, spans = rewrite_tars.without(members, found.shards[name])
            sha256 = staging.make(f"shards/{name}.tar", functools.partial(rewrite_tars.copy, source, spans))
            staging.put(f"members/{name}.parquet", rows.as_in(found.run.at("members", f"{name}.parquet"), members))
            size = sum(length for _, length in spans)
            told.append({"name": name, "before": card["tar"]["bytes"], "samples": len(found.shards[name])})
            card["tar"] = {"sha256": sha256, "bytes": size + 1024 + -(size + 1024) % 10240}
        staging.put(f"shards/{name}.card.json", canonical_json(_card(found, shards, card, members, verdicts)))
    return told


def _rows(rows: dict[str, NDArray[np.int64]], unit: str) -> NDArray[np.int64]:
    return rows.get(unit, np.zeros(0, np.int64))


def _card(
    found: TakedownScan, shards: ShardPlan, held: dict[str, Any], members: pa.Table, new: dict[str, pa.Table]
) -> dict[str, Any]:
    """A shard's card over what is left, by the code that wrote it; who made it and from which rows stays."""
    run, name = found.run, held["shard"]
    signal_parts, verdict_parts, lineage = [], [], []
    said: list[dict[str, Any]] = []
    for entry in held["made_by"]["lineage"]:
        unit = entry["unit"]
        verdicts = new[unit] if unit in new else tables.read(run.at("verdicts", f"{unit}.parquet"))
        mine = shards.booked(unit) == name
        kept = np.flatnonzero(mine & np.asarray(pc.equal(verdicts["outcome"], "kept"), dtype=bool))
        verdict_parts.append(verdicts.filter(pa.array(mine)).replace_schema_metadata(None))
        facts = read_signals(run, unit).take(pa.array(kept))
        signal_parts.append(facts.replace_schema_metadata(None))
        said += _said(run, unit, verdicts["key"].take(pa.array(kept)), held["modality"])
        lineage.append({**entry, "kept": len(kept)})
    if sum(entry["kept"] for entry in lineage) != members.num_rows:
        raise StageError(
            f"the plan in {run.work('export')} is not that of {name}",
            where=run.at("shards", f"{name}.card.json"),
            hint="run `reelmill export` with this run's config first",
        )
    verdicts = pa.concat_tables(verdict_parts)
    return cards.build_card(
        name=name,
        tar=held["tar"],
        series=f"{held['modality']}:{','.join(held['suffixes'])}",
        members=members,
        signals=pa.concat_tables(signal_parts, promote_options="default"),
        score_columns=histogram_columns(filter_["name"] for filter_ in held["made_by"]["filters"]),
        ledger=tally(verdicts, {})["all"],  # type: ignore[arg-type]
        reasons=export.count_reasons(verdicts),
        dialogues=cards.summarize_dialogues(said),
        made_by={**held["made_by"], "lineage": lineage, **tombstones.describe_takedowns(verdicts)},
    )


def _said(run: Run, unit: str, keys: pa.ChunkedArray, modality: str) -> list[dict[str, Any]]:
    if run.config.annotate is None or modality == "text":
        return []
    table = tables.read(run.at("dialogues", f"{unit}.parquet"))
    rows: list[dict[str, Any]] = table.filter(pc.is_in(table["key"], value_set=keys.combine_chunks())).to_pylist()
    return rows
