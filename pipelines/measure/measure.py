"""measure: samples -> signals. Cells are taken from the store or measured, as far as the cascade reaches."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence

import pyarrow as pa

from infra import beam, progress, tables
from infra.columns import Mask, equals, is_null
from infra.commit import Manifest, collect_units, need_manifest, stage_fingerprint, write_manifest
from infra.engines.jobs import end_share, select_own
from infra.hashing import fingerprint, rows_fingerprint
from infra.store import Cells, content_ids
from pipelines.core import tombstones
from pipelines.core.at_work import note_unit
from pipelines.core.cascade import cascade_fingerprint, stage_steps
from pipelines.core.environment import request_ingest
from pipelines.core.integrity import withdraw_checksums
from pipelines.core.resolve import Resolved, Step, ordered, resolve
from pipelines.core.run import Run
from pipelines.core.sample_media import borrow_decoder, decode_limits, media_root
from pipelines.measure.cell_column import CellColumn
from pipelines.measure.reuse_cells import copy_stored_cells
from pipelines.measure.unit_measurer import UnitMeasurer
from pipelines.measure.unit_media import UnitMedia


def run(run: Run, again: Sequence[str] = ()) -> Manifest:
    """Bring RUN/signals up to date and return its manifest. again: units to measure even if they are up to date,
    because the store has lost some of their cells."""
    return _run_stage(run, "signals", need_manifest(run.out, "samples"), "measure", again)


def run_late(run: Run) -> Manifest | None:
    """Measure the annotators of `measure.late`, on kept samples only, into RUN/late; None if there are none."""
    if not resolve(run).late:
        return None
    need_manifest(run.out, "samples")
    return _run_stage(run, "late", need_manifest(run.out, "verdicts"), "measure late")


def _run_stage(run: Run, stage: str, before: Manifest, job: str, again: Sequence[str] = ()) -> Manifest:
    """before: the manifest of the stage that this one follows."""
    steps = stage_steps(run, stage)
    cascade = cascade_fingerprint(resolve(run), steps)
    takedowns = tombstones.load(run.out)
    inputs = {
        unit.name: fingerprint({"before": takedowns.original_sha256(before.stage, unit), "cascade": cascade})
        for unit in before.units
    }
    table_of = functools.partial(_table, run, stage, inputs)
    own = select_own(job, [*inputs], run.runner, table_of)
    outdated = [name for name in own if name in again or not tables.is_done(*table_of(name))]
    if outdated:
        withdraw_checksums(run)
    copy_stored_cells(run, steps, outdated)
    task = functools.partial(measure_unit, run, stage, inputs)

    def count_done() -> int:
        return sum(tables.is_done(*table_of(name)) for name in own)

    with progress.watch(job, len(own), count_done, what="units", quiet=run.quiet, uri=run.progress(job)):
        beam.run_tasks(job, task, outdated, run.work(f"{stage}.counters.json"), run.runner)
    end_share(run.runner, own)
    units = collect_units(run.at(stage), [*inputs], job)
    stamp = stage_fingerprint({"before": before.fingerprint, "cascade": cascade}, units)
    return write_manifest(run.at(stage), stage, stamp, units)


def _table(run: Run, stage: str, inputs: Mapping[str, str], unit: str) -> tuple[str, str]:
    return run.at(stage, f"{unit}.parquet"), inputs[unit]


def measure_unit(run: Run, stage: str, inputs: Mapping[str, str], name: str) -> Mapping[str, int]:
    """Task: write one unit's signals and add the new cells to the store. inputs: unit -> fingerprint of its inputs."""
    with note_unit(run, "measure" if stage == "signals" else "measure late", name):
        return _measure_unit(run, stage, inputs, name)


def _measure_unit(run: Run, stage: str, inputs: Mapping[str, str], name: str) -> Mapping[str, int]:
    begun = time.monotonic()
    steps = stage_steps(run, stage)
    samples = run.read("samples", name)
    alive = is_null(samples["error"])
    if stage == "late":
        alive &= equals(run.read("verdicts", name, ["outcome"])["outcome"], "kept")
    measurer, media = measure_rows(run, steps, name, samples, alive)
    signals = measurer.build_signals()
    retry = media.environment.total() > 0
    if media.environment["changed"]:
        request_ingest(run, name)
    tables.write(run.at(stage, f"{name}.parquet"), signals, fingerprint=inputs[name], retry=retry)
    total_ms = int(1000 * (time.monotonic() - begun))
    return {**measurer.counters, "units": 1, "samples": samples.num_rows, "total_ms": total_ms}


def measure_rows(
    run: Run, steps: tuple[Step, ...], name: str, samples: pa.Table, rows: Mask
) -> tuple[UnitMeasurer, UnitMedia]:
    """Take some rows of a unit through these steps, and add their new cells to the store. rows: bool (n,)."""
    resolved = resolve(run)
    ids = content_ids(samples)
    unitsets = {keyed_by: rows_fingerprint(values) for keyed_by, values in ids.items()}
    stores, columns = {}, {}
    for annotator_name in ordered(steps):
        annotator = resolved.annotators[annotator_name]
        needed = list_needed_columns(resolved, annotator_name)
        stores[annotator_name] = Cells(run.store, annotator_name, resolved.makers[annotator_name])
        stored = stores[annotator_name].read(unitsets[annotator.keyed_by], needed)
        columns[annotator_name] = CellColumn(annotator, needed, ids[annotator.keyed_by], stored)
    roots = {source.name: media_root(run, source) for source in run.config.sources}
    with borrow_decoder(decode_limits(resolved.measure)) as decoder:
        media = UnitMedia(samples, roots, decoder)
        measurer = UnitMeasurer(resolved, steps, samples, columns, media, run.captions_optional)
        for annotator_name, new_cells in measurer.run(rows):
            unitset = unitsets[resolved.annotators[annotator_name].keyed_by]
            stores[annotator_name].add(unitset, new_cells)
    return measurer, media


def list_needed_columns(resolved: Resolved, name: str) -> list[str]:
    """The columns of an annotator that its unit needs in memory: not vectors, unless another annotator reads them."""
    annotator = resolved.annotators[name]
    read = {column for reader in resolved.annotators.values() for column in reader.depends_on}
    return [*(c for c in annotator.columns if c not in annotator.store_only or f"{name}.{c}" in read), "error"]
