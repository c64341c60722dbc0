"""The cells of one annotator for the rows of one unit: those from the store and those measured since."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from annotators.interface import Annotator
from infra.columns import is_environment
from infra.store import align
from infra.tables import empty

Rows = NDArray[np.int64]


class CellColumn:
    """index: int64 (n,), the cell of each row, counted over all tables; -1: none. reached: bool (n,), the rows that the
    cascade asked for, which alone belong into signals."""

    def __init__(self, annotator: Annotator, names: Sequence[str], ids: pa.Array, stored: pa.Table | None) -> None:
        """names: the columns that are kept in memory; ids: content ids of the rows; stored: cells of the store."""
        self.annotator = annotator
        self.index = align(ids, stored)
        self.reached = np.zeros(len(ids), dtype=bool)
        self._names = [*names]
        self._ids = ids
        self._tables: list[pa.Table] = []
        self._starts = [0]  # the first cell of each table, and the number of cells
        self._new: list[tuple[Rows, pa.Table]] = []
        if stored is not None:
            self._append(stored)

    def _append(self, cells: pa.Table) -> None:
        self._tables.append(cells.select(self._names))
        self._starts.append(self._starts[-1] + cells.num_rows)

    def find_missing(self, rows: Rows) -> Rows:
        """Those of `rows` without a cell."""
        return rows[self.index[rows] < 0]

    def add(self, rows: Rows, cells: pa.Table) -> None:
        """Take over new cells of rows that had none."""
        self.index[rows] = self._starts[-1] + np.arange(len(rows))
        self._append(cells)
        self._new.append((rows, cells))

    def take_new(self) -> pa.Table | None:
        """The cells added since the last call, with their ids and without errors of the environment; None if there are
        none."""
        if not self._new:
            return None
        ids = self._ids.take(pa.array(np.concatenate([rows for rows, _ in self._new])))
        cells = pa.concat_tables([cells for _, cells in self._new]).add_column(0, pa.field("id", pa.binary(16)), ids)
        self._new = []
        return cells.filter(pa.array(~is_environment(cells["error"])))

    def select(self, names: Sequence[str], rows: Rows) -> pa.Table:
        """Columns of some rows, null where a row has no cell."""
        return self._take(names, self.index[rows])

    def select_reached(self, names: Sequence[str]) -> pa.Table:
        """Columns of all rows, null where the cascade did not ask for the row."""
        return self._take(names, np.where(self.reached, self.index, -1))

    def _take(self, names: Sequence[str], index: Rows) -> pa.Table:
        """Read only the tables that have one of the cells, so that early and late chunks cost the same."""
        if len(index) and index[0] >= 0 and (np.diff(index) == 1).all():
            number = int(np.searchsorted(self._starts, index[0], side="right")) - 1
            if index[-1] < self._starts[number + 1]:
                return self._tables[number].select(names).slice(index[0] - self._starts[number], len(index))
        schema = self.annotator.schema()
        schema = pa.schema([schema.field(name) for name in names])
        table_of = np.searchsorted(self._starts, index, side="right") - 1
        order = np.argsort(table_of, kind="stable")
        selections = []
        for group in np.split(order, np.flatnonzero(np.diff(table_of[order])) + 1):
            if not len(group):
                continue
            number = table_of[group[0]]
            if number < 0:
                selections.append(pa.table([pa.nulls(len(group), type_) for type_ in schema.types], schema=schema))
            else:
                cells = self._tables[number].select(names).cast(schema)
                selections.append(cells.take(pa.array(index[group] - self._starts[number])))
        table = pa.concat_tables(selections) if selections else empty(schema)
        if (np.diff(order) == 1).all():
            return table
        inverse = np.empty_like(order)
        inverse[order] = np.arange(len(order))
        return table.take(pa.array(inverse))
