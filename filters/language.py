"""Is the text in an allowed language? Llama 3 drops non-English captions (arXiv 2407.21783, section 7.1) and publishes
neither tool nor threshold; all numbers here are ours."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from filters.interface import Filter, Floats, Threshold, is_missing
from filters.rules import MISSING, Judgement
from infra.columns import to_floats, to_mask
from infra.config import Strict
from infra.media.interface import MODALITIES

Mask = NDArray[np.bool_]


class LanguageThresholds(Strict):
    """allowed: languages to keep, as fastText's lid.176 names them (ISO 639).
    min_score: minimum probability of an allowed label; null: the likeliest label is enough (short captions score low).

    Short texts: below undecided_letters letters and undecided_score the text is undecided and stays, unless English is
    allowed and its probability is below undecided_english, or below that of the likeliest language by more than
    undecided_margin. So titles and names in English stay.

    Longer texts: the model guesses English for languages that it does not know, with a low probability. A text labelled
    English with less than min_english goes, unless mixed_share of its words are unmistakably English.

    English with foreign words ("a plate of boeuf bourguignon with pommes frites") is often labelled as the language
    of those words. It stays where at least mixed_share of its words are unmistakably English (the, with, of, ...)
    and English has a probability of at least mixed_english, or where English is a close second with at least
    close_english. min_latin: share of the letters that must be Latin for a text to pass as English; for a few Han
    characters alone the model returns English.
    """

    allowed: tuple[str, ...] = Field(default=("en",), min_length=1)
    min_score: float | None = Field(default=None, ge=0, le=1)
    undecided_letters: int = Field(default=40, ge=0)
    undecided_score: float = Field(default=0.5, ge=0, le=1)
    undecided_english: float = Field(default=0.05, ge=0, le=1)
    undecided_margin: float = Field(default=0.3, ge=0, le=1)
    min_english: float = Field(default=0.3, ge=0, le=1)
    close_english: float = Field(default=0.25, ge=0, le=1)
    mixed_english: float = Field(default=0.02, ge=0, le=1)
    mixed_share: float = Field(default=0.08, ge=0, le=1)
    min_latin: float = Field(default=0.5, ge=0, le=1)


def latin_share(signals: pa.Table) -> Floats:
    """float64 (n,): Latin share of the letters; 1 where there are no letters, NaN where nothing was measured."""
    letters, latin = to_floats(signals["language.letters"]), to_floats(signals["language.latin"])
    return np.divide(latin, letters, out=np.where(letters == 0, 1.0, np.nan), where=letters > 0)


def margin(signals: pa.Table) -> Floats:
    """float64 (n,): by how much the likeliest language is more probable than English."""
    return to_floats(signals["language.score"]) - to_floats(signals["language.english"])


class LanguageFilter(Filter):
    """Reasons: "not_latin" (value: Latin share of the letters, threshold min_latin), "other_language" (value:
    probability of English, threshold: that of the likeliest language, which beat it), "low_score" (value: probability
    of the allowed label, threshold min_score or min_english), "missing". Passed rows show the score and 0, or
    undecided_score."""

    name = "language"
    modalities = frozenset(MODALITIES)
    thresholds = (
        Threshold("min_score", "language.score", "min"),
        Threshold("min_latin", "language.latin", "min", compute=latin_share),
        Threshold("undecided_letters", "language.letters", "below"),
        Threshold("undecided_score", "language.score", "below"),
        Threshold("undecided_english", "language.english", "min"),
        Threshold("undecided_margin", "language.score", "max", compute=margin),
        Threshold("min_english", "language.english", "min"),
        Threshold("close_english", "language.english", "min"),
        Threshold("mixed_english", "language.english", "min"),
        Threshold("mixed_share", "language.english_share", "min"),
    )
    required = ("language.label", "language.score", "language.english", "language.letters", "language.latin",
                "language.english_share")  # fmt: skip
    histograms = ("language.english",)
    settings: LanguageThresholds

    def judge(self, signals: pa.Table) -> Judgement:
        settings = self.settings
        missing = is_missing(signals, self.required)
        score, english = to_floats(signals["language.score"]), to_floats(signals["language.english"])
        latin = latin_share(signals)
        labelled = _has_label(signals, settings.allowed)
        wrong_script = _has_label(signals, ("en",)) & labelled & ~(latin >= settings.min_latin)
        limit = np.full(len(missing), np.nan if settings.min_score is None else settings.min_score)
        limit[self._is_doubtful(signals)] = max(settings.min_score or 0.0, settings.min_english)
        weak = score < limit
        undecided = self.is_undecided(signals)
        passed = ((labelled & ~wrong_script & ~weak) | self._is_mixed(signals) | undecided) & ~missing

        reason = np.select(
            [passed, missing, wrong_script, labelled], ["", MISSING, "not_latin", "low_score"], default="other_language"
        )
        numbers = np.select([passed, wrong_script, labelled], [score, latin, score], default=english)
        threshold = np.select(
            [passed & undecided, passed, wrong_script, labelled],
            [settings.undecided_score, 0.0, settings.min_latin, limit],
            default=score,
        )
        return Judgement(passed, np.where(missing, np.nan, numbers), np.where(missing, np.nan, threshold), reason)

    def is_undecided(self, signals: pa.Table) -> Mask:
        """bool (n,): rows that pass only because they are too short for their language to be recognised."""
        settings = self.settings
        short = (to_floats(signals["language.letters"]) < settings.undecided_letters) & (
            to_floats(signals["language.score"]) < settings.undecided_score
        )
        if "en" in settings.allowed:
            short &= to_floats(signals["language.english"]) >= settings.undecided_english
            short &= margin(signals) <= settings.undecided_margin
            short &= latin_share(signals) >= settings.min_latin
        decided = _has_label(signals, settings.allowed) | self._is_mixed(signals)
        return short & ~decided & ~is_missing(signals, self.required)

    def _is_doubtful(self, signals: pa.Table) -> Mask:
        """bool (n,): longer texts labelled English that have hardly any unmistakably English word."""
        settings = self.settings
        long = to_floats(signals["language.letters"]) >= settings.undecided_letters
        has_words = to_floats(signals["language.english_share"]) >= settings.mixed_share
        return _has_label(signals, ("en",)) & long & ~has_words

    def _is_mixed(self, signals: pa.Table) -> Mask:
        """bool (n,): English with foreign words, or English nearly as likely as the label."""
        settings = self.settings
        if "en" not in settings.allowed:
            return np.zeros(signals.num_rows, dtype=bool)
        english, english_share = to_floats(signals["language.english"]), to_floats(signals["language.english_share"])
        mixed = (english >= settings.mixed_english) & (english_share >= settings.mixed_share)
        close = (english >= settings.close_english) & ~_has_label(signals, ("en",))
        return (latin_share(signals) >= settings.min_latin) & (mixed | close)


def _has_label(signals: pa.Table, languages: tuple[str, ...]) -> Mask:
    return to_mask(pc.is_in(signals["language.label"], pa.array(languages, pa.string())))
