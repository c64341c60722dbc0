"""Rewrite the shards that lose samples, or whose card counts a row that changed: tar, members index and card."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import tables
from infra.columns import equals, to_ints, to_strings
from infra.commit import need_manifest, read_json
from infra.errors import StageError
from infra.hashing import canonical_json
from mixtures.shards.series import Series
from mixtures.shards.ustar import count_end
from pipelines.core.run import Run
from pipelines.core.signals import read_signals
from pipelines.export.shard_plan import ExportPlan, plan_layout, plan_unit
from pipelines.export.write_shard import CardInputs, build_card, read_dialogues
from pipelines.takedown import rewrite_rows, rewrite_tars
from pipelines.takedown.scan import TakedownScan
from pipelines.takedown.staging import Staging


class ShardPlan:
    """The export plan of a run: which shard's card counts each row. Planned again if RUN/work was removed or is
    damaged; that gives the same plan, which `_build_card` verifies."""

    def __init__(self, run: Run) -> None:
        self.run = run
        names = [unit.name for unit in need_manifest(run.out, "verdicts").units]
        plan = ExportPlan.read(run)
        if plan is None or not all(tables.is_readable(run.work("export", f"{name}.parquet")) for name in names):
            for name in names:
                plan_unit(run, "takedown", name)
            plan = plan_layout(run, names)
        self.plan = plan

    @functools.lru_cache(maxsize=64)  # threads: a take-down has one
    def find_shards(self, unit: str) -> NDArray[np.object_]:
        """object (n,): the shard whose card counts each row of a unit, "" if none does."""
        plan = self.run.read_work("export", unit, ["series", "weight"])
        series, weight = to_strings(plan["series"]), to_ints(plan["weight"])
        shards = np.full(len(series), "", dtype=object)
        for name in set(series.tolist()) & set(self.plan.used_series):
            rows = series == name
            indexes = self.plan.assign(unit, name, weight[rows]).tolist()
            shards[rows] = [self.plan.layout.name(name, index) for index in indexes]
        return shards


def stage(scan: TakedownScan, verdicts: dict[str, pa.Table], staging: Staging) -> list[dict[str, Any]]:
    """Stage tar, index and card of each shard that changes. verdicts: the new tables of the units that change.

    Returns name, former bytes and number of removed samples of each rewritten tar.
    Raises StageError if index, tar and plan contradict each other.
    """
    plan = ShardPlan(scan.run)
    names = {name for unit in scan.units for name in plan.find_shards(unit)[scan.changed_rows(unit)].tolist()} - {""}
    rewritten = []
    for name in sorted(names | set(scan.shards)):
        card = read_json(scan.run.at("shards", f"{name}.card.json"))
        members = scan.run.read("members", name)
        if name in scan.shards:
            source = scan.run.at("shards", f"{name}.tar")
            rewrite_tars.check_offsets(source, members)
            members, spans = rewrite_tars.remove_members(members, scan.shards[name])
            sha256 = staging.write(f"shards/{name}.tar", functools.partial(rewrite_tars.copy_spans, source, spans))
            path = f"members/{name}.parquet"
            staging.put(path, rewrite_rows.encode_table(scan.run.at(path), members))
            size = sum(length for _, length in spans)
            rewritten.append({"name": name, "before": card["tar"]["bytes"], "samples": len(scan.shards[name])})
            card["tar"] = {"sha256": sha256, "bytes": size + count_end(size)}
        staging.put(f"shards/{name}.card.json", canonical_json(_build_card(scan.run, plan, card, members, verdicts)))
    return rewritten


def _build_card(
    run: Run, plan: ShardPlan, card: dict[str, Any], members: pa.Table, new: dict[str, pa.Table]
) -> dict[str, Any]:
    """Rebuild a shard's card from what remains, as export does. card: the former one; who made it is unchanged."""
    inputs = CardInputs()
    for entry in card["made_by"]["lineage"]:
        unit = entry["unit"]
        table = new[unit] if unit in new else run.read("verdicts", unit)
        counted = plan.find_shards(unit) == card["shard"]
        kept = np.flatnonzero(counted & equals(table["outcome"], "kept"))
        rows = pa.array(kept)
        dialogues = read_dialogues(run, unit, table["key"].take(rows), card["modality"])
        unused = run.read("samples", unit, ["unused_captions"])["unused_captions"].take(rows)
        verdicts, signals = table.filter(pa.array(counted)), read_signals(run, unit).take(rows)
        inputs.add(unit, kept, unused, signals, verdicts, list(dialogues.values()))
    if sum(entry["kept"] for entry in inputs.lineage) != members.num_rows:
        raise StageError(
            f"the plan in {run.work('export')} does not match {card['shard']}",
            where=run.at("shards", f"{card['shard']}.card.json"),
            hint="run `reelmill export` with this run's config first",
        )
    return build_card(card["shard"], card["tar"], Series.of_card(card), members, inputs, card["made_by"])
