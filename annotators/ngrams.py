"""Entries of an n-gram vocabulary in a text, which resampling counts.

A text is looked up word by word in a prefix tree, stored as one table of integer pairs per depth, so a chunk descends
a level in one vectorised step. Every step is exact: words are numbered, not hashed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from annotators.interface import Annotator, Column
from infra.config import Strict
from infra.media.interface import MODALITIES, DecodedMedia
from infra.vocabulary import BREAK, SEPARATE, Case, Vocabulary, load, split_texts

Ints = NDArray[np.int64]

_UNKNOWN, _BREAK = -1, -2


class NgramsSettings(Strict):
    """vocabulary: path or fsspec URI of a JSON list of strings (MetaCLIP's form; `reelmill vocab` writes one).
    case: "lower" compares words in lower case (ours: Llama 3 does not say); "keep" distinguishes them, as MetaCLIP.
    """

    vocabulary: str = Field(min_length=1)
    case: Case = "lower"


class _HashTable:
    """A set of int64 numbers >= 0, each with its own slot in [0, size): a hash table with open addressing, filled and
    searched by whole arrays. At most a quarter full, so that nearly every search ends at the first slot."""

    def __init__(self, numbers: Ints) -> None:
        bits = max(3, (4 * len(numbers)).bit_length())
        self.size = 1 << bits
        self._shift = np.uint64(64 - bits)
        self._table = np.full(self.size, -1, dtype=np.int64)
        slots = self._first(numbers)
        while len(numbers):
            free = self._table[slots] < 0
            self._table[slots[free]] = numbers[free]
            waits = self._table[slots] != numbers
            numbers, slots = numbers[waits], (slots[waits] + 1) & (self.size - 1)

    def find(self, numbers: Ints) -> Ints:
        """int64 (n,): the slot of each number, -1 for those that are not in the set."""
        slots = self._first(numbers)
        seen = self._table[slots]
        again = np.flatnonzero((seen != numbers) & (seen >= 0))
        while len(again):
            slots[again] = (slots[again] + 1) & (self.size - 1)
            seen[again] = self._table[slots[again]]
            again = again[(seen[again] != numbers[again]) & (seen[again] >= 0)]
        return np.where(seen == numbers, slots, -1)

    def _first(self, numbers: Ints) -> Ints:
        # Fibonacci hashing: the high bits of a product with 2^64 / golden ratio.
        return ((numbers.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> self._shift).view(np.int64)


class Matcher:
    """Find the entries of a vocabulary in texts. Entries have any number of words; of several entries with the same
    words the first is returned."""

    def __init__(self, entries: Sequence[str], case: Case) -> None:
        self.size = len(entries)
        self.case = case
        tokens, self._word_ids = _number_words(split_texts(entries, case))
        self._words = len(self._word_ids) + 1
        ends = np.flatnonzero(tokens == _BREAK)
        starts = np.append(0, ends + 1)[:-1]
        lengths = ends - starts

        # A node of depth 1 is its word; a node of depth k > 1 is the slot of (parent node, word) in that depth's table,
        # the pair written as node * words + word. `ends`: the entry that ends at each node, or -1.
        rows = np.flatnonzero(lengths > 0)
        nodes = tokens[starts[rows]]
        rows, nodes, self._single = _split_leaves(rows, nodes, lengths[rows] == 1, self._words)
        self._deeper: list[tuple[_HashTable, Ints]] = []
        while len(rows):
            depth = len(self._deeper) + 2
            pairs = nodes * self._words + tokens[starts[rows] + depth - 1]
            table = _HashTable(np.unique(pairs))
            rows, nodes, leaves = _split_leaves(rows, table.find(pairs), lengths[rows] == depth, table.size)
            self._deeper.append((table, leaves))

    def match(self, texts: pa.Array | pa.ChunkedArray) -> pa.ListArray:
        """list<int32> (n,): the distinct ids of the entries in each text, ascending. A null text has none."""
        text_words = split_texts(texts.to_pylist(), self.case)
        tokens = np.fromiter(map(self._word_ids.get, text_words, repeat(_UNKNOWN)), np.int64, len(text_words))
        text_of = np.cumsum(tokens == _BREAK)

        # One walk down the tree starts at each known word; `at` is the token that the walk has reached. No walk passes
        # a BREAK, which is also the last token.
        at = np.flatnonzero(tokens > 0)
        nodes = tokens[at]
        entries = self._single[nodes]
        hits = [(at, entries)]
        for table, ends in self._deeper:
            at = at + 1
            word = tokens[at]
            goes = word > 0
            at = at[goes]
            nodes = table.find(nodes[goes] * self._words + word[goes])
            goes = nodes >= 0
            at, nodes = at[goes], nodes[goes]
            if not len(at):
                break
            hits.append((at, ends[nodes]))

        last = np.concatenate([at for at, _ in hits])
        entries = np.concatenate([entries for _, entries in hits])
        hit = entries >= 0
        pairs = np.sort(text_of[last[hit]] * self.size + entries[hit])
        repeated = pairs[1:] == pairs[:-1]
        rows, ids = np.divmod(pairs[np.append(True, ~repeated)[: len(pairs)]], self.size)
        offsets = np.zeros(len(texts) + 1, dtype=np.int32)
        np.cumsum(np.bincount(rows, minlength=len(texts)), out=offsets[1:])
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids.astype(np.int32)))


def _number_words(tokens: list[str]) -> tuple[Ints, dict[str, int]]:
    """Return the words as numbers, and the number of each word: BREAK is -2, the others count from 1, those in most
    entries first, so that frequent words are adjacent in memory."""
    first: dict[str, int] = {}
    number = first.setdefault
    plain = np.fromiter((number(word, len(first)) for word in tokens), np.int64, len(tokens))
    order = np.argsort(-np.bincount(plain), kind="stable")
    by_count = np.array(list(first), dtype=object)[order]
    fresh = "\n".join(by_count).split("\n")  # words contain no white space; new strings are adjacent in memory
    ids = {word: i + 1 for i, word in enumerate(fresh)}
    ids[BREAK] = _BREAK
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = [ids[word] for word in fresh]
    return rank[plain], ids


def _split_leaves(rows: Ints, nodes: Ints, ended: NDArray[np.bool_], size: int) -> tuple[Ints, Ints, Ints]:
    """Return (rows, nodes) of the entries that continue, and the entry that ended at each of `size` nodes or -1."""
    entry = np.full(size, -1, dtype=np.int64)
    entry[nodes[ended][::-1]] = rows[ended][::-1]  # backwards, so that the first of equal entries stays
    return rows[~ended], nodes[~ended], entry


class Ngrams(Annotator):
    """ids: list<int32>, the distinct vocabulary entries in the clean text, ascending; an empty list where there is none
    or where the sample has no text.

    Threads: safe, vocabulary and matcher are never changed; at worst, several threads load them."""

    name = "ngrams"
    keyed_by = "text"
    input = "text"
    modalities = frozenset(MODALITIES)
    depends_on = ("clean.text",)
    columns: ClassVar[Mapping[str, Column]] = {
        "ids": Column(pa.list_(pa.int32()), "vocabulary entries in the clean text, distinct, ascending; may be empty"),
    }
    settings: NgramsSettings

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, read on first use. Raises ConfigError for a file that is no vocabulary."""
        return load(self.settings.vocabulary)

    @cached_property
    def matcher(self) -> Matcher:
        return Matcher(self.vocabulary.entries, self.settings.case)

    def __getstate__(self) -> dict[str, object]:
        # Workers read the file themselves, so that tasks are not pickled with half a million entries.
        return {"settings": self.settings}

    def fingerprint_inputs(self) -> Mapping[str, object]:
        return {"vocabulary": self.vocabulary.sha256, "case": self.settings.case, "separate": SEPARATE}

    def measure(self, chunk: pa.Table, media: Sequence[DecodedMedia | None]) -> pa.Table:
        clean = chunk["clean.text"].combine_chunks()
        ids = self.matcher.match(clean)
        # A text whose cleaning failed is not a text without n-grams.
        failed = clean.is_null().to_numpy(zero_copy_only=False) & chunk["text"].is_valid().to_numpy()
        errors = pa.array(["missing: clean.text" if row else None for row in failed.tolist()], pa.string())
        if failed.any():
            ids = pa.ListArray.from_arrays(ids.offsets, ids.values, mask=pa.array(failed))
        return pa.table({"ids": ids, "error": errors})
