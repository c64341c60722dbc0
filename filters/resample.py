"""Resampling by n-gram frequency: texts whose n-grams are all common are thinned out, all others are kept.

An n-gram that occurs in f of the surviving texts is drawn with p = min(1, √(T/f)); a sample is kept when any of its
n-grams is drawn, so P(keep) = 1 - Π(1 - p). That is Llama 3's rule (arXiv 2407.21783, section 7.1) in closed form; its
"keep every sample with an n-gram of f < T" is the case p = 1. The linear rule, p = min(1, T/f), is MetaCLIP's (arXiv
2309.16671). Llama 3 publishes neither T nor what f counts: here f counts texts, not occurrences, a repeated n-gram is
drawn once, both as in MetaCLIP.

Two passes: `count_frequencies` over all texts that are to be sampled, then `compute_keep_probability` and `draw_kept`.
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

    def compute_threshold(self, counts: NDArray[np.int64]) -> float:
        """T: `t` where it is set, else the one that `tail_share` of these document counts (int64 (m,)) leads to."""
        return self.t if self.t is not None else find_tail_threshold(counts, self.tail_share)


@dataclass(frozen=True)
class NgramCounts:
    """Document frequencies: the number of texts in which each n-gram occurs.

    ids: int32 (m,), ascending, only those that occur; counts: int64 (m,), each at least 1.
    texts: number of texts counted; unmatched: number of these without any vocabulary n-gram.
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
    """Count the document frequencies of a list<int32> column; `size` is the number of vocabulary entries.

    Null lists are not counted; an id that is repeated in a list counts once. Raises ValueError for an id outside
    [0, size).
    """
    rows, ngrams, is_valid = _find_distinct(ids)
    if len(ngrams) and not 0 <= ngrams.min() <= ngrams.max() < size:
        raise ValueError(f"n-gram id outside the vocabulary of {size} entries")
    dense = np.bincount(ngrams, minlength=1)
    present = np.flatnonzero(dense)
    matched = np.count_nonzero(np.bincount(rows, minlength=1))
    texts = int(np.count_nonzero(is_valid))
    return NgramCounts(present.astype(np.int32), dense[present].astype(np.int64), texts, texts - int(matched))


def merge_frequencies(frequencies: Iterable[NgramCounts]) -> NgramCounts:
    """Sum frequencies, in any order; of none, the frequencies of no texts."""
    tables = list(frequencies)
    ids = np.concatenate([np.zeros(0, np.int32), *(table.ids for table in tables)])
    counts = np.concatenate([np.zeros(0, np.int64), *(table.counts for table in tables)])
    merged, position = np.unique(ids, return_inverse=True)
    total = np.zeros(len(merged), dtype=np.int64)
    np.add.at(total, position, counts)
    return NgramCounts(merged, total, sum(table.texts for table in tables), sum(table.unmatched for table in tables))


def find_tail_threshold(counts: NDArray[np.int64], share: float) -> float:
    """Find the T whose tail makes up about `share` (0 to 1) of all matches (MetaCLIP 2's p_to_t).

    With counts ascending, it is the count at which the running share is nearest to `share`, the first of equals. Only
    n-grams that occur are counted, so T is never 0; it is 1.0 where none occurs.
    """
    ascending = np.sort(counts[counts > 0])
    if not len(ascending):
        return 1.0
    running = np.cumsum(ascending) / ascending.sum()
    return float(ascending[np.argmin(np.abs(running - share))])


def measure_tail_share(counts: NDArray[np.int64], t: float) -> float:
    """Share (0 to 1) of all matches that belongs to n-grams with count < t (MetaCLIP 2's t_to_p); 0 without matches."""
    total = int(counts.sum())
    return float(counts[counts < t].sum()) / total if total else 0.0


def compute_keep_probability(
    ids: pa.Array | pa.ChunkedArray,
    frequencies: NgramCounts,
    t: float,
    rule: Rule = "sqrt",
    unmatched: Unmatched = "keep",
) -> NDArray[np.float64]:
    """float64 (n,) in [0, 1]: P(keep) of each list of n-gram ids; NaN where the list is null, which is a failed
    measurement and not a caption without n-grams.

    An n-gram that is not in `frequencies` has count 0 and so p = 1. P never falls when `t` grows, and is exactly 1
    where any n-gram has count <= t. P is rounded to 12 decimals: order is preserved, and stored numbers do not depend
    on the last bits of a machine's logarithm.
    """
    if not t > 0:
        raise ValueError(f"t must be positive, got {t}")
    rows, ngrams, is_valid = _find_distinct(ids)
    ratio = np.minimum(1.0, t / frequencies.counts)
    p = np.sqrt(ratio) if rule == "sqrt" else ratio
    last = max(int(frequencies.ids.max(initial=-1)), int(ngrams.max(initial=-1)))
    log_miss = np.full(last + 1, -np.inf)
    with np.errstate(divide="ignore"):
        log_miss[frequencies.ids] = np.log1p(-p)
    # bincount adds in order of the ids: a row's sum does not depend on the rows beside it.
    total = np.bincount(rows, weights=log_miss[ngrams], minlength=len(is_valid))
    matched = np.bincount(rows, minlength=len(is_valid)) > 0
    without_ngrams = {"keep": 1.0, "drop": 0.0}[unmatched] if isinstance(unmatched, str) else float(unmatched)
    probability = np.where(matched, np.round(-np.expm1(total), 12), without_ngrams)
    return np.where(is_valid, probability, np.nan)


def draw_kept(
    keys: Sequence[str], probability: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """(keep, draw), bool and float64 (n,): one draw in [0, 1) per sample; it is kept where draw < probability.

    A draw depends on (seed, key) only: order and shards do not matter, and a larger probability keeps every sample that
    a smaller one keeps. A sample whose probability is NaN is not kept; callers record it as failed.
    """
    draw = draw_fractions(seed, keys, "resample")
    return draw < probability, draw


def _find_distinct(ids: pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(row, id) int64 pairs without repeats, ascending, and bool (n,): rows that are not null."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    is_valid = ids.is_valid().to_numpy(zero_copy_only=False)
    lengths = ids.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(ids), dtype=np.int64), lengths)
    ngrams = ids.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    if len(ngrams) and not np.all((np.diff(rows) > 0) | (np.diff(ngrams) > 0)):
        rows, ngrams = np.unique(np.stack([rows, ngrams]), axis=1)
    return rows, ngrams, is_valid
