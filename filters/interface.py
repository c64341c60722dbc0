"""What every filter is: one question about signals. A filter is a module with

READS        the columns it must have, as "annotator.column"
MODALITIES   what it applies to
Settings     its thresholds, each with its documented default and source
judge(signals, settings) -> Judgement
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

#: The reason of a row that could not be judged because a value is null or NaN.
MISSING = "missing"


@dataclass(frozen=True)
class Judgement:
    """One row per row of the signals judged.

    passed: bool (n,). False where the value is missing or NaN: a filter fails closed.
    value, threshold: float64 (n,): the number that decided and what it was held against.
    reason: str (n,): a short stable word for the rule that decided ("too_short"), "" where passed.
    """

    passed: NDArray[np.bool_]
    value: NDArray[np.float64]
    threshold: NDArray[np.float64]
    reason: NDArray[np.str_]


def numbers(signals: pa.Table, column: str) -> NDArray[np.float64]:
    """A numeric or bool column as float64 (n,), null as NaN."""
    values = pc.cast(signals[column], pa.float64())
    return np.asarray(pc.fill_null(values, float("nan")), dtype=np.float64)


def missing(signals: pa.Table, reads: tuple[str, ...]) -> NDArray[np.bool_]:
    """bool (n,): rows in which any column of `reads` is null or NaN."""
    lost = np.zeros(signals.num_rows, dtype=bool)
    for name in reads:
        column = signals[name]
        null = pc.is_null(column, nan_is_null=pa.types.is_floating(column.type))
        lost |= null.to_numpy(zero_copy_only=False)
    return lost
