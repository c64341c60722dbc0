"""Arrow columns as numpy arrays: strings, masks and numbers, with one rule each for nulls."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import ENVIRONMENT_KINDS

Mask = NDArray[np.bool_]


def to_strings(column: pa.Array | pa.ChunkedArray) -> NDArray[np.object_]:
    """object (n,): the values as Python objects, None where null. For strings and other values that numpy lacks."""
    return np.array(column.to_pylist(), dtype=object)


def to_mask(column: pa.Array | pa.ChunkedArray) -> Mask:
    """bool (n,): a boolean column, False where null."""
    return np.asarray(pc.fill_null(column, False), dtype=bool)


def to_floats(column: pa.Array | pa.ChunkedArray, null: float = float("nan")) -> NDArray[np.float64]:
    """float64 (n,): a numeric or boolean column, `null` where null."""
    return np.asarray(pc.fill_null(pc.cast(column, pa.float64()), null), dtype=np.float64)


def to_ints(column: pa.Array | pa.ChunkedArray, null: int = -1) -> NDArray[np.int64]:
    """int64 (n,): an integer column, `null` where null."""
    return np.asarray(pc.fill_null(column, null), dtype=np.int64)


def equals(column: pa.Array | pa.ChunkedArray, scalar: Any) -> Mask:
    """bool (n,): rows equal to `scalar`, False where null."""
    return to_mask(pc.equal(column, scalar))


def is_null(column: pa.Array | pa.ChunkedArray) -> Mask:
    """bool (n,): rows without a value. NaN is a value."""
    return np.asarray(pc.is_null(column), dtype=bool)


def is_valid(column: pa.Array | pa.ChunkedArray) -> Mask:
    """bool (n,): rows with a value. NaN is a value."""
    return np.asarray(pc.is_valid(column), dtype=bool)


def is_environment(errors: pa.Array | pa.ChunkedArray) -> Mask:
    """bool (n,): errors of samples that are faults of the environment (see `infra.errors.ENVIRONMENT_KINDS`)."""
    return to_mask(pc.match_substring_regex(errors, f"^({'|'.join(ENVIRONMENT_KINDS)}):"))


def is_all_null(table: pa.Table, columns: Iterable[str]) -> Mask:
    """bool (n,): rows without a value in any of the columns."""
    mask = np.ones(table.num_rows, dtype=bool)
    for column in columns:
        mask &= is_null(table[column])
    return mask


def replace_column(table: pa.Table, name: str, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The table with another content of a column, whose field stays."""
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), column)
