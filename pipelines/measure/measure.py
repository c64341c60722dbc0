"""measure: samples -> signals. The cascade, one decode a medium, and the store that is asked first."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotators.interface import Annotator
from infra import beam, progress, storage, tables
from infra.commit import Manifest, collect_units, need_manifest, write_manifest
from infra.hashing import fingerprint, rows_fingerprint
from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, FramePlan, Frames, MediaRef, StreamObserver
from infra.store import Cells, align, content_ids
from pipelines.core import tombstones
from pipelines.core.cascade import cascade_fingerprint, stage_steps
from pipelines.core.resolve import Resolved, Step, ordered, resolve
from pipelines.core.run import Run
from pipelines.core.sample_media import decode_limits, media_refs, process_decoder, source_root
from pipelines.core.verdicts import lacks_text, step_applies
from pipelines.measure.reuse_cells import copy_stored_cells

#: Rows of a chunk: how rows are processed, nothing that is committed depends on it.
CHUNK = 256

#: Bytes of new cells that are held before they go to the store as one part, so that vectors never pile up.
PART_BYTES = 64 * 2**20

#: The error of a medium whose decoding took too long by the clock: never stored, redone by the next run.
WATCHDOG = "watchdog"

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]


def run(run: Run) -> Manifest:
    """Bring RUN/signals up to date and return its manifest."""
    resolved = resolve(run)
    samples = need_manifest(run.out, "samples")
    return _stage(run, "signals", samples, cascade_fingerprint(resolved, resolved.steps), "measure")


def run_late(run: Run) -> Manifest | None:
    """Measure what `measure.late` names, on kept samples only, into RUN/late."""
    resolved = resolve(run)
    if not resolved.late:
        return None
    need_manifest(run.out, "samples")
    verdicts = need_manifest(run.out, "verdicts")
    return _stage(run, "late", verdicts, cascade_fingerprint(resolved, resolved.late), "measure late")


def _stage(run: Run, stage: str, before: Manifest, cascade: str, job: str) -> Manifest:
    names = [unit.name for unit in before.units]
    gone = tombstones.load(run.out)
    inputs = {unit.name: fingerprint({"before": gone.original_sha256(before.stage, unit), "cascade": cascade})
              for unit in before.units}  # fmt: skip
    folder = run.at(stage)
    todo = [name for name in names if not tables.is_done(storage.join(folder, f"{name}.parquet"), inputs[name])]
    copy_stored_cells(run, stage_steps(run, stage), todo)
    task = functools.partial(measure_unit, run, stage, inputs)
    done = functools.partial(_done, folder, inputs)
    with progress.watch(job, len(names), done, what="units", quiet=run.quiet):
        beam.run_tasks(job, task, todo, run.work(f"{stage}.counters.json"), run.runner)
    units = collect_units(folder, names, job)
    return write_manifest(folder, stage, fingerprint({"before": before.fingerprint, "cascade": cascade}), units)


def _done(folder: str, inputs: Mapping[str, str]) -> int:
    return sum(tables.is_done(storage.join(folder, f"{name}.parquet"), inputs[name]) for name in inputs)


def measure_unit(run: Run, stage: str, inputs: Mapping[str, str], name: str) -> Mapping[str, int]:
    """Task: one unit's signals, from the store where they are there, measured where not."""
    begun = time.monotonic()
    resolved = resolve(run)
    steps = stage_steps(run, stage)
    samples = tables.read(run.at("samples", f"{name}.parquet"))
    alive = np.asarray(pc.is_null(samples["error"]), dtype=bool)
    if stage == "late":
        verdicts = tables.read(run.at("verdicts", f"{name}.parquet"), ["outcome"])
        alive &= np.asarray(pc.equal(verdicts["outcome"], "kept"), dtype=bool)
    ids = content_ids(samples)
    unitsets = {of: rows_fingerprint(values) for of, values in ids.items()}
    cells: dict[str, pa.Table | None] = {}
    for annotator in ordered(steps):
        of = resolved.annotators[annotator].keyed_by
        known = Cells(run.store, annotator, resolved.makers[annotator])
        cells[annotator] = known.read(unitsets[of], held(resolved, annotator))
    roots = {source.name: source_root(source) for source in run.config.sources}
    decoder = process_decoder(decode_limits(resolved.measure))
    measurer = UnitMeasurer(resolved, steps, samples, ids, cells, alive, roots, run.captions_optional, decoder)
    for annotator, new in measurer.run():
        of = resolved.annotators[annotator].keyed_by
        Cells(run.store, annotator, resolved.makers[annotator]).add(unitsets[of], new)
    uri = run.at(stage, f"{name}.parquet")
    tables.write(uri, measurer.signals(), fingerprint=inputs[name], retry=measurer.watchdogs > 0)
    measurer.count("units", 1)
    measurer.count("samples", samples.num_rows)
    measurer.count("total_ms", int(1000 * (time.monotonic() - begun)))
    return measurer.counters


def held(resolved: Resolved, name: str) -> list[str]:
    """Columns of an annotator that are needed while its unit is at work: vectors go to the store and are let go of."""
    annotator = resolved.annotators[name]
    read = {column for other in resolved.annotators.values() for column in other.depends_on}
    wanted = [c for c in annotator.columns if c not in annotator.store_only or f"{name}.{c}" in read]
    return [*wanted, "error"]


@dataclass
class CellColumn:
    """One annotator's cells for the rows of a unit: pieces of tables, and where each row's cell is (-1: nowhere).

    new: what was measured and is not yet stored, rows and their whole tables.
    """

    annotator: Annotator
    columns: list[str]
    where: Rows
    pieces: list[pa.Table]
    reached: Mask
    starts: list[int] = field(default_factory=lambda: [0])  # of each piece, and where the next one begins
    new: list[tuple[Rows, pa.Table]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for piece in self.pieces:
            self.starts.append(self.starts[-1] + piece.num_rows)

    def add(self, rows: Rows, table: pa.Table) -> None:
        self.where[rows] = self.starts[-1] + np.arange(len(rows))
        self.pieces.append(table.select(self.columns))
        self.starts.append(self.starts[-1] + len(rows))
        self.new.append((rows, table))

    def cells(self, names: Sequence[str], rows: Rows) -> pa.Table:
        """Some columns for some rows, null where a row has no cell."""
        return self.at(names, self.where[rows])

    def at(self, names: Sequence[str], where: Rows) -> pa.Table:
        """The same by place. Only the pieces that hold one are touched: a chunk costs the same early and late."""
        if len(where) and where[0] >= 0 and (np.diff(where) == 1).all():
            which = int(np.searchsorted(self.starts, where[0], side="right")) - 1
            if where[-1] < self.starts[which + 1]:
                return self.pieces[which].select(names).slice(where[0] - self.starts[which], len(where))
        kinds = {"error": pa.string(), **self.annotator.columns}
        schema = pa.schema([(name, kinds[name]) for name in names])
        piece = np.searchsorted(self.starts, where, side="right") - 1
        order = np.argsort(piece, kind="stable")
        found = []
        for part in np.split(order, np.flatnonzero(np.diff(piece[order])) + 1):
            if not len(part):
                continue
            which = piece[part[0]]
            if which < 0:
                found.append(pa.table([pa.nulls(len(part), kind) for kind in schema.types], schema=schema))
            else:
                inside = where[part] - self.starts[which]
                found.append(self.pieces[which].select(names).cast(schema).take(pa.array(inside)))
        table = pa.concat_tables(found) if found else tables.empty(schema)
        if (np.diff(order) == 1).all():
            return table
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return table.take(pa.array(back))


class UnitMeasurer:
    """Measures the rows of one unit: what `run()` yields is for the store; then `signals()` are there.

    A row goes through the steps until it fails one. What only the text or the header is needed for is measured at
    once; a row that needs pixels waits, is decoded with the plans of all that it may still reach, and goes through the
    steps again, where what it already has costs nothing.
    """

    def __init__(
        self,
        resolved: Resolved,
        steps: tuple[Step, ...],
        samples: pa.Table,
        ids: Mapping[str, pa.Array],
        cells: Mapping[str, pa.Table | None],
        alive: Mask,
        roots: Mapping[str, str],
        captions_optional: frozenset[str],
        decoder: Decoder,
    ) -> None:
        self.resolved = resolved
        self.steps = steps
        self.samples = samples
        self.places = samples.select(["source", "media"])
        self.ids = ids
        self.alive = alive
        self.roots = roots
        self.decoder = decoder
        self.counters: dict[str, int] = {}
        self.watchdogs = 0
        self.modality = np.array(samples["modality"].to_pylist(), dtype=object)
        self.lacks_text = lacks_text(samples, captions_optional)
        self.groups: dict[str, CellColumn] = {}
        for name in ordered(steps):
            annotator = resolved.annotators[name]
            found = cells.get(name)
            where = align(ids[annotator.keyed_by], found)
            pieces = [] if found is None else [found.drop_columns(["id"])]
            columns = held(resolved, name)
            self.groups[name] = CellColumn(annotator, columns, where, pieces, np.zeros(len(where), dtype=bool))
        self.passed = {id(step): np.zeros(samples.num_rows, dtype=bool) for step in steps}
        self.fresh = 0  # bytes of new cells that are not yet stored

    def run(self) -> Iterator[tuple[str, pa.Table]]:
        """Measure all rows, chunk by chunk; yields (annotator, cells that the store did not have)."""
        before = (self.decoder.decodes, self.decoder.probes, self.decoder.decode_seconds)
        rows = np.flatnonzero(self.alive)
        for start in range(0, len(rows), CHUNK):
            waiting = self._steps(rows[start : start + CHUNK], None)
            for window, media in self._windows(waiting):
                self._steps(window, media)
                self._keep_streams(window, media)
            if self.fresh >= PART_BYTES:
                yield from self._new_cells()
        yield from self._new_cells()
        self.count("decodes", self.decoder.decodes - before[0])
        self.count("probes", self.decoder.probes - before[1])
        self.count("decode_ms", int(1000 * (self.decoder.decode_seconds - before[2])))

    def count(self, name: str, value: int) -> None:
        self.counters[name] = self.counters.get(name, 0) + value

    # -- the cascade --

    def _steps(self, rows: Rows, media: Mapping[int, DecodedMedia] | None) -> Rows:
        """Take rows through the steps; returns those that wait to be decoded."""
        alive = rows
        waiting: list[Rows] = []
        for step in self.steps:
            asked = alive[step_applies(self.resolved, step, self.modality[alive], self.lacks_text[alive])]
            active = asked
            for name in step.annotators:
                group = self.groups[name]
                able = self._modality(active, group.annotator.modalities)
                active = active[able]
                group.reached[active] = True
                todo = active[group.where[active] < 0]
                if len(todo) and media is None and group.annotator.input in ("stream", "frames"):
                    waiting.append(todo)
                    alive = np.setdiff1d(alive, todo)
                    asked, active = np.setdiff1d(asked, todo), np.setdiff1d(active, todo)
                elif len(todo):
                    self._measure(group, todo, media)
                wrong = np.asarray(pc.is_valid(group.cells(["error"], active)["error"]), dtype=bool)
                alive = np.setdiff1d(alive, active[wrong])
                active = active[~wrong]
            if step.filter is not None and step.filter.absolute:
                left = active[~self.passed[id(step)][active]]  # a row comes by again after it was decoded
                if len(left):
                    passed = step.filter.judge(self.view(step, left)).passed
                    self.passed[id(step)][left[passed]] = True
                    alive = np.setdiff1d(alive, left[~passed])
        return np.unique(np.concatenate(waiting)) if waiting else rows[:0]

    def _modality(self, rows: Rows, modalities: frozenset[str]) -> Mask:
        return np.isin(self.modality[rows], sorted(modalities))

    def view(self, step: Step, rows: Rows) -> pa.Table:
        """What a step's filter gets to see of some rows: key, modality, and all columns of the step's annotators."""
        table = self.samples.select(["key", "modality"]).take(pa.array(rows))
        columns = dict(zip(table.column_names, table.columns, strict=True))
        for name in step.annotators:
            names = [column.split(".", 1)[1] for column, _ in self.resolved.columns(name)]
            cells = self.groups[name].cells(names, rows)
            columns |= {f"{name}.{own}": cells[own] for own in names}
        return pa.table(columns)

    def _measure(self, group: CellColumn, rows: Rows, media: Mapping[int, DecodedMedia] | None) -> None:
        annotator = group.annotator
        found: list[DecodedMedia | None]
        if annotator.input == "text":
            found = [None] * len(rows)
        elif annotator.input == "header":
            found = [self._probe(int(row)) for row in rows]
        else:
            found = [(media or {}).get(int(row), DecodedMedia(error="decode: nothing came back")) for row in rows]
        chunk = self.samples.select(["key", "modality", "text"]).take(pa.array(rows))
        for column in annotator.depends_on:
            name, _, own = column.partition(".")
            chunk = chunk.append_column(column, self.groups[name].cells([own], rows)[own])
        begun = time.monotonic()
        result = annotator.measure(chunk, found)
        self.count(f"{annotator.name}_ms", int(1000 * (time.monotonic() - begun)))
        self.count(f"{annotator.name}_cells", len(rows))
        result = result.select([*annotator.columns, "error"])
        self.fresh += result.nbytes
        group.add(rows, result)

    def _keep_streams(self, rows: Rows, media: Mapping[int, DecodedMedia]) -> None:
        """What ran beside the decoder is there for rows that failed before it was asked for too: the store keeps it."""
        for group in self.groups.values():
            if group.annotator.input == "stream":
                seen = np.array(
                    [int(r) in media and group.annotator.name in media[int(r)].streams for r in rows], dtype=bool
                )
                todo = rows[seen & (group.where[rows] < 0)]
                if len(todo):
                    self._measure(group, todo, media)

    # -- media --

    def refs(self, row: int) -> list[MediaRef]:
        """Where the media of a row lie."""
        sample = self.places.slice(row, 1).to_pylist()[0]
        return media_refs({**sample, "modality": self.modality[row]}, self.roots[sample["source"]])

    def _probe(self, row: int) -> DecodedMedia:
        found = []
        for ref in self.refs(row):
            one = self.decoder.probe(ref)
            if one.error is not None:
                return self._checked(one)
            found.append(one)
        if not found:
            return DecodedMedia(error="no_medium: the sample names none")
        return DecodedMedia(header={**found[0].header, "images": len(found)})

    def _checked(self, media: DecodedMedia) -> DecodedMedia:
        if media.error is not None and media.error.startswith(WATCHDOG):
            self.watchdogs += 1
        return media

    def _windows(self, rows: Rows) -> Iterator[tuple[Rows, dict[int, DecodedMedia]]]:
        """Decode rows one by one; give them out whenever their frames fill a window."""
        held: dict[int, DecodedMedia] = {}
        size = 0
        for row in rows.tolist():
            media = self._decode(row)
            held[row] = media
            size += sum(frames.pixels.nbytes for frames in media.frames.values())
            if size >= self.resolved.measure.window_bytes:
                yield np.array(sorted(held), dtype=np.int64), held
                held, size = {}, 0
        if held:
            yield np.array(sorted(held), dtype=np.int64), held

    def _decode(self, row: int) -> DecodedMedia:
        """One pass over the row's media for everything that it may still reach."""
        plans: dict[str, FramePlan] = {}
        observers: dict[str, StreamObserver] = {}
        modality = self.modality[row]
        for name, group in self.groups.items():
            annotator = group.annotator
            if group.where[row] >= 0 or modality not in annotator.modalities:
                continue
            if annotator.keyed_by != "media" and self.lacks_text[row]:
                continue
            if annotator.input == "frames":
                plans[name] = annotator.plan  # type: ignore[attr-defined]
            elif annotator.input == "stream":
                observers[name] = annotator.observer()  # type: ignore[attr-defined]
        refs = self.refs(row)
        if not refs:
            return DecodedMedia(error="no_medium: the sample names none")
        if len(refs) > 1:
            # Images of one sample differ in shape; only the same shape can stand in one array.
            plans = {name: FramePlan("middle", plan.size, "skew") for name, plan in plans.items()}
        parts = []
        for ref in refs:
            part = self._checked(self.decoder.decode(ref, plans, observers))
            if part.error is not None:
                return part
            parts.append(part)
        return parts[0] if len(parts) == 1 else _joined(parts)

    # -- results --

    def signals(self) -> pa.Table:
        """The rows' signals: what this config's cascade reached, and nothing else that the store happens to know."""
        schema = self.resolved.schema(self.steps)
        columns = {"key": self.samples["key"]}
        for name, group in self.groups.items():
            names = [column.split(".", 1)[1] for column, _ in self.resolved.columns(name)]
            cells = group.at(names, np.where(group.reached, group.where, -1))
            columns |= {f"{name}.{own}": cells[own] for own in names}
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def _new_cells(self) -> Iterator[tuple[str, pa.Table]]:
        """For each annotator what is not yet in the store; victims of the clock are not for keeping."""
        for name, group in self.groups.items():
            if not group.new:
                continue
            rows = np.concatenate([rows for rows, _ in group.new])
            ids = self.ids[group.annotator.keyed_by].take(pa.array(rows))
            table = pa.concat_tables([table for _, table in group.new])
            table = table.add_column(0, pa.field("id", pa.binary(16)), ids)
            group.new = []
            late = pc.fill_null(pc.starts_with(table["error"], WATCHDOG), False)
            yield name, table.filter(pc.invert(late))
        self.fresh = 0


def _joined(parts: Sequence[DecodedMedia]) -> DecodedMedia:
    """Several images of one sample as one: their frames one after another."""
    frames = {}
    for name in parts[0].frames:
        pixels = np.concatenate([part.frames[name].pixels for part in parts])
        frames[name] = Frames(pixels, np.arange(len(pixels), dtype=np.float64))
    return DecodedMedia(header={**parts[0].header, "images": len(parts)}, frames=frames)
