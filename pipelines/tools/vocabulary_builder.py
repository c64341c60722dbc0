"""Build an n-gram vocabulary from high-quality text: frequent words, frequent pairs of words, titles.

`count` each part of the text, `merge` the counts in any order, `build` the list. The recipe is MetaCLIP's (arXiv
2309.16671 and its repository): Wikipedia's words, its pairs by pointwise mutual information, its titles, and the
numbers 0 to 99. WordNet, its fourth source, can be passed as titles. Words are those of `infra.vocabulary`, so
every entry can be matched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from unicodedata import category

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from infra.config import Strict
from infra.errors import ConfigError
from infra.vocabulary import BREAK, Case, pad_words, split_texts

_WORDS = pa.schema([("word", pa.string()), ("count", pa.int64())])
_PAIRS = pa.schema([("first", pa.string()), ("second", pa.string()), ("count", pa.int64())])


class VocabularySettings(Strict):
    """The defaults are MetaCLIP's, for a text of Wikipedia's size (billions of words); SMALL is for less.

    case: as in matching; build and match with the same.
    min_count: minimum occurrences of a word (MetaCLIP: 100).
    min_pmi: log2(count of the pair × words in all / product of the two words' counts), minimum for a pair
        (MetaCLIP: 30). A pair seen c times among N words reaches at most log2(N / c), so below a billion words
        nothing reaches 30.
    min_pair_count: minimum occurrences of a pair (MetaCLIP: none, so 1). PMI favours pairs that occur once.
    numbers: "0" to "99" are entries (MetaCLIP's code).
    """

    case: Case = "lower"
    min_count: int = Field(default=100, ge=1)
    min_pmi: float = 30.0
    min_pair_count: int = Field(default=1, ge=1)
    numbers: bool = True


#: For texts below some 100 million words. Ours: five occurrences, and a pair 32 times as frequent as by chance.
SMALL = VocabularySettings(min_count=5, min_pmi=5.0, min_pair_count=5)


@dataclass(frozen=True)
class VocabularyCounts:
    """Counts of a text as Arrow tables, which are compact to send and fast to add.

    words: (word, count) by word; pairs: (first, second, count) by both, for words that follow each other directly.
    A word contains a letter or digit and has punctuation at neither end; anything else is a gap.
    texts: their number. The tables grow with the number of different pairs, not with the length of the text.
    """

    words: pa.Table
    pairs: pa.Table
    texts: int

    @property
    def total(self) -> int:
        """Total occurrences of words."""
        return int(pc.sum(self.words["count"], min_count=0).as_py())


def count(texts: pa.Array | pa.ChunkedArray | Sequence[str | None], case: Case) -> VocabularyCounts:
    """Count the words and pairs of some texts. No pair crosses from one text to the next."""
    rows = texts.to_pylist() if isinstance(texts, (pa.Array, pa.ChunkedArray)) else texts
    tokens = split_texts(rows, case)
    if not tokens:
        return merge([])
    ids_by_token: dict[str, int] = {}
    assign_id = ids_by_token.setdefault
    ids = np.fromiter((assign_id(token, len(ids_by_token)) for token in tokens), np.int64, len(tokens))
    is_word = np.array([_is_word(token) for token in ids_by_token])
    # Arrow strings cannot contain BREAK; it is no word, so its name is never used.
    names = pa.array(["" if token == BREAK else token for token in ids_by_token])

    totals = np.bincount(ids)
    kept = np.flatnonzero(is_word)
    words = pa.table([names.take(pa.array(kept)), pa.array(totals[kept])], schema=_WORDS)

    good = is_word[ids]
    together = np.flatnonzero(good[:-1] & good[1:])
    numbers, pair_counts = np.unique(ids[together] * len(ids_by_token) + ids[together + 1], return_counts=True)
    first, second = (names.take(pa.array(side)) for side in np.divmod(numbers, len(ids_by_token)))
    pairs = pa.table([first, second, pa.array(pair_counts.astype(np.int64))], schema=_PAIRS)
    return VocabularyCounts(words.sort_by("word"), _sorted(pairs), len(rows))


def merge(parts: Iterable[VocabularyCounts]) -> VocabularyCounts:
    """The sum of counts, in any order; empty counts for none."""
    counts = list(parts)
    words = pa.concat_tables([_WORDS.empty_table(), *(counted.words for counted in counts)])
    pairs = pa.concat_tables([_PAIRS.empty_table(), *(counted.pairs for counted in counts)])
    words = words.group_by("word", use_threads=False).aggregate([("count", "sum")]).rename_columns(_WORDS.names)
    pairs = pairs.group_by(["first", "second"], use_threads=False).aggregate([("count", "sum")])
    pairs = pairs.rename_columns(_PAIRS.names)
    return VocabularyCounts(words.sort_by("word"), _sorted(pairs), sum(counted.texts for counted in counts))


def pmi(counts: VocabularyCounts) -> NDArray[np.float64]:
    """float64, one per row of `counts.pairs`: pointwise mutual information in bits, rounded to 6 decimals."""
    of_word = counts.words["count"].to_numpy()
    first, second = (
        of_word[pc.index_in(counts.pairs[side], value_set=counts.words["word"]).to_numpy()]
        for side in ("first", "second")
    )
    together = counts.pairs["count"].to_numpy()
    bits: NDArray[np.float64] = np.log2(together * (counts.total / first) / second)
    return np.round(bits, 6)


def build(counts: VocabularyCounts, settings: VocabularySettings, titles: Iterable[str] = ()) -> list[str]:
    """The vocabulary, in this order: numbers; words by falling count; pairs by falling PMI, then count; titles in their
    order. Ties are in the order of the text. Entries with the same words as an earlier entry are left out, and so are
    titles without letter or digit.

    Raises ConfigError when no word, pair or title is left.
    """
    frequent = counts.words.filter(pc.greater_equal(counts.words["count"], settings.min_count))
    frequent = frequent.sort_by([("count", "descending"), ("word", "ascending")])

    pairs = counts.pairs.append_column("pmi", pa.array(pmi(counts)))
    pairs = pairs.filter(
        (pc.field("pmi") >= settings.min_pmi) & (pc.field("count") >= settings.min_pair_count)
    ).sort_by([("pmi", "descending"), ("count", "descending"), ("first", "ascending"), ("second", "ascending")])
    joined = pc.binary_join_element_wise(pairs["first"], pairs["second"], " ")

    good_titles = [title.strip() for title in titles if any(map(str.isalnum, title))]
    candidates = [*frequent["word"].to_pylist(), *joined.to_pylist(), *good_titles]
    if not candidates:
        raise ConfigError(
            f"no word is left: of {counts.total} words in {counts.texts} texts the commonest occurs "
            f"{_most(counts)} times, and min_count is {settings.min_count}",
            hint="give more text, or a smaller min_count and min_pmi (for small texts: 5 and 5)",
        )
    numbers = [str(n) for n in range(100)] if settings.numbers else []
    entries: dict[str, str] = {}
    for entry in [*numbers, *candidates]:
        entries.setdefault(pad_words(entry, settings.case), entry)
    return list(entries.values())


def notes(counts: VocabularyCounts, settings: VocabularySettings) -> list[str]:
    """Warnings about these settings on this text."""
    warnings = []
    if _most(counts) < settings.min_count:
        warnings.append(f"no word occurs {settings.min_count} times; the commonest occurs {_most(counts)} times")
    ceiling = log2(counts.total / settings.min_pair_count) if counts.total else 0.0
    if ceiling < settings.min_pmi:
        warnings.append(
            f"no pair can have a PMI of {settings.min_pmi:g}: in {counts.total} words, one that occurs "
            f"{settings.min_pair_count} times has at most {ceiling:.1f}"
        )
    return warnings


def _most(counts: VocabularyCounts) -> int:
    return int(pc.max(counts.words["count"]).as_py() or 0)


def _is_word(token: str) -> bool:
    # Nearly all words are alphanumeric; words of many scripts end with combining marks.
    if token.isalnum():
        return True
    return (
        token != BREAK and any(map(str.isalnum, token)) and all(category(c)[0] in "LNM" for c in (token[0], token[-1]))
    )


def _sorted(pairs: pa.Table) -> pa.Table:
    return pairs.sort_by([("first", "ascending"), ("second", "ascending")])
