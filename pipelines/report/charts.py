"""Distributions, binned where the tables are, so that the page opens without them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: Bars of a histogram (ours).
BINS = 48
#: Share of the values that may lie beyond the last edge, in the last bar (ours): one clip of an hour hides all others.
BEYOND = 0.005


def edges(values: Floats, marks: Sequence[float] = ()) -> Floats:
    """float64 (BINS + 1,) ascending: equal steps, or equal ratios where most values are small beside the largest.

    `marks` (thresholds) lie inside. Whole numbers with a small range get a bar each or a whole number of them.
    """
    known = values[np.isfinite(values)]
    inside = [mark for mark in marks if np.isfinite(mark)]
    low = float(min([known.min(initial=np.inf), *inside], default=0.0))
    high = float(max([np.quantile(known, 1 - BEYOND) if len(known) else -np.inf, *inside], default=1.0))
    if not np.isfinite(low) or not np.isfinite(high):
        return np.linspace(0.0, 1.0, BINS + 1)
    if high <= low:
        return np.linspace(low - 0.5, low + 0.5, BINS + 1)
    positive = known[known > 0]
    if low >= 0 and len(positive) and (np.median(positive) < high / 12 or (inside and 0 < min(inside) < high / 40)):
        small = [float(np.quantile(positive, 0.01)), *(mark / 4 for mark in inside if mark > 0)]
        first = max(min(small), high / 1e5)
        if low >= first:
            return np.geomspace(low, high, BINS + 1)
        return np.concatenate([[0.0], np.geomspace(first, high, BINS)])
    if (known == np.rint(known)).all() and high - low >= 4:
        step = max(1.0, np.ceil((high - low) / BINS))
        return (
            low - 0.5 + step * np.arange(BINS + 1)
            if high - low > BINS / 2
            else np.linspace(low - 0.5, high + 0.5, BINS + 1)
        )
    return np.linspace(low, high, BINS + 1)


def histogram(values: Floats, kept: Mask, marks: Sequence[float] = ()) -> dict[str, Any] | None:
    """{edges, kept, others, count, null, min, median, max}: rows in each bar, those kept and all others; the first and
    last bars hold what lies beyond. None where nothing was measured."""
    known = np.isfinite(values)
    if not known.any():
        return None
    borders = edges(values, marks)
    place = np.clip(np.searchsorted(borders, values[known], side="right") - 1, 0, len(borders) - 2)
    counts = [np.bincount(place[chosen], minlength=len(borders) - 1) for chosen in (kept[known], ~kept[known])]
    return {
        "edges": [_short(float(edge)) for edge in borders],
        "kept": counts[0].tolist(),
        "others": counts[1].tolist(),
        "count": int(known.sum()),
        "min": _short(float(values[known].min())),
        "median": _short(float(np.median(values[known]))),
        "max": _short(float(values[known].max())),
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def shares(names: Sequence[str], kept: Mask) -> list[list[Any]]:
    """[name, rows, rows kept] by name, the most frequent first."""
    column = np.array(names, dtype=object)
    found, place = (
        np.unique(column, return_inverse=True) if len(column) else (np.zeros(0, dtype=object), np.zeros(0, int))
    )
    everything = np.bincount(place, minlength=len(found))
    good = np.bincount(place, weights=kept, minlength=len(found)).astype(int)
    rows = [[str(name), int(n), int(k)] for name, n, k in zip(found, everything, good, strict=True)]
    return sorted(rows, key=lambda row: (-row[1], row[0]))
