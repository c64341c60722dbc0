"""Repetition within texts: the n-gram shares of Gopher (arXiv 2112.11446, A.1.1), for many texts at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotators.text import ratio

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def ngram_shares(tokens: pa.ListArray, top: Sequence[int], repeated: Sequence[int]) -> dict[str, Floats]:
    """Shares of characters in repeated word n-grams; float64 (n,) in [0, 1], 0 for texts without words.

    tokens: a list of words per text; only the characters of the words count.
    "top_{k}gram" for k in `top`: characters covered by the n-gram that occurs most often, if it occurs twice or more
        (of equally frequent ones the longest, then the first).
    "dup_{k}gram" for k in `repeated`: characters covered by n-grams that occurred earlier in the same text; none is
        counted twice, and a first occurrence does not count.
    """
    size = len(tokens)
    words = pc.list_flatten(tokens)
    rows = pc.list_parent_indices(tokens).to_numpy(zero_copy_only=False).astype(np.int64)
    vocabulary = pc.dictionary_encode(words)
    word = vocabulary.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = pc.utf8_length(words).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    total = np.bincount(rows, weights=lengths, minlength=size)

    def measure_covered_share(starts: Ints, width: int) -> Floats:
        marks = np.zeros(len(word) + 1, dtype=np.int64)
        np.add.at(marks, starts, 1)
        np.add.at(marks, starts + width, -1)
        inside = np.cumsum(marks[:-1]) > 0
        return ratio(np.bincount(rows[inside], weights=lengths[inside], minlength=size), total)

    shares: dict[str, Floats] = {}
    # gram[i] names the n-gram that starts at word i within its text: ids are exact, so no two n-grams collide.
    gram = np.unique(rows * (len(vocabulary.dictionary) + 1) + word, return_inverse=True)[1].astype(np.int64)
    for width in range(2, max(*top, *repeated, 2) + 1):
        starts = np.flatnonzero(rows[: len(rows) - width + 1] == rows[width - 1 :]) if len(rows) >= width else rows[:0]
        pairs = gram[starts] * (len(vocabulary.dictionary) + 1) + word[starts + width - 1]
        _, first, ids, counts = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
        gram = np.zeros(len(word), dtype=np.int64)
        gram[starts] = ids
        if width in repeated:
            again = np.ones(len(starts), dtype=bool)
            again[first] = False
            shares[f"dup_{width}gram"] = measure_covered_share(starts[again], width)
        if width in top:
            begin = starts[first]
            order = np.lexsort((begin, ends[begin] - ends[begin + width], -counts, rows[begin]))
            _, lead = np.unique(rows[begin[order]], return_index=True)
            winners = order[lead]
            winners = winners[counts[winners] >= 2]
            shares[f"top_{width}gram"] = measure_covered_share(starts[np.isin(ids, winners)], width)
    return shares


def duplicate_shares(segments: pa.ListArray) -> tuple[Floats, Floats]:
    """(share of segments, share of characters in segments) that occurred earlier in the same text; float64 (n,) each.

    segments: lines or paragraphs, a list per text; blank ones are ignored.
    """
    size = len(segments)
    flat = pc.utf8_trim_whitespace(pc.list_flatten(segments))
    rows = pc.list_parent_indices(segments).to_numpy(zero_copy_only=False).astype(np.int64)
    lengths = pc.utf8_length(flat).to_numpy(zero_copy_only=False).astype(np.int64)
    vocabulary = pc.dictionary_encode(flat)
    keep = lengths > 0
    rows, lengths = rows[keep], lengths[keep]
    names = rows * (len(vocabulary.dictionary) + 1) + vocabulary.indices.to_numpy(zero_copy_only=False)[keep]
    again = np.ones(len(names), dtype=bool)
    again[np.unique(names, return_index=True)[1]] = False
    by_segment = ratio(np.bincount(rows[again], minlength=size), np.bincount(rows, minlength=size))
    by_char = ratio(
        np.bincount(rows[again], weights=lengths[again], minlength=size),
        np.bincount(rows, weights=lengths, minlength=size),
    )
    return by_segment, by_char
