"""Text statistics behind the usual quality rules: Gopher (arXiv 2112.11446, appendix A.1.1) and C4 (arXiv 1910.10683,
section 2.2), and further ones for captions."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from annotators import text as words
from annotators.interface import Annotator, Column
from annotators.repetition import duplicate_shares, ngram_shares
from infra import storage
from infra.config import Strict
from infra.errors import ConfigError
from infra.media.interface import MODALITIES, DecodedMedia

TOP = (2, 3, 4)
REPEATED = (2, 5, 6, 7, 8, 9, 10)
# Gopher's eight; a document should contain two different ones.
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
# Scripts written without blanks between words.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"

_SHARES = {
    "upper_share": "share of capitals among the cased letters",
    "shouted_share": "share of letters in words all in capitals; names and acronyms do not count",
    "symbol_ratio": "share of characters other than letters, marks, digits and blanks, of all but blanks",
    "digit_ratio": "share of digits, of all characters but blanks",
    "mean_word_length": "characters per token",
    "hash_ratio": '"#" per word',
    "ellipsis_ratio": "ellipses per word",
    "bullet_lines": "share of lines that begin with a bullet",
    "ellipsis_lines": "share of lines that end in an ellipsis",
    "terminal_lines": "share of lines that end a sentence",
    "alpha_words": "share of tokens with a letter",
    **{f"top_{n}gram": f"share of characters of the most frequent {n}-gram of tokens" for n in TOP},
    **{f"dup_{n}gram": f"share of characters in repeated {n}-grams of tokens" for n in REPEATED},
    "dup_lines": "share of repeated lines",
    "dup_line_chars": "share of characters in repeated lines",
    "dup_paragraphs": "share of repeated paragraphs",
    "dup_paragraph_chars": "share of characters in repeated paragraphs",
}
_COUNTS = {
    "stop_words": "how many different ones of Gopher's eight stop words",
    "sentences": "sentence ends",
    "urls": "web addresses",
    "braces": "curly braces",
    "lorem": 'mentions of "lorem ipsum"',
    "bad_words": "words and phrases of the list `bad_words`",
}
_COLUMNS: Mapping[str, Column] = {
    "words": Column(pa.int32(), "tokens with a letter or digit"),
    "chars": Column(pa.int32(), "characters with blanks"),
    "letters": Column(pa.int32(), "letters among them"),
    **{name: Column(pa.float64(), meaning) for name, meaning in _SHARES.items()},
    **{name: Column(pa.int32(), meaning) for name, meaning in _COUNTS.items()},
}


class QualitySettings(Strict):
    """bad_words: path or URI of a UTF-8 list, one word or phrase per line; None: none are counted (C4 drops pages that
    contain any word of its list)."""

    bad_words: str | None = None


class Quality(Annotator):
    """Statistics of clean.text, the text that is trained on: repaired capitals count as repaired. Shares are in [0, 1],
    0 where there is nothing to take a share of."""

    name = "quality"
    VERSION = 2
    keyed_by = "text"
    input = "text"
    modalities = frozenset(MODALITIES)
    depends_on = ("clean.text",)
    columns = _COLUMNS
    settings: QualitySettings

    def fingerprint_inputs(self) -> Mapping[str, object]:
        path = self.settings.bad_words
        return {"bad_words": None if path is None else hashlib.sha256(_read_list(path)).hexdigest()}

    def measure(self, chunk: pa.Table, media: Sequence[DecodedMedia | None]) -> pa.Table:
        size = chunk.num_rows
        clean = words.strings(chunk["clean.text"])
        texts = pa.array(clean, pa.string())
        characters = words.Characters.of(clean)
        visible = np.diff(characters.ends) - characters.count(words.SPACE)

        lines = pc.split_pattern(texts, "\n")
        line, line_rows = pc.utf8_trim_whitespace(pc.list_flatten(lines)), _parent_rows(lines)
        line_count = np.bincount(line_rows[_to_flags(pc.not_equal(line, ""))], minlength=size)

        def line_share(pattern: str) -> NDArray[np.float64]:
            hit = _to_flags(pc.match_substring_regex(line, pattern))
            return words.ratio(np.bincount(line_rows[hit], minlength=size), line_count)

        tokens = _tokens(texts, characters)
        token, rows = pc.list_flatten(tokens), _parent_rows(tokens)
        token_characters = words.Characters.of(token.to_pylist())
        token_count = np.bincount(rows, minlength=size)
        token_chars = np.bincount(rows, weights=np.diff(token_characters.ends), minlength=size)
        word_count = np.bincount(rows[token_characters.count(words.LETTER | words.DIGIT) > 0], minlength=size)
        alpha_count = np.bincount(rows[token_characters.count(words.LETTER) > 0], minlength=size)

        dup_lines, dup_line_chars = duplicate_shares(lines)
        dup_paragraphs, dup_paragraph_chars = duplicate_shares(pc.split_pattern(texts, "\n\n"))
        ordinary = words.LETTER | words.MARK | words.DIGIT | words.SPACE
        values: dict[str, object] = {
            "words": word_count,
            "chars": np.diff(characters.ends),
            "letters": characters.count(words.LETTER),
            "upper_share": words.ratio(characters.count(words.UPPER), characters.count(words.UPPER | words.LOWER)),
            "shouted_share": words.shouting(clean),
            "symbol_ratio": words.ratio(np.diff(characters.ends) - characters.count(ordinary), visible),
            "digit_ratio": words.ratio(characters.count(words.DIGIT), visible),
            "mean_word_length": words.ratio(token_chars, token_count),
            "hash_ratio": words.ratio(words.count(texts, "#"), word_count),
            "ellipsis_ratio": words.ratio(words.count(texts, r"\.\.\.|…"), word_count),
            "bullet_lines": line_share(r"^[•‣◦▪●○·*–—-]"),
            "ellipsis_lines": line_share(r"(?:\.\.\.|…)$"),
            "terminal_lines": line_share(r"[.!?\"”'’]$"),
            "alpha_words": words.ratio(alpha_count, token_count),
            **ngram_shares(tokens, TOP, REPEATED),
            "dup_lines": dup_lines,
            "dup_line_chars": dup_line_chars,
            "dup_paragraphs": dup_paragraphs,
            "dup_paragraph_chars": dup_paragraph_chars,
            "stop_words": _stop_words(token, rows, size),
            "sentences": words.count(texts, r"[.!?]+[\"'”’)]*(?:\s|$)"),
            "urls": words.count(texts, r"(?i)https?://|\bwww\."),
            "braces": words.count(texts, r"[{}]"),
            "lorem": words.count(texts, r"(?i)lorem ipsum"),
            "bad_words": self._bad_words(texts),
        }
        return self.table_of(values)

    def _bad_words(self, texts: pa.Array) -> NDArray[np.int64]:
        if self.settings.bad_words is None:
            return np.zeros(len(texts), dtype=np.int64)
        return words.count(texts, _build_pattern(self.settings.bad_words))


def _tokens(texts: pa.Array, characters: words.Characters) -> pa.ListArray:
    """Lower-case blank-separated tokens, unspaced scripts cut into pairs of characters."""
    if characters.count(words.UNSPACED).any():
        texts = pc.replace_substring_regex(texts, rf"([{_UNSPACED}]{{1,2}})", r" \1 ")
    return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(texts)))


def _stop_words(token: pa.Array, rows: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """int64 (n,): number of different stop words in each text."""
    stop_word = pc.index_in(pc.utf8_trim(token, ".,;:!?\"'()[]"), pa.array(STOP_WORDS))
    index = pc.fill_null(stop_word, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    different = np.unique(rows[index >= 0] * len(STOP_WORDS) + index[index >= 0])
    return np.bincount(different // len(STOP_WORDS), minlength=size)


def _parent_rows(lists: pa.ListArray) -> NDArray[np.int64]:
    return np.asarray(pc.list_parent_indices(lists).to_numpy(zero_copy_only=False), dtype=np.int64)


def _to_flags(values: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _read_list(path: str) -> bytes:
    try:
        return storage.read_bytes(path)
    except OSError as error:
        raise ConfigError(f"cannot read the list of bad words: {error.strerror or error}", where=path) from None


@functools.cache  # threads: safe, it is text
def _build_pattern(path: str) -> str:
    entries = [line.strip() for line in _read_list(path).decode().splitlines()]
    entries = sorted({re.escape(entry) for entry in entries if entry}, key=lambda entry: (-len(entry), entry))
    if not entries:
        raise ConfigError("the list of bad words is empty", where=path)
    # Not \b, which in RE2 is a boundary of ASCII words only.
    return rf"(?i)(?:^|[^\p{{L}}\p{{N}}])(?:{'|'.join(entries)})(?:$|[^\p{{L}}\p{{N}}])"
