"""Is the text worth reading? Clean-up rules for captions, Gopher's and C4's rules for documents."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters.interface import Judgement, missing, numbers
from filters.rules import Rule, first_broken, where
from infra.config import Strict
from infra.media.interface import MODALITIES as ALL

_CAPTION_READS = ("words", "chars", "shouted_share", "symbol_ratio", "digit_ratio", "dup_2gram", "urls", "bad_words")
_DOCUMENT_READS = (
    "mean_word_length",
    "hash_ratio",
    "ellipsis_ratio",
    "bullet_lines",
    "ellipsis_lines",
    "terminal_lines",
    "alpha_words",
    "stop_words",
    "sentences",
    "braces",
    "lorem",
    "dup_lines",
    "dup_paragraphs",
    "dup_line_chars",
    "dup_paragraph_chars",
    *(f"top_{n}gram" for n in (2, 3, 4)),
    *(f"dup_{n}gram" for n in range(5, 11)),
)
READS = tuple(f"quality.{name}" for name in (*_CAPTION_READS, *_DOCUMENT_READS))
MODALITIES = frozenset(ALL)


class Repetition(Strict):
    """Largest shares of repeated text in a document, all Gopher's (arXiv 2112.11446, table A1); null: not asked."""

    max_dup_lines: float | None = 0.30
    max_dup_paragraphs: float | None = 0.30
    max_dup_line_chars: float | None = 0.20
    max_dup_paragraph_chars: float | None = 0.20
    max_top_2gram: float | None = 0.20
    max_top_3gram: float | None = 0.18
    max_top_4gram: float | None = 0.16
    max_dup_5gram: float | None = 0.15
    max_dup_6gram: float | None = 0.14
    max_dup_7gram: float | None = 0.13
    max_dup_8gram: float | None = 0.12
    max_dup_9gram: float | None = 0.11
    max_dup_10gram: float | None = 0.10


class Document(Strict):
    """Rules for modality text. Gopher's values (arXiv 2112.11446, A.1.1) unless said; null: not asked.

    Gopher's 50 words are meant for web pages; short instruction or dialogue data wants a smaller min_words.
    max_shouted is ours. C4's rules (arXiv 1910.10683) are off where they cost code and lists: min_sentences (C4: 3),
    min_terminal_lines (C4 drops such lines one by one, the share is ours), max_braces (C4: 0), max_bad_words (C4: 0,
    needs a list in measure.quality.bad_words). max_lorem is C4's.
    """

    min_words: int | None = 50
    max_words: int | None = 100_000
    min_mean_word_length: float | None = 3.0
    max_mean_word_length: float | None = 10.0
    max_shouted: float | None = 0.5
    max_hash_ratio: float | None = 0.1
    max_ellipsis_ratio: float | None = 0.1
    max_bullet_lines: float | None = 0.9
    max_ellipsis_lines: float | None = 0.3
    min_alpha_words: float | None = 0.8
    min_stop_words: int | None = 2
    min_sentences: int | None = None
    min_terminal_lines: float | None = None
    max_braces: int | None = None
    max_lorem: int | None = 0
    max_bad_words: int | None = None
    repetition: Repetition = Repetition()


class QualityThresholds(Strict):
    """Rules for captions of images and videos; null: not asked.

    min_words 3 and min_chars 6 are DataComp's basic filter (arXiv 2304.14108: more than two words, more than five
    characters). Llama 3 (arXiv 2407.21783) names minimum length and capitalisation and publishes no value. The others
    are ours: max_words bounds pasted pages, max_shouted captions in capitals, max_symbol_ratio and max_digit_ratio
    strings that are no language, max_dup_2gram lists that say the same again (share of characters in repeated pairs
    of words). max_urls and max_bad_words are off.
    """

    min_words: int | None = 3
    min_chars: int | None = 6
    max_words: int | None = 512
    max_shouted: float | None = 0.5
    max_symbol_ratio: float | None = 0.3
    max_digit_ratio: float | None = 0.4
    max_dup_2gram: float | None = 0.4
    max_urls: int | None = None
    max_bad_words: int | None = None
    document: Document = Document()


def judge(signals: pa.Table, settings: QualityThresholds) -> Judgement:
    """The first broken rule, in the order written here, gives reason, value and threshold.

    Captions: too_short (words, then characters), too_long, shouted, symbols, digits, repetitive, urls, bad_words.
    Documents: too_short, too_long, word_length, shouted, symbols, bullets, ellipses, not_words, no_stop_words,
    too_few_sentences, no_sentence_ends, braces, lorem_ipsum, bad_words, duplicate_lines, duplicate_paragraphs,
    repetitive.
    `signals` has the column `modality` beside those in READS.
    """
    column = {name.partition(".")[2]: numbers(signals, name) for name in READS}
    lost = missing(signals, READS)
    captions = first_broken(_caption_rules(column, settings), lost)
    documents = first_broken(_document_rules(column, settings.document), lost)
    is_document = np.asarray(pc.equal(signals["modality"], "text").to_numpy(), dtype=bool)
    return where(is_document, documents, captions)


def _caption_rules(column: dict[str, np.ndarray], limits: QualityThresholds) -> list[Rule]:
    return [
        Rule("too_short", column["words"], "min", limits.min_words),
        Rule("too_short", column["chars"], "min", limits.min_chars),
        Rule("too_long", column["words"], "max", limits.max_words),
        Rule("shouted", column["shouted_share"], "max", limits.max_shouted),
        Rule("symbols", column["symbol_ratio"], "max", limits.max_symbol_ratio),
        Rule("digits", column["digit_ratio"], "max", limits.max_digit_ratio),
        Rule("repetitive", column["dup_2gram"], "max", limits.max_dup_2gram),
        Rule("urls", column["urls"], "max", limits.max_urls),
        Rule("bad_words", column["bad_words"], "max", limits.max_bad_words),
    ]


def _document_rules(column: dict[str, np.ndarray], limits: Document) -> list[Rule]:
    repeated = limits.repetition
    ngrams = [*(f"top_{n}gram" for n in (2, 3, 4)), *(f"dup_{n}gram" for n in range(5, 11))]
    return [
        Rule("too_short", column["words"], "min", limits.min_words),
        Rule("too_long", column["words"], "max", limits.max_words),
        Rule("word_length", column["mean_word_length"], "min", limits.min_mean_word_length),
        Rule("word_length", column["mean_word_length"], "max", limits.max_mean_word_length),
        Rule("shouted", column["shouted_share"], "max", limits.max_shouted),
        Rule("symbols", column["hash_ratio"], "max", limits.max_hash_ratio),
        Rule("symbols", column["ellipsis_ratio"], "max", limits.max_ellipsis_ratio),
        Rule("bullets", column["bullet_lines"], "max", limits.max_bullet_lines),
        Rule("ellipses", column["ellipsis_lines"], "max", limits.max_ellipsis_lines),
        Rule("not_words", column["alpha_words"], "min", limits.min_alpha_words),
        Rule("no_stop_words", column["stop_words"], "min", limits.min_stop_words),
        Rule("too_few_sentences", column["sentences"], "min", limits.min_sentences),
        Rule("no_sentence_ends", column["terminal_lines"], "min", limits.min_terminal_lines),
        Rule("braces", column["braces"], "max", limits.max_braces),
        Rule("lorem_ipsum", column["lorem"], "max", limits.max_lorem),
        Rule("bad_words", column["bad_words"], "max", limits.max_bad_words),
        Rule("duplicate_lines", column["dup_lines"], "max", repeated.max_dup_lines),
        Rule("duplicate_lines", column["dup_line_chars"], "max", repeated.max_dup_line_chars),
        Rule("duplicate_paragraphs", column["dup_paragraphs"], "max", repeated.max_dup_paragraphs),
        Rule("duplicate_paragraphs", column["dup_paragraph_chars"], "max", repeated.max_dup_paragraph_chars),
        *(Rule("repetitive", column[name], "max", getattr(repeated, f"max_{name}")) for name in ngrams),
    ]


Settings = QualityThresholds
