"""Is the text in a language that is wanted? Llama 3 drops non-English captions (arXiv 2407.21783, section 7.1) and
publishes neither tool nor threshold; all numbers here are ours."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from filters.interface import Judgement, missing, numbers
from infra.config import Strict
from infra.media.interface import MODALITIES as ALL

READS = (
    "language.label",
    "language.score",
    "language.english",
    "language.letters",
    "language.latin",
    "language.english_share",
)
MODALITIES = frozenset(ALL)


class LanguageThresholds(Strict):
    """allowed: languages kept, as fastText's lid.176 names them (ISO 639).
    min_score: least probability of an allowed label; null: being the likeliest is enough (short captions score low).

    Short texts: below undecided_letters letters and undecided_score nothing is decided and the text stays, unless
    English is wanted and its probability is below undecided_english.

    English with foreign words ("a plate of boeuf bourguignon with pommes frites") is often labelled as the language
    of those words. It stays where at least mixed_share of its words are unmistakably English (the, with, of, ...)
    and English has a probability of at least mixed_english, or where English is a close second with at least
    close_english. min_latin: share of the letters that must be Latin for a text to pass as English; on a few Han
    characters alone the model falls back on English.
    """

    allowed: tuple[str, ...] = Field(default=("en",), min_length=1)
    min_score: float | None = Field(default=None, ge=0, le=1)
    undecided_letters: int = Field(default=20, ge=0)
    undecided_score: float = Field(default=0.5, ge=0, le=1)
    undecided_english: float = Field(default=0.05, ge=0, le=1)
    close_english: float = Field(default=0.25, ge=0, le=1)
    mixed_english: float = Field(default=0.02, ge=0, le=1)
    mixed_share: float = Field(default=0.08, ge=0, le=1)
    min_latin: float = Field(default=0.5, ge=0, le=1)


def judge(signals: pa.Table, settings: LanguageThresholds) -> Judgement:
    """Reasons: "not_latin" (value: Latin share of the letters, threshold min_latin), "other_language" (value:
    probability of English, threshold: that of the likeliest language, which beat it), "low_score" (value: probability
    of the allowed label, threshold min_score), "missing". Passed rows show the score and 0, or undecided_score."""
    lost = missing(signals, READS)
    score, english = (numbers(signals, f"language.{name}") for name in ("score", "english"))
    latin = _latin(signals)
    labelled = _labelled(signals, settings.allowed)
    wrong_script = _labelled(signals, ("en",)) & labelled & ~(latin >= settings.min_latin)
    weak = np.zeros(len(lost), dtype=bool) if settings.min_score is None else score < settings.min_score
    open_ = undecided(signals, settings)
    passed = ((labelled & ~wrong_script & ~weak) | _mixed(signals, settings) | open_) & ~lost

    reason = np.select(
        [passed, lost, wrong_script, labelled], ["", "missing", "not_latin", "low_score"], default="other_language"
    )
    value = np.select([passed, wrong_script, labelled], [score, latin, score], default=english)
    limit = np.nan if settings.min_score is None else settings.min_score
    threshold = np.select(
        [passed & open_, passed, wrong_script, labelled],
        [settings.undecided_score, 0.0, settings.min_latin, limit],
        default=score,
    )
    return Judgement(passed, np.where(lost, np.nan, value), np.where(lost, np.nan, threshold), reason)


def undecided(signals: pa.Table, settings: LanguageThresholds) -> NDArray[np.bool_]:
    """bool (n,): rows that pass only because they are too short to tell; to be counted apart."""
    score, english, letters = (numbers(signals, f"language.{name}") for name in ("score", "english", "letters"))
    short = (letters < settings.undecided_letters) & (score < settings.undecided_score)
    if "en" in settings.allowed:
        short &= (english >= settings.undecided_english) & (_latin(signals) >= settings.min_latin)
    decided = _labelled(signals, settings.allowed) | _mixed(signals, settings) | missing(signals, READS)
    return short & ~decided


def _mixed(signals: pa.Table, settings: LanguageThresholds) -> NDArray[np.bool_]:
    """English among foreign words, or nearly as likely as the label."""
    english, share = (numbers(signals, f"language.{name}") for name in ("english", "english_share"))
    among = (english >= settings.mixed_english) & (share >= settings.mixed_share)
    close = english >= settings.close_english
    return ("en" in settings.allowed) & (_latin(signals) >= settings.min_latin) & (among | close)


def _labelled(signals: pa.Table, languages: tuple[str, ...]) -> NDArray[np.bool_]:
    found = pc.is_in(signals["language.label"], pa.array(languages, pa.string()))
    return np.asarray(found.to_numpy(), dtype=bool)


def _latin(signals: pa.Table) -> NDArray[np.float64]:
    """Latin share of the letters; 1 where there are no letters, NaN where nothing was measured."""
    letters, latin = numbers(signals, "language.letters"), numbers(signals, "language.latin")
    return np.divide(latin, letters, out=np.where(letters == 0, 1.0, np.nan), where=letters > 0)


Settings = LanguageThresholds
