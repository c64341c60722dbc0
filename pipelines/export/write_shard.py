"""Write one shard: its tar, its table of the members index, and its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters import histogram_columns
from infra import storage, tables
from infra.columns import equals, to_ints, to_mask
from infra.errors import SourceChanged
from infra.hashing import canonical_json, fingerprint
from mixtures.cards import cards
from mixtures.shards.series import Series
from mixtures.shards.shards import WrittenSample, write_tar
from pipelines.core import tombstones
from pipelines.core.at_work import note_unit
from pipelines.core.environment import kind_of_reason, request_ingest
from pipelines.core.run import Run
from pipelines.core.signals import read_signals
from pipelines.core.verdicts import ENVIRONMENT, tally
from pipelines.export.provenance import describe_run
from pipelines.export.samples import ExportRow, ShardSample, build_sample
from pipelines.export.shard_plan import ExportPlan


@dataclass
class CardInputs:
    """Rows of each unit in the shard's range, from which its card is computed (with the shard's members).

    signals, dialogues: of kept rows, and the number of their unused captions; verdicts: of all rows; lineage: unit, its
    first and last kept row, number kept.
    """

    signals: list[pa.Table] = field(default_factory=list)
    verdicts: list[pa.Table] = field(default_factory=list)
    dialogues: list[dict[str, Any]] = field(default_factory=list)
    unused_captions: int = 0
    lineage: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        unit: str,
        kept: NDArray[np.int64],
        unused_captions: pa.ChunkedArray,
        signals: pa.Table,
        verdicts: pa.Table,
        dialogues: Sequence[dict[str, Any]],
    ) -> None:
        """Add the rows of one unit. kept: (n,), ascending; unused_captions, signals: of these rows."""
        self.unused_captions += int(pc.sum(unused_captions).as_py() or 0)
        self.signals.append(signals.replace_schema_metadata(None))
        self.verdicts.append(verdicts.replace_schema_metadata(None))
        self.dialogues += dialogues
        rows = [int(kept[0]), int(kept[-1])] if len(kept) else []
        self.lineage.append({"unit": unit, "rows": rows, "kept": len(kept)})


def members_table(run: Run, stamp: str, name: str) -> tuple[str, str]:
    """The URI of a shard's members, and the fingerprint of what they depend on."""
    plan = ExportPlan.need(run)
    series, index = plan.locate(name)
    inputs = fingerprint([stamp, series, index, plan.layout.capacity, plan.layout.used[series]])
    return run.at("members", f"{name}.parquet"), inputs


def write_shard(run: Run, stamp: str, name: str) -> Mapping[str, int]:
    """Task: write one shard, its card last."""
    with note_unit(run, "export", name):
        return _write_shard(run, stamp, name)


def _write_shard(run: Run, stamp: str, name: str) -> Mapping[str, int]:
    card_uri, tar_uri = run.at("shards", f"{name}.card.json"), run.at("shards", f"{name}.tar")
    members_uri, inputs = members_table(run, stamp, name)
    plan = ExportPlan.need(run)
    series, index = plan.locate(name)
    if tables.is_done(members_uri, inputs) and storage.is_file(card_uri) and storage.is_file(tar_uri):
        return {"shards_kept": 1}
    rows, card_inputs = _read_rows(run, plan, series, index)
    samples = [build_sample(run, row) for row in sorted(rows, key=lambda row: str(row.sample["key"]))]
    try:
        with storage.publish_when_written(tar_uri) as tar:
            tar.sha256, written = write_tar(tar.path, ((sample.record["id"], sample.members) for sample in samples))
            size = tar.path.stat().st_size
    except SourceChanged:
        for stretch in card_inputs.lineage:
            request_ingest(run, stretch["unit"])
        raise
    members = _build_members(name, samples, written)
    tables.write(members_uri, members, fingerprint=inputs)
    tar_facts = {"sha256": tar.sha256, "bytes": size}
    card = build_card(name, tar_facts, Series.parse(series), members, card_inputs, describe_run(run))
    storage.write_bytes(card_uri, canonical_json(card))
    return {"shards_made": 1, "samples": len(samples), "bytes": size}


def _read_rows(run: Run, plan: ExportPlan, series: str, index: int) -> tuple[list[ExportRow], CardInputs]:
    """Read the rows that a shard exports, and the inputs of its card."""
    rows: list[ExportRow] = []
    inputs = CardInputs()
    for unit in plan.list_units(series, index):
        planned = run.read_work("export", unit)
        in_series = np.flatnonzero(equals(planned["series"], series))
        if not len(in_series):
            continue
        in_shard = in_series[plan.assign(unit, series, to_ints(planned["weight"])[in_series]) == index]
        kept = in_shard[to_mask(planned["kept"])[in_shard]]
        positions = pa.array(kept)
        signals = read_signals(run, unit).take(positions)
        samples = run.read("samples", unit).take(positions)
        dialogues = read_dialogues(run, unit, samples["key"], Series.parse(series).modality)
        columns = (samples.to_pylist(), signals.to_pylist(), planned["caption"].take(positions).to_pylist())
        for sample, facts, caption in zip(*columns, strict=True):
            rows.append(ExportRow(sample, facts, caption, dialogues.get(sample["key"])))
        unit_dialogues = [dialogues[key] for key in samples["key"].to_pylist() if key in dialogues]
        verdicts = run.read("verdicts", unit).take(pa.array(in_shard))
        inputs.add(unit, kept, samples["unused_captions"], signals, verdicts, unit_dialogues)
    return rows, inputs


def read_dialogues(run: Run, unit: str, keys: pa.ChunkedArray, modality: str) -> dict[str, dict[str, Any]]:
    """Read a unit's dialogues of these samples, by key, in the table's order; empty where the config requests none."""
    if run.config.annotate is None or modality == "text":
        return {}
    table = run.read("dialogues", unit)
    table = table.filter(pc.is_in(table["key"], value_set=keys.combine_chunks()))
    return {row["key"]: row for row in table.to_pylist()}


def _build_members(shard: str, samples: Sequence[ShardSample], written: Sequence[WrittenSample]) -> pa.Table:
    rows = []
    for sample, position in zip(samples, written, strict=True):
        record = sample.record
        rows.append(
            {
                "key": position.key,
                "shard": shard,
                "offset": position.offset,
                "size": position.size,
                "members": [{"name": name, "offset": at, "size": size} for name, at, size in position.members],
                "modality": record["data_type"],
                "source": record["data_source"],
                "licence": record["licence"],
                "kind": record["kind"],
                "language": record["language"],
                "tokens": record["tokens"],
                "text_tokens": sample.text_tokens,
                "images": sample.row.images,
                "seconds": sample.row.seconds,
                "bytes": sample.bytes,
            }
        )
    return pa.Table.from_pylist(rows, schema=tables.MEMBERS)


def build_card(
    name: str, tar: Mapping[str, Any], series: Series, members: pa.Table, inputs: CardInputs, made_by: Mapping[str, Any]
) -> dict[str, Any]:
    """Build a shard's card. tar: {sha256, bytes}; made_by: run, code and models; lineage and take-downs are added."""
    verdicts = pa.concat_tables(inputs.verdicts)
    return cards.build_card(
        name=name,
        tar=tar,
        series=series,
        members=members,
        signals=pa.concat_tables(inputs.signals, promote_options="default"),
        score_columns=histogram_columns(filter_["name"] for filter_ in made_by["filters"]),
        ledger=tally(verdicts, {})["all"],  # type: ignore[arg-type]
        reasons=count_reasons(verdicts),
        unused_captions=inputs.unused_captions,
        dialogues=cards.summarize_dialogues(inputs.dialogues),
        made_by={**made_by, "lineage": inputs.lineage, **tombstones.describe_takedowns(verdicts)},
    )


def count_reasons(verdicts: pa.Table) -> dict[str, int]:
    """Count the rows that were not kept by "filter: reason"; failures at ingest and of the environment by kind only."""
    rows = verdicts.filter(pc.not_equal(verdicts["outcome"], "kept"))
    reasons = []
    for name, reason in zip(rows["filter"].to_pylist(), rows["reason"].to_pylist(), strict=True):
        text = str(reason).split(":")[0] if name == "ingest" else str(reason)
        text = kind_of_reason(text) if name == ENVIRONMENT else text
        reasons.append(f"{name}: {text[:60]}")
    return cards.count_values(reasons)
