"""Helpers of the text annotators: read any text column, count characters by class, measure the share in capitals."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Everyday English words that in capitals are no common acronym, place code or brand (so not US, IT, OR, IN).
_WORDS = """
    the and of with from to for at by are was were is his her their they them this that these those has have had
    not but you your our out into through over under across near behind between around beside after before while when
    where there here very more most some many all both each other another two three four five six
    man men woman women boy girl child children people person couple group dog cat horse car street water
    big small little young old new red blue green white black yellow brown sitting standing walking running
    riding playing holding wearing looking eating now free best click buy sale get see watch look"""
EVERYDAY = frozenset(_WORDS.split())


def strings(column: pa.ChunkedArray | pa.Array) -> list[str]:
    """The texts of a column as valid str: null as "", damaged bytes and lone surrogates as U+FFFD.

    Arrow does not check UTF-8 when it builds a column from buffers or files, so a hostile file may contain any bytes.
    """
    try:
        return [text or "" for text in column.to_pylist()]
    except UnicodeDecodeError:
        raw = pc.cast(column, pa.large_binary()).to_pylist()
        return [(text or b"").decode("utf-8", "replace") for text in raw]


def ratio(numerator: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """numerator / whole as float64 (n,), 0 where whole is 0."""
    shares = np.zeros(len(whole), dtype=np.float64)
    np.divide(numerator, whole, out=shares, where=np.asarray(whole) != 0)
    return shares


def count(texts: pa.Array, pattern: str) -> NDArray[np.int64]:
    """int64 (n,): matches of an RE2 pattern, in linear time for any text."""
    return np.asarray(pc.count_substring_regex(texts, pattern).to_numpy(zero_copy_only=False), dtype=np.int64)


LETTER, UPPER, LOWER, DIGIT, MARK, SPACE, LATIN, UNSPACED = (1 << bit for bit in range(8))

_LATIN = ((0x41, 0x24F), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA722, 0xA7FF), (0xAB30, 0xAB64), (0xFF21, 0xFF5A))
# Thai, Lao, Myanmar, Khmer, kana, Han and its extensions: written without blanks between words.
_UNSPACED = ((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))
_LAST = 0x323B0  # after the last letters; later characters have no class


@functools.cache  # threads: safe, it is read only; at worst, several build it
def _classes() -> NDArray[np.uint8]:
    classes = np.zeros(_LAST + 1, dtype=np.uint8)
    flags = {"L": LETTER, "N": DIGIT, "M": MARK}
    for code in range(_LAST):
        category = unicodedata.category(chr(code))
        classes[code] = flags.get(category[0], 0) | {"Lu": UPPER, "Ll": LOWER}.get(category, 0)
        if chr(code).isspace():
            classes[code] |= SPACE
    letters = (classes & LETTER) != 0
    for flag, ranges in ((LATIN, _LATIN), (UNSPACED, (*_UNSPACED, (0x20000, _LAST - 1)))):
        for first, last in ranges:
            classes[first : last + 1][letters[first : last + 1]] |= flag
    return classes


@dataclass(frozen=True)
class Characters:
    """All characters of n texts in sequence. classes: uint8 (c,) of flags; ends: int64 (n + 1,): text i is
    classes[ends[i] : ends[i + 1]]."""

    classes: NDArray[np.uint8]
    ends: NDArray[np.int64]

    @staticmethod
    def of(texts: Sequence[str]) -> Characters:
        codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
        lengths = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        return Characters(_classes()[np.minimum(codes, _LAST)], np.concatenate([[0], np.cumsum(lengths)]))

    def count(self, flags: int) -> NDArray[np.int64]:
        """int64 (n,): characters that have any of `flags`."""
        before = np.concatenate([[0], np.cumsum((self.classes & flags) != 0)])
        counts: NDArray[np.int64] = before[self.ends[1:]] - before[self.ends[:-1]]
        return counts


def shouting(texts: Sequence[str]) -> NDArray[np.float64]:
    """float64 (n,) in [0, 1]: share of the letters of words that are in words all in capitals.

    Words of one letter do not count. Acronyms and names in capitals are not shouting: as long as any word is in
    ordinary case, words in capitals count only if one of them is an everyday English word. "NASA and ESA launch the
    JWST" is 0, "A DOG RUNS ACROSS THE FIELD" is 1, "CUTE DOG RUNS ACROSS the park" is between. Scripts without case
    are 0. The measure is ours.
    """
    size = len(texts)
    apart = [f"{text} " for text in texts]  # no word may run on into the next text
    joined, characters = "".join(apart), Characters.of(apart)
    inside = (characters.classes & (LETTER | MARK)) != 0
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    rows = np.searchsorted(characters.ends, starts, side="right") - 1
    spans = np.column_stack([starts, ends]).ravel()
    spanned = Characters(characters.classes, spans)
    letters, upper, lower = (spanned.count(flag)[::2] for flag in (LETTER, UPPER, LOWER))
    cased = (letters >= 2) & (upper + lower > 0)
    capital = cased & (lower == 0)
    everyday = np.zeros(size, dtype=bool)
    for word in np.flatnonzero(capital):
        everyday[rows[word]] |= joined[starts[word] : ends[word]].lower() in EVERYDAY
    loud = np.bincount(rows[capital], weights=letters[capital], minlength=size)
    total = np.bincount(rows[cased], weights=letters[cased], minlength=size)
    return np.where(~everyday & (total > loud), 0.0, ratio(loud, total))
