"""What the text annotators share: reading a text column whatever is in it, and how much of a text is shouted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Everyday English words that are no usual acronym, place code or brand when written in capitals (no US, IT, OR, IN).
_WORDS = """
    the and of with from to for at by are was were is his her their they them this that these those has have had
    not but you your our out into through over under across near behind between around beside after before while when
    where there here very more most some many all both each other another two three four five six
    man men woman women boy girl child children people person couple group dog cat horse car street water
    big small little young old new red blue green white black yellow brown sitting standing walking running
    riding playing holding wearing looking eating now free best click buy sale get see watch look"""
EVERYDAY = frozenset(_WORDS.split())


def strings(column: pa.ChunkedArray | pa.Array) -> list[str]:
    """The values of a text column as str that UTF-8 can write: null as "", damaged bytes and lone surrogates as U+FFFD.

    Arrow checks no UTF-8 when a column is built from buffers or files, so a hostile file may hold any bytes.
    """
    try:
        return [value or "" for value in column.to_pylist()]
    except UnicodeDecodeError:
        raw = pc.cast(column, pa.large_binary()).to_pylist()
        return [(value or b"").decode("utf-8", "replace") for value in raw]


def table(rows: int, columns: Mapping[str, pa.DataType], values: Mapping[str, Any]) -> pa.Table:
    """The answer of an annotator that never fails: `columns` in order with their types, then an all-null `error`."""
    arrays: list[pa.Array] = []
    for name, kind in columns.items():
        value = values[name]
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            value = np.round(value, 6)
        arrays.append(pc.cast(value, kind) if isinstance(value, pa.Array) else pa.array(value, kind))
    return pa.table([*arrays, pa.nulls(rows, pa.string())], names=[*columns, "error"])


def ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """part / whole as float64 (n,), 0 where whole is 0."""
    result = np.zeros(len(whole), dtype=np.float64)
    np.divide(part, whole, out=result, where=np.asarray(whole) != 0)
    return result


def count(texts: pa.Array, pattern: str) -> NDArray[np.int64]:
    """int64 (n,): matches of an RE2 pattern, which takes linear time whatever the text."""
    return np.asarray(pc.count_substring_regex(texts, pattern).to_numpy(zero_copy_only=False), dtype=np.int64)


def shouting(texts: Sequence[str] | pa.Array) -> NDArray[np.float64]:
    """float64 (n,) in [0, 1]: share of the letters of words that stand in words all in capitals.

    Words of one letter do not count. Acronyms and names in capitals are no shouting: as long as any word is in
    ordinary case, capital words only count if one of them is an everyday English word. "NASA and ESA launch the
    JWST" is 0, "A DOG RUNS ACROSS THE FIELD" is 1, "CUTE DOG RUNS ACROSS the park" between. Scripts without case
    are 0. The measure is ours.
    """
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.string())
    size = len(array)
    parts = pc.utf8_split_whitespace(pc.replace_substring_regex(array, r"[^\p{L}\p{M}'’]+", " "))
    rows = pc.list_parent_indices(parts).to_numpy(zero_copy_only=False)
    words = pc.utf8_trim(pc.list_flatten(parts), "'’")
    lower = pc.utf8_lower(words)
    lengths = pc.utf8_length(words).to_numpy(zero_copy_only=False)
    cased = (lengths >= 2) & pc.not_equal(lower, pc.utf8_upper(words)).to_numpy(zero_copy_only=False)
    capital = cased & pc.utf8_is_upper(words).to_numpy(zero_copy_only=False)
    everyday = capital & pc.is_in(lower, pa.array(sorted(EVERYDAY))).to_numpy(zero_copy_only=False)

    def letters(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(rows[mask], weights=lengths[mask].astype(np.float64), minlength=size).astype(np.float64)

    loud, all_letters = letters(capital), letters(cased)
    names_only = (letters(everyday) == 0) & (all_letters > loud)
    return np.where(names_only, 0.0, ratio(loud, all_letters))
