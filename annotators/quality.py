"""Text statistics behind the usual quality rules: Gopher (arXiv 2112.11446, appendix A.1.1) and C4 (arXiv 1910.10683,
section 2.2), and what captions need beside them."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotators import text as words
from annotators.repetition import duplicate_shares, ngram_shares
from infra.config import Strict
from infra.errors import ConfigError
from infra.hashing import file_sha256
from infra.media import MODALITIES, Decoded

TOP = (2, 3, 4)
REPEATED = (2, 5, 6, 7, 8, 9, 10)
# Gopher's eight, of which a document should hold two different ones.
STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
# Scripts written without blanks between words.
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_RAW_CHARS = 1_000_000


class Settings(Strict):
    """bad_words: path of a UTF-8 list, one word or phrase a line; None: none are counted (C4 drops pages that hold any
    word of its list)."""

    bad_words: str | None = None


class Quality:
    """Statistics of clean.text, of its raw text where said; shares in [0, 1], 0 where there is nothing to share.

    words        blank-separated tokens that hold a letter or digit; unspaced scripts: two characters are one (ours)
    chars        characters with blanks; letters: letters among them
    upper_share  capitals among the cased letters of the raw text
    shouted_share  letters in words all in capitals, of the raw text, names and acronyms apart: `text.shouting`
    symbol_ratio, digit_ratio   characters that are no letter, mark, digit or blank; digits; of all but blanks
    mean_word_length            characters a token
    hash_ratio, ellipsis_ratio  "#" and ellipses a word
    bullet_lines, ellipsis_lines, terminal_lines   lines that begin with a bullet, end in an ellipsis, end a sentence
    alpha_words  tokens with a letter; stop_words: how many different ones of Gopher's eight
    sentences, urls, braces, lorem, bad_words      counts
    top_*, dup_* repetition: `repetition.ngram_shares`, `repetition.duplicate_shares`
    """

    name: ClassVar[str] = "quality"
    VERSION: ClassVar[int] = 1
    of: ClassVar[Literal["text", "media", "pair"]] = "text"
    needs: ClassVar[Literal["text", "header", "stream", "frames"]] = "text"
    modalities: ClassVar[frozenset[str]] = frozenset(MODALITIES)
    reads: ClassVar[tuple[str, ...]] = ("clean.text",)
    columns: ClassVar[Mapping[str, pa.DataType]] = {
        **{name: pa.int32() for name in ("words", "chars", "letters")},
        **{
            name: pa.float64()
            for name in (
                "upper_share",
                "shouted_share",
                "symbol_ratio",
                "digit_ratio",
                "mean_word_length",
                "hash_ratio",
                "ellipsis_ratio",
                "bullet_lines",
                "ellipsis_lines",
                "terminal_lines",
                "alpha_words",
                *(f"top_{n}gram" for n in TOP),
                *(f"dup_{n}gram" for n in REPEATED),
                "dup_lines",
                "dup_line_chars",
                "dup_paragraphs",
                "dup_paragraph_chars",
            )
        },
        **{name: pa.int32() for name in ("stop_words", "sentences", "urls", "braces", "lorem", "bad_words")},
    }
    stored: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def maker(self) -> Mapping[str, object]:
        path = self.settings.bad_words
        return {"bad_words": None if path is None else file_sha256(path)}

    def measure(self, chunk: pa.Table, media: Sequence[Decoded | None]) -> pa.Table:
        size = chunk.num_rows
        texts = pa.array(words.strings(chunk["clean.text"]), pa.string())
        raw = pa.array([t[:_RAW_CHARS] for t in words.strings(chunk["text"])], pa.string())

        lines = pc.split_pattern(texts, "\n")
        line, line_rows = pc.utf8_trim_whitespace(pc.list_flatten(lines)), pc.list_parent_indices(lines)
        written = pc.greater(pc.utf8_length(line), 0).to_numpy(zero_copy_only=False)
        line_count = np.bincount(line_rows.to_numpy(zero_copy_only=False)[written], minlength=size)

        def line_share(pattern: str) -> np.ndarray:
            hit = pc.match_substring_regex(line, pattern).to_numpy(zero_copy_only=False)
            return words.ratio(np.bincount(line_rows.to_numpy(zero_copy_only=False)[hit], minlength=size), line_count)

        tokens = _tokens(texts)
        token, rows = pc.list_flatten(tokens), pc.list_parent_indices(tokens).to_numpy(zero_copy_only=False)
        token_count = np.bincount(rows, minlength=size)
        token_chars = np.bincount(rows, weights=pc.utf8_length(token).to_numpy(zero_copy_only=False), minlength=size)

        def having(pattern: str) -> np.ndarray:
            hit = pc.match_substring_regex(token, pattern).to_numpy(zero_copy_only=False)
            return np.bincount(rows[hit], minlength=size)

        bare = pc.utf8_trim(token, ".,;:!?\"'()[]")
        stop = pc.index_in(bare, pa.array(STOP_WORDS)).to_numpy(zero_copy_only=False)
        found = ~np.isnan(stop.astype(np.float64))
        different = np.unique(rows[found].astype(np.int64) * len(STOP_WORDS) + stop[found].astype(np.int64))
        counted = having(r"[\p{L}\p{N}]")
        visible = words.count(texts, r"[^\s]")
        dup_lines, dup_line_chars = duplicate_shares(lines)
        dup_paragraphs, dup_paragraph_chars = duplicate_shares(pc.split_pattern(texts, "\n\n"))
        values: dict[str, object] = {
            "words": counted,
            "chars": pc.utf8_length(texts),
            "letters": words.count(texts, r"\p{L}"),
            "upper_share": words.ratio(words.count(raw, r"\p{Lu}"), words.count(raw, r"[\p{Lu}\p{Ll}]")),
            "shouted_share": words.shouting(raw),
            "symbol_ratio": words.ratio(words.count(texts, r"[^\p{L}\p{M}\p{N}\s]"), visible),
            "digit_ratio": words.ratio(words.count(texts, r"\p{N}"), visible),
            "mean_word_length": words.ratio(token_chars, token_count),
            "hash_ratio": words.ratio(words.count(texts, "#"), counted),
            "ellipsis_ratio": words.ratio(words.count(texts, r"\.\.\.|…"), counted),
            "bullet_lines": line_share(r"^[•‣◦▪●○·*–—-]"),
            "ellipsis_lines": line_share(r"(?:\.\.\.|…)$"),
            "terminal_lines": line_share(r"[.!?\"”'’]$"),
            "alpha_words": words.ratio(having(r"\p{L}"), token_count),
            **ngram_shares(tokens, TOP, REPEATED),
            "dup_lines": dup_lines,
            "dup_line_chars": dup_line_chars,
            "dup_paragraphs": dup_paragraphs,
            "dup_paragraph_chars": dup_paragraph_chars,
            "stop_words": np.bincount(different // len(STOP_WORDS), minlength=size),
            "sentences": words.count(texts, r"[.!?]+[\"'”’)]*(?:\s|$)"),
            "urls": words.count(texts, r"(?i)https?://|\bwww\."),
            "braces": words.count(texts, r"[{}]"),
            "lorem": words.count(texts, r"(?i)lorem ipsum"),
            "bad_words": self._bad_words(texts),
        }
        return words.table(size, self.columns, values)

    def _bad_words(self, texts: pa.Array) -> np.ndarray:
        if self.settings.bad_words is None:
            return np.zeros(len(texts), dtype=np.int64)
        return words.count(texts, _pattern(self.settings.bad_words))


def _tokens(texts: pa.Array) -> pa.ListArray:
    """Lower-case blank-separated tokens, unspaced scripts cut into pairs of characters."""
    spaced = pc.replace_substring_regex(texts, rf"([{_UNSPACED}]{{1,2}})", r" \1 ")
    return pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.utf8_lower(spaced)))


@functools.cache
def _pattern(path: str) -> str:
    entries = [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
    entries = sorted({re.escape(entry) for entry in entries if entry}, key=lambda entry: (-len(entry), entry))
    if not entries:
        raise ConfigError("the list of bad words is empty", where=path)
    # No \b: to RE2 that is a boundary of ASCII words only.
    return rf"(?i)(?:^|[^\p{{L}}\p{{N}}])(?:{'|'.join(entries)})(?:$|[^\p{{L}}\p{{N}}])"
