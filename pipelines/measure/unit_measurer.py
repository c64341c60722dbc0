"""The cascade over the rows of one unit: each row is measured until a filter stops it, and decoded at most once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from annotators.interface import FrameAnnotator, StreamAnnotator
from infra.columns import Mask, is_valid, to_strings
from infra.media.interface import DecodedMedia, FramePlan, StreamObserver
from pipelines.core.resolve import Resolved, Step
from pipelines.core.verdicts import lacks_text, step_applies
from pipelines.measure.cell_column import CellColumn, Rows
from pipelines.measure.unit_media import UnitMedia

#: Rows that go through the cascade together. No output depends on it.
CHUNK_ROWS = 256

#: Bytes of new cells in memory, vectors mostly, from which they are stored as a part.
PART_BYTES = 64 * 2**20


class UnitMeasurer:
    """Measures one unit. `run` yields cells for the store; `build_signals` gives the signals afterwards.

    A row goes through the steps until it fails one. Annotators of texts and headers measure at once. A row that needs
    pixels waits, is decoded once for every annotator that it may still reach, and goes through the steps again, where
    the cells that it already has cost nothing.
    """

    def __init__(
        self,
        resolved: Resolved,
        steps: tuple[Step, ...],
        samples: pa.Table,
        columns: Mapping[str, CellColumn],
        media: UnitMedia,
        captions_optional: frozenset[str],
    ) -> None:
        """columns: by the name of their annotator; captions_optional: sources whose media may lack a caption."""
        self.counters: Counter[str] = Counter()
        self._resolved = resolved
        self._steps = steps
        self._samples = samples
        self._columns = columns
        self._media = media
        self._modality = to_strings(samples["modality"])
        self._lacks_text = lacks_text(samples, captions_optional)
        self._passed = {id(step): np.zeros(samples.num_rows, dtype=bool) for step in steps}
        self._new_bytes = 0

    def run(self, alive: Mask) -> Iterator[tuple[str, pa.Table]]:
        """Measure the rows that are alive, chunk by chunk; yields (annotator, new cells)."""
        rows = np.flatnonzero(alive)
        for start in range(0, len(rows), CHUNK_ROWS):
            waiting = self._run_steps(rows[start : start + CHUNK_ROWS], None)
            for window, media in self._decode_windows(waiting):
                self._run_steps(window, media)
                self._keep_streams(window, media)
            if self._new_bytes >= PART_BYTES:
                yield from self._take_new_cells()
        yield from self._take_new_cells()
        self.counters.update(self._media.counters())

    def _take_new_cells(self) -> Iterator[tuple[str, pa.Table]]:
        for name, column in self._columns.items():
            cells = column.take_new()
            if cells is not None:
                yield name, cells
        self._new_bytes = 0

    def build_signals(self) -> pa.Table:
        """The signals that this cascade reached; other cells of the store stay out."""
        schema = self._resolved.schema(self._steps)
        columns = {"key": self._samples["key"]}
        for name, column in self._columns.items():
            columns |= _prefix(name, column.select_reached(self._signal_names(name)))
        return pa.table([columns[name] for name in schema.names], schema=schema)

    def _signal_names(self, annotator: str) -> list[str]:
        """The columns of an annotator that belong into signals, without its prefix."""
        return [column.split(".", 1)[1] for column, _ in self._resolved.columns(annotator)]

    def _run_steps(self, rows: Rows, media: Mapping[int, DecodedMedia] | None) -> Rows:
        """Take rows through the steps; returns those that must be decoded first. media: None before decoding."""
        alive = rows
        waiting: list[Rows] = []
        for step in self._steps:
            active = alive[step_applies(self._resolved, step, self._modality[alive], self._lacks_text[alive])]
            for name in step.annotators:
                column = self._columns[name]
                active = active[np.isin(self._modality[active], sorted(column.annotator.modalities))]
                column.reached[active] = True
                missing = column.find_missing(active)
                if len(missing) and media is None and column.annotator.input in ("stream", "frames"):
                    waiting.append(missing)
                    alive, active = np.setdiff1d(alive, missing), np.setdiff1d(active, missing)
                elif len(missing):
                    self._measure(column, missing, media)
                failed = is_valid(column.select(["error"], active)["error"])
                alive = np.setdiff1d(alive, active[failed])
                active = active[~failed]
            if step.filter is not None and step.filter.is_absolute:
                unjudged = active[~self._passed[id(step)][active]]  # rows come by again after they were decoded
                if len(unjudged):
                    passed = step.filter.judge(self._filter_input(step, unjudged)).passed
                    self._passed[id(step)][unjudged[passed]] = True
                    alive = np.setdiff1d(alive, unjudged[~passed])
        return np.unique(np.concatenate(waiting)) if waiting else rows[:0]

    def _filter_input(self, step: Step, rows: Rows) -> pa.Table:
        """key, modality and all signals of the step's annotators."""
        table = self._samples.select(["key", "modality"]).take(pa.array(rows))
        columns = dict(zip(table.column_names, table.columns, strict=True))
        for name in step.annotators:
            columns |= _prefix(name, self._columns[name].select(self._signal_names(name), rows))
        return pa.table(columns)

    def _measure(self, column: CellColumn, rows: Rows, media: Mapping[int, DecodedMedia] | None) -> None:
        annotator = column.annotator
        decoded: list[DecodedMedia | None]
        if annotator.input == "text":
            decoded = [None] * len(rows)
        elif annotator.input == "header":
            decoded = [self._media.probe(int(row)) for row in rows]
        else:
            missing = DecodedMedia(error="decode: nothing came back")
            decoded = [(media or {}).get(int(row), missing) for row in rows]
        chunk = self._samples.select(["key", "modality", "text"]).take(pa.array(rows))
        for full_name in annotator.depends_on:
            name, _, column_name = full_name.partition(".")
            cells = self._columns[name].select([column_name], rows)
            chunk = chunk.append_column(full_name, cells[column_name])
        begun = time.monotonic()
        cells = annotator.measure(chunk, decoded)
        self.counters[f"{annotator.name}_ms"] += int(1000 * (time.monotonic() - begun))
        self.counters[f"{annotator.name}_cells"] += len(rows)
        cells = cells.select([*annotator.columns, "error"])
        self._new_bytes += cells.nbytes
        column.add(rows, cells)

    def _keep_streams(self, rows: Rows, media: Mapping[int, DecodedMedia]) -> None:
        """Measure streams also for rows that failed before they were asked for: the decoder has computed them, and the
        store keeps them."""
        for name, column in self._columns.items():
            if column.annotator.input == "stream":
                observed = np.array([int(r) in media and name in media[int(r)].streams for r in rows], dtype=bool)
                missing = column.find_missing(rows[observed])
                if len(missing):
                    self._measure(column, missing, media)

    def _decode_windows(self, rows: Rows) -> Iterator[tuple[Rows, dict[int, DecodedMedia]]]:
        """Decode rows in turn; yield them whenever their frames fill a window of memory."""
        window: dict[int, DecodedMedia] = {}
        size = 0
        for row in rows.tolist():
            window[row] = media = self._media.decode(row, *self._plan_decoding(row))
            size += sum(picture.nbytes for frames in media.frames.values() for picture in frames.pictures)
            if size >= self._resolved.measure.window_bytes:
                yield np.array(list(window), dtype=np.int64), window
                window, size = {}, 0
        if window:
            yield np.array(list(window), dtype=np.int64), window

    def _plan_decoding(self, row: int) -> tuple[dict[str, FramePlan], dict[str, StreamObserver]]:
        """The frames and observers of every annotator that the row may still reach."""
        plans: dict[str, FramePlan] = {}
        observers: dict[str, StreamObserver] = {}
        for name, column in self._columns.items():
            annotator = column.annotator
            if column.index[row] >= 0 or self._modality[row] not in annotator.modalities:
                continue
            if annotator.keyed_by != "media" and self._lacks_text[row]:
                continue
            if isinstance(annotator, FrameAnnotator):
                plans[name] = annotator.plan
            elif isinstance(annotator, StreamAnnotator):
                observers[name] = annotator.observer()
        return plans, observers


def _prefix(annotator: str, cells: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {f"{annotator}.{name}": cells[name] for name in cells.column_names}
