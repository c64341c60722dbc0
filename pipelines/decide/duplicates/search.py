"""One modality's search for duplicates: its files, partitions and rows, shared by all of its tasks.

Files are under RUN/work/duplicates/MODALITY. A sample's row id is the number of its unit << 32 | its row.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.columns import equals
from infra.commit import read_scratch, unit_index, write_scratch
from infra.engines.jobs import Phase
from infra.errors import StageError
from infra.hashing import fingerprint, rows_fingerprint
from infra.store import Cells, align, content_ids
from pipelines.core import shuffle_files
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE
from pipelines.decide.duplicates.settings import Duplicates

#: Vectors or texts per partition, which sets the number of partitions (ours).
PARTITION_ROWS = 500_000

Ids = NDArray[np.uint64]


@dataclass(frozen=True)
class DuplicateSearch:
    """The search among one modality. Workers receive it by pickle.

    units: all units of the run. inputs: fingerprint of everything that the search depends on.
    """

    run: Run
    modality: str
    units: tuple[str, ...]
    inputs: str
    partitions: int = 1

    @property
    def settings(self) -> Duplicates:
        return resolve(self.run).duplicates

    @property
    def threshold(self) -> float:
        """Similarity from which two vectors or texts match; 1 where only exact copies are searched."""
        settings = self.settings.for_modality(self.modality)
        return 1.0 if settings is None else float(settings.threshold or 1.0)

    @property
    def partition_names(self) -> list[str]:
        return [f"p{i:05d}" for i in range(self.partitions)]

    def at(self, *parts: str) -> str:
        return self.run.work("duplicates", self.modality, *parts)

    def write_cut(self, rows: float, trained: object) -> None:
        """Cut the search into enough partitions for `rows`. trained: further inputs that its fingerprint must cover."""
        count = self.settings.buckets or max(1, math.ceil(rows / PARTITION_ROWS))
        self._write_cut({"partitions": count, "inputs": fingerprint([self.inputs, trained]), "unread": False})

    def cover_unread(self, unread: object) -> None:
        """Make the fingerprint of the cut search cover members that could not be read, for the phases that follow."""
        cut = self.read_cut()
        inputs = fingerprint([cut.inputs, unread])
        self._write_cut({"partitions": cut.partitions, "inputs": inputs, "unread": True})

    def _write_cut(self, cut: Mapping[str, object]) -> None:
        write_scratch(self.at("cut.json"), self.inputs, cut)

    @property
    def has_unread(self) -> bool:
        """Whether some members could not be read, for no fault of their own."""
        return bool(self._read_cut()["unread"])

    def read_cut(self) -> DuplicateSearch:
        """This search with the partitions that `write_cut` gave it. Raises StageError where they are not known."""
        cut = self._read_cut()
        return replace(self, partitions=cut["partitions"], inputs=cut["inputs"])

    def _read_cut(self) -> dict[str, Any]:
        cut = read_scratch(self.at("cut.json"), self.inputs)
        if cut is None:
            what = f"the partitions of the search for duplicates ({self.modality}) are not known"
            raise StageError(what, where=self.at("cut.json"), hint="run the same command again")
        return dict(cut)

    def phase(
        self, step: str, task: Task, of: Callable[[DuplicateSearch], Sequence[str]], **further: Callable[[Any], Any]
    ) -> Phase:
        """A phase after the cut. of: lists its tasks, of which finished ones are not redone. further: as of a Phase."""
        return Phase(self.name(step), functools.partial(_list, self, of), functools.partial(_do, self, task), **further)

    def name(self, step: str) -> str:
        return f"duplicates {self.modality} {step}"

    def write_shuffled(self, uri: str, table: pa.Table, hashes: Ids) -> None:
        """Write the rows of a table by partition. hashes: uint64 (n,), each modulo the number of partitions."""
        partition = (hashes % np.uint64(self.partitions)).astype(np.int64)
        shuffle_files.write(uri, table, partition, self.partitions, self.inputs)

    def read_row_ids(self, unit: str) -> Ids:
        """uint64 (n,), ascending: row ids of a unit's rows of this modality that passed the filters."""
        judged = self.run.read_work("judged", unit, ["outcome", "modality"])
        rows = np.flatnonzero(equals(judged["outcome"], ALIVE) & equals(judged["modality"], self.modality))
        return first_row_id(unit) | rows.astype(np.uint64)

    def read_cells(self, unit: str, annotator: str, row_ids: Ids) -> pa.Table:
        """Read an annotator's cells from the store, for these rows of a unit and in their order."""
        cells, position = self._look_up(unit, annotator, row_ids, None)
        if cells is None or (position < 0).any():
            what = f"the store has lost cells of {annotator} for {unit}"
            raise StageError(what, where=self.run.store, hint="run the same command again")
        return cells.take(pa.array(position))

    def find_cells(self, unit: str, annotator: str, row_ids: Ids, columns: Sequence[str]) -> pa.Table:
        """The same for some columns, null where the store has no cell."""
        cells, position = self._look_up(unit, annotator, row_ids, columns)
        if cells is None:
            schema = resolve(self.run).annotators[annotator].schema()
            return pa.table({name: pa.nulls(len(row_ids), schema.field(name).type) for name in columns})
        return cells.take(pa.array(position, mask=position < 0))

    def count_lost(self, unit: str, annotator: str, row_ids: Ids) -> int:
        """Count those of a unit's rows for which the store has no sound cell of an annotator."""
        return int((self._look_up(unit, annotator, row_ids, [])[1] < 0).sum()) if len(row_ids) else 0

    def _look_up(
        self, unit: str, annotator: str, row_ids: Ids, columns: Sequence[str] | None
    ) -> tuple[pa.Table | None, NDArray[np.int64]]:
        """(cells of a unit, the position in them of each of some rows, -1 where there is none)."""
        resolved = resolve(self.run)
        samples = self.run.read("samples", unit, ["modality", "text", "media"])
        ids = content_ids(samples)[resolved.annotators[annotator].keyed_by]
        cells = Cells(self.run.store, annotator, resolved.makers[annotator]).read(rows_fingerprint(ids), columns)
        return cells, align(ids.take(pa.array(unit_rows(row_ids))), cells)


#: A task of a phase: the search, with its partitions, and a unit or a partition.
Task = Callable[[DuplicateSearch, str], Any]


def list_units(search: DuplicateSearch) -> Sequence[str]:
    return search.units


def list_partitions(search: DuplicateSearch) -> Sequence[str]:
    return search.partition_names


def _list(search: DuplicateSearch, of: Callable[[DuplicateSearch], Sequence[str]]) -> Sequence[str]:
    return of(search.read_cut())


def _do(search: DuplicateSearch, task: Task, name: str) -> Any:
    return task(search.read_cut(), name)


def first_row_id(unit: str) -> np.uint64:
    """The row id of a unit's first row; those of its other rows follow."""
    return np.uint64(unit_index(unit)) << np.uint64(32)


def unit_rows(row_ids: Ids) -> NDArray[np.int64]:
    """int64 (n,): positions of rows in their units."""
    return (row_ids & np.uint64(0xFFFFFFFF)).astype(np.int64)


def unit_indexes(row_ids: Ids) -> NDArray[np.int64]:
    """int64 (n,): numbers of the units of rows."""
    return (row_ids >> np.uint64(32)).astype(np.int64)
