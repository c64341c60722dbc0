"""Is the text worth reading? Clean-up rules for captions, Gopher's and C4's rules for documents."""

from __future__ import annotations

from filters.interface import Filter, Threshold
from infra.config import Strict
from infra.media.interface import MODALITIES, VISUAL


class RepetitionThresholds(Strict):
    """Largest shares of repeated text in a document, all Gopher's (arXiv 2112.11446, table A1); null: not applied."""

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


class DocumentThresholds(Strict):
    """Rules for modality text. Gopher's values (arXiv 2112.11446, A.1.1) unless noted; null: not applied.

    Gopher's 50 words are meant for web pages; short instruction or dialogue data needs a smaller min_words.
    max_shouted is ours. C4's rules (arXiv 1910.10683) are off where they cost code or lists: min_sentences (C4: 3),
    min_terminal_lines (C4 drops such lines one by one; the share is ours), max_braces (C4: 0), max_bad_words (C4: 0,
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
    repetition: RepetitionThresholds = RepetitionThresholds()


class QualityThresholds(Strict):
    """Rules for captions of images and videos; null: not applied.

    min_words 3 and min_chars 6 are DataComp's basic filter (arXiv 2304.14108: more than two words, more than five
    characters). Llama 3 (arXiv 2407.21783) names minimum length and capitalisation and publishes no value. The others
    are ours: max_words bounds pasted pages, and dense captions by people and models, which may reach a thousand words,
    pass; max_shouted captions in capitals, max_symbol_ratio and max_digit_ratio strings that are not language,
    max_dup_2gram repetitive lists (share of characters in repeated pairs of words). max_urls and max_bad_words are off.
    """

    min_words: int | None = 3
    min_chars: int | None = 6
    max_words: int | None = 2_048
    max_shouted: float | None = 0.5
    max_symbol_ratio: float | None = 0.3
    max_digit_ratio: float | None = 0.4
    max_dup_2gram: float | None = 0.4
    max_urls: int | None = None
    max_bad_words: int | None = None
    document: DocumentThresholds = DocumentThresholds()


def _limit(key: str, reason: str, signal: str = "") -> Threshold:
    """Declare the threshold of a setting min_X or max_X on quality.X; those under `document` apply to texts only."""
    path, _, setting = key.rpartition(".")
    modalities = frozenset({"text"} if path else VISUAL)
    column = f"quality.{signal or setting[4:]}"
    return Threshold(key, column, "min" if setting.startswith("min_") else "max", reason, modalities)


class QualityFilter(Filter):
    """The first broken rule, in this order, gives reason, value and threshold."""

    name = "quality"
    modalities = frozenset(MODALITIES)
    thresholds = (
        _limit("min_words", "too_short"),
        _limit("min_chars", "too_short"),
        _limit("max_words", "too_long"),
        _limit("max_shouted", "shouted", "shouted_share"),
        _limit("max_symbol_ratio", "symbols"),
        _limit("max_digit_ratio", "digits"),
        _limit("max_dup_2gram", "repetitive"),
        _limit("max_urls", "urls"),
        _limit("max_bad_words", "bad_words"),
        _limit("document.min_words", "too_short"),
        _limit("document.max_words", "too_long"),
        _limit("document.min_mean_word_length", "word_length"),
        _limit("document.max_mean_word_length", "word_length"),
        _limit("document.max_shouted", "shouted", "shouted_share"),
        _limit("document.max_hash_ratio", "symbols"),
        _limit("document.max_ellipsis_ratio", "symbols"),
        _limit("document.max_bullet_lines", "bullets"),
        _limit("document.max_ellipsis_lines", "ellipses"),
        _limit("document.min_alpha_words", "not_words"),
        _limit("document.min_stop_words", "no_stop_words"),
        _limit("document.min_sentences", "too_few_sentences"),
        _limit("document.min_terminal_lines", "no_sentence_ends"),
        _limit("document.max_braces", "braces"),
        _limit("document.max_lorem", "lorem_ipsum"),
        _limit("document.max_bad_words", "bad_words"),
        _limit("document.repetition.max_dup_lines", "duplicate_lines"),
        _limit("document.repetition.max_dup_line_chars", "duplicate_lines"),
        _limit("document.repetition.max_dup_paragraphs", "duplicate_paragraphs"),
        _limit("document.repetition.max_dup_paragraph_chars", "duplicate_paragraphs"),
        _limit("document.repetition.max_top_2gram", "repetitive"),
        _limit("document.repetition.max_top_3gram", "repetitive"),
        _limit("document.repetition.max_top_4gram", "repetitive"),
        _limit("document.repetition.max_dup_5gram", "repetitive"),
        _limit("document.repetition.max_dup_6gram", "repetitive"),
        _limit("document.repetition.max_dup_7gram", "repetitive"),
        _limit("document.repetition.max_dup_8gram", "repetitive"),
        _limit("document.repetition.max_dup_9gram", "repetitive"),
        _limit("document.repetition.max_dup_10gram", "repetitive"),
    )
    histograms = ("quality.words",)
    settings: QualityThresholds
