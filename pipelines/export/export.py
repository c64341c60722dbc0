"""Export kept samples as shards with a members index and cards, and describe the run.

Media are copied once, and their checksums verified.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from infra import beam, progress, storage
from infra.columns import to_strings
from infra.commit import Manifest, collect_units, need_manifest, read_json, read_manifest, write_manifest
from infra.engines.jobs import end_share, select_own, take_turns
from infra.hashing import canonical_json, fingerprint
from mixtures.cards import cards
from pipelines.core.integrity import withdraw_checksums
from pipelines.core.run import Run
from pipelines.core.verdicts import add_ledgers, tally
from pipelines.export.dataset_card import write_dataset_card
from pipelines.export.provenance import write_checksums, write_run_json
from pipelines.export.shard_plan import ExportPlan, plan_layout, plan_unit
from pipelines.export.write_shard import members_table, write_shard


def run(run: Run) -> Manifest:
    """Write RUN/shards with their cards, RUN/members, the data-set card, run.json and checksums.json.

    Returns the manifest of members. Raises StageError where the config requests dialogues and they are not written.
    """
    verdicts = need_manifest(run.out, "verdicts")
    late = read_manifest(run.at("late"))
    dialogues = None if run.config.annotate is None else need_manifest(run.out, "dialogues")
    settings = run.config.export.model_dump(mode="json")
    sources = [source.model_dump(mode="json", exclude={"path"}) for source in run.config.sources]
    inputs = [verdicts.fingerprint, *(m.fingerprint if m else None for m in (late, dialogues))]
    stamp = fingerprint([*inputs, settings, sources, cards.VERSION])
    units = [unit.name for unit in verdicts.units]
    before = read_manifest(run.at("members"))
    if before is None or before.fingerprint != stamp:
        withdraw_checksums(run)
    plan, plan_counters = functools.partial(plan_unit, run, stamp), run.work("export-plan.json")
    beam.run_tasks("plan shards", plan, take_turns(units, run.runner), plan_counters, run.runner_for(verdicts.rows))
    names = plan_layout(run, units).layout.names()
    own = select_own("export", names, run.runner, functools.partial(members_table, run, stamp))
    with progress.watch(
        "export",
        len(names),
        functools.partial(_count_cards, run),
        what="shards",
        quiet=run.quiet,
        uri=run.progress("export"),
    ):
        write, counters = functools.partial(write_shard, run, stamp), run.work("export.counters.json")
        beam.run_tasks("export", write, own, counters, run.runner)
    end_share(run.runner, own)
    members = collect_units(run.at("members"), names, "export")
    manifest = write_manifest(run.at("members"), "members", stamp, members)
    _remove_stale(run, names)
    write_unsharded_counts(run, units)
    write_dataset_card(run, names)
    write_run_json(run)
    write_checksums(run, names)
    return manifest


def _count_cards(run: Run) -> int:
    return sum(name.endswith(".card.json") for name in storage.list_names(run.at("shards")))


def _remove_stale(run: Run, names: Sequence[str]) -> None:
    """Remove the shards of an earlier, larger export, which a glob would read together with these."""
    for stage in ("members", "shards"):
        for file in storage.list_names(run.at(stage)):
            if file != "_manifest.json" and file.split(".")[0] not in names:
                storage.remove(run.at(stage, file))


def write_unsharded_counts(run: Run, units: Sequence[str]) -> None:
    """Add the inputs that belong to no shard to the ledger, for example those of a series without kept samples."""
    sharded = ExportPlan.need(run).used_series
    ledgers = []
    for unit in units:
        series = to_strings(run.read_work("export", unit, ["series"])["series"])
        verdicts = run.read("verdicts", unit, ["modality", "outcome", "filter"])
        ledgers.append(tally(verdicts.filter(pa.array(~np.isin(series, sharded))), {}))
    total: Mapping[str, Any] = add_ledgers(ledgers).get("all", {})  # type: ignore[arg-type]
    ledger = read_json(run.at("ledger.json"))
    ledger["all"]["unsharded"] = {
        key: total.get(key, {} if key in ("dropped", "failed") else 0)
        for key in ("inputs", "kept", "dropped", "duplicates", "failed")
    }
    storage.write_bytes(run.at("ledger.json"), canonical_json(ledger))
