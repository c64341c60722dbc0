"""Resampling by n-gram frequency: texts whose n-grams are all common are thinned, all others stay.

An n-gram that stands in f of the surviving texts is drawn with p = min(1, √(T/f)); a sample is kept when any of its
n-grams is drawn, so P(keep) = 1 - Π(1 - p). That is Llama 3's rule (arXiv 2407.21783, section 7.1) in closed form; its
"keep whatever holds an n-gram with f < T" is the case p = 1. The linear rule, p = min(1, T/f), is MetaCLIP's (arXiv
2309.16671). Llama 3 publishes neither T nor what f counts: here f counts texts, not occurrences, a repeated n-gram is
drawn once, and both are as in MetaCLIP.

Two passes: `count_frequencies` over everything that is about to be sampled, then `compute_keep_probability` and
`draw_kept`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from infra.config import Strict
from infra.hashing import draw_fractions
from infra.media.interface import Modality

Rule = Literal["sqrt", "linear"]
Unmatched = Literal["keep", "drop"] | float

#: The column that resampling reads.
READS = ("ngrams.ids",)


class ResampleSettings(Strict):
    """rule: "sqrt" (Llama 3) or "linear" (MetaCLIP).
    t: the document count up to which an n-gram is rare and always keeps its sample. Unpublished by Llama 3; MetaCLIP
        uses 20,000 on 1.6 billion pairs. It belongs to one data set's size, so by default it is found from tail_share.
    tail_share: T is taken so that rarer n-grams make up about this share of all matches; 0.06 is MetaCLIP's at scale.
    unmatched: what becomes of a sample without any vocabulary n-gram: "keep", "drop", or its probability. MetaCLIP
        drops it, Llama 3 does not say; keeping it is ours, since nothing shows it to be common.
    modalities: which are resampled, each with frequencies of its own (ours; Llama 3 does it to image-text pairs).
    """

    rule: Rule = "sqrt"
    t: float | None = Field(default=None, gt=0)
    tail_share: float = Field(default=0.06, gt=0, le=1)
    unmatched: Unmatched = Field(default="keep")
    modalities: tuple[Modality, ...] = ("image",)

    @model_validator(mode="after")
    def _consistent(self) -> ResampleSettings:
        if self.t is not None and "tail_share" in self.model_fields_set:
            raise ValueError("give t or tail_share, not both: the tail share is only used to find t")
        if not isinstance(self.unmatched, str) and not 0 <= self.unmatched <= 1:
            raise ValueError("unmatched must be keep, drop, or a probability from 0 to 1")
        return self


@dataclass(frozen=True)
class NgramCounts:
    """In how many texts each n-gram stands.

    ids: int32 (m,), ascending, only those that occur; counts: int64 (m,), each at least 1.
    texts: how many were counted; unmatched: how many of them hold no vocabulary n-gram.
    """

    ids: NDArray[np.int32]
    counts: NDArray[np.int64]
    texts: int
    unmatched: int

    def to_table(self) -> pa.Table:
        """Columns id (int32) and count (int64); the two totals are schema metadata."""
        table = pa.table({"id": pa.array(self.ids, pa.int32()), "count": pa.array(self.counts, pa.int64())})
        return table.replace_schema_metadata({"texts": str(self.texts), "unmatched": str(self.unmatched)})

    @classmethod
    def from_table(cls, table: pa.Table) -> NgramCounts:
        """The inverse of `to_table`."""
        totals = table.schema.metadata
        return cls(
            table["id"].to_numpy().astype(np.int32),
            table["count"].to_numpy().astype(np.int64),
            int(totals[b"texts"]),
            int(totals[b"unmatched"]),
        )


def count_frequencies(ids: pa.Array | pa.ChunkedArray, size: int) -> NgramCounts:
    """Document frequencies of a list<int32> column; `size` is the number of vocabulary entries.

    Null lists are not counted; an id that is twice in one list counts once. Raises ValueError for an id outside
    [0, size).
    """
    rows, values, known = _distinct(ids)
    if len(values) and not 0 <= values.min() <= values.max() < size:
        raise ValueError(f"n-gram id outside the vocabulary of {size} entries")
    dense = np.bincount(values, minlength=1)
    found = np.flatnonzero(dense)
    matched = np.count_nonzero(np.bincount(rows, minlength=1))
    texts = int(np.count_nonzero(known))
    return NgramCounts(found.astype(np.int32), dense[found].astype(np.int64), texts, texts - int(matched))


def merge_frequencies(parts: Iterable[NgramCounts]) -> NgramCounts:
    """The frequencies of all parts together; order does not matter. Of no parts: none."""
    tables = list(parts)
    ids = np.concatenate([np.zeros(0, np.int32), *(part.ids for part in tables)])
    counts = np.concatenate([np.zeros(0, np.int64), *(part.counts for part in tables)])
    merged, place = np.unique(ids, return_inverse=True)
    total = np.zeros(len(merged), dtype=np.int64)
    np.add.at(total, place, counts)
    return NgramCounts(merged, total, sum(part.texts for part in tables), sum(part.unmatched for part in tables))


def find_tail_threshold(counts: NDArray[np.int64], share: float) -> float:
    """The T whose tail makes up about `share` (0 to 1) of all matches: with counts ascending, the count at which the
    running share comes nearest to it, the first of equals (MetaCLIP 2's p_to_t). Never 0, since only n-grams that occur
    are looked at. 1.0 where nothing occurs."""
    ascending = np.sort(counts[counts > 0])
    if not len(ascending):
        return 1.0
    running = np.cumsum(ascending) / ascending.sum()
    return float(ascending[np.argmin(np.abs(running - share))])


def measure_tail_share(counts: NDArray[np.int64], t: float) -> float:
    """The share (0 to 1) of all matches that belongs to n-grams with count < t (MetaCLIP 2's t_to_p). 0 where nothing
    occurs."""
    total = int(counts.sum())
    return float(counts[counts < t].sum()) / total if total else 0.0


def compute_keep_probability(
    ids: pa.Array | pa.ChunkedArray,
    table: NgramCounts,
    t: float,
    rule: Rule = "sqrt",
    unmatched: Unmatched = "keep",
) -> NDArray[np.float64]:
    """float64 (n,) in [0, 1]: P(keep) of each list of n-gram ids; NaN where the list is null, which is a failed
    measurement and not a caption without n-grams.

    An n-gram that `table` does not hold has count 0 and so p = 1. P never falls when `t` grows, and is exactly 1 as
    soon as one n-gram has count <= t. Rounded to 12 decimals, which keeps order and keeps the last bits of a machine's
    logarithm out of stored values.
    """
    if not t > 0:
        raise ValueError(f"t must be positive, got {t}")
    rows, values, known = _distinct(ids)
    ratio = np.minimum(1.0, t / table.counts)
    p = np.sqrt(ratio) if rule == "sqrt" else ratio
    last = max(int(table.ids.max(initial=-1)), int(values.max(initial=-1)))
    log_miss = np.full(last + 1, -np.inf)
    with np.errstate(divide="ignore"):
        log_miss[table.ids] = np.log1p(-p)
    # bincount adds in order of the ids: a row's sum does not depend on the rows beside it.
    total = np.bincount(rows, weights=log_miss[values], minlength=len(known))
    matched = np.bincount(rows, minlength=len(known)) > 0
    alone = {"keep": 1.0, "drop": 0.0}[unmatched] if isinstance(unmatched, str) else float(unmatched)
    probability = np.where(matched, np.round(-np.expm1(total), 12), alone)
    return np.where(known, probability, np.nan)


def draw_kept(
    keys: Sequence[str], probability: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(keep, draw), bool and float64 (n,): one draw in [0, 1) a sample, from (seed, key) and nothing else; kept where
    draw < probability. So order and shards do not matter, and a larger probability keeps all that a smaller one kept.
    A NaN probability never keeps; it is for the caller to book as failed."""
    draw = draw_fractions(seed, keys, "resample")
    return draw < probability, draw


def _distinct(ids: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(row, id) int64 pairs without repeats, ascending, and bool (n,): rows that are not null."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    known = ids.is_valid().to_numpy(zero_copy_only=False)
    lengths = ids.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(ids), dtype=np.int64), lengths)
    values = ids.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    if len(values) and not np.all((np.diff(rows) > 0) | (np.diff(values) > 0)):
        pairs = np.unique(np.stack([rows, values]), axis=1)
        rows, values = pairs[0], pairs[1]
    return rows, values, known
