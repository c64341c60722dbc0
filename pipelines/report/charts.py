"""Compute histograms and shares from the tables, so that the page opens without them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.columns import Mask

Floats = NDArray[np.float64]

#: Bars of a histogram (ours).
BINS = 48
#: Share of the values that may exceed the last edge and are counted in the last bar (ours): otherwise one clip of an
#: hour would leave no room for all others.
BEYOND = 0.005


def choose_edges(values: Floats, marks: Sequence[float] = ()) -> Floats:
    """Choose bar edges, float64 (BINS + 1,) ascending: equal steps, or equal ratios if most values are small.

    All `marks` (thresholds) are within the edges. Whole numbers with a small range get one bar each.
    """
    finite = values[np.isfinite(values)]
    inside = [mark for mark in marks if np.isfinite(mark)]
    low = float(min([finite.min(initial=np.inf), *inside], default=0.0))
    high = float(max([np.quantile(finite, 1 - BEYOND) if len(finite) else -np.inf, *inside], default=1.0))
    if not np.isfinite(low) or not np.isfinite(high):
        return np.linspace(0.0, 1.0, BINS + 1)
    if high <= low:
        return np.linspace(low - 0.5, low + 0.5, BINS + 1)
    positive = finite[finite > 0]
    if low >= 0 and len(positive) and (np.median(positive) < high / 12 or (inside and 0 < min(inside) < high / 40)):
        small = [float(np.quantile(positive, 0.01)), *(mark / 4 for mark in inside if mark > 0)]
        first = max(min(small), high / 1e5)
        if low >= first:
            return np.geomspace(low, high, BINS + 1)
        return np.concatenate([[0.0], np.geomspace(first, high, BINS)])
    if (finite == np.rint(finite)).all() and high - low >= 4:
        step = max(1.0, np.ceil((high - low) / BINS))
        return (
            low - 0.5 + step * np.arange(BINS + 1)
            if high - low > BINS / 2
            else np.linspace(low - 0.5, high + 0.5, BINS + 1)
        )
    return np.linspace(low, high, BINS + 1)


def build_histogram(values: Floats, kept: Mask, marks: Sequence[float] = ()) -> dict[str, Any] | None:
    """Build {edges, kept, others, count, min, median, max}: number of kept and of other rows in each bar. The first and
    last bars include what is beyond the edges. None if nothing was measured."""
    measured = np.isfinite(values)
    if not measured.any():
        return None
    borders = choose_edges(values, marks)
    bar = np.clip(np.searchsorted(borders, values[measured], side="right") - 1, 0, len(borders) - 2)
    counts = [np.bincount(bar[rows], minlength=len(borders) - 1) for rows in (kept[measured], ~kept[measured])]
    return {
        "edges": [_round(float(edge)) for edge in borders],
        "kept": counts[0].tolist(),
        "others": counts[1].tolist(),
        "count": int(measured.sum()),
        "min": _round(float(values[measured].min())),
        "median": _round(float(np.median(values[measured]))),
        "max": _round(float(values[measured].max())),
    }


def _round(value: float) -> float:
    return float(f"{value:.6g}")


def count_kept(names: Sequence[str], kept: Mask) -> list[list[Any]]:
    """Count [name, rows, kept rows] by name, the most frequent first."""
    counts = Counter(names)
    kept_counts = Counter(name for name, is_kept in zip(names, kept, strict=True) if is_kept)
    rows = [[name, count, kept_counts[name]] for name, count in counts.items()]
    return sorted(rows, key=lambda row: (-row[1], row[0]))
