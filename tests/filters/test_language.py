import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.language import Language
from filters.language import LanguageFilter, LanguageThresholds
from filters.rules import Judgement


def judge(signals: pa.Table, settings: LanguageThresholds) -> Judgement:
    return LanguageFilter(settings).judge(signals)


ENGLISH = {"label": "en", "score": 0.9, "english": 0.9, "letters": 40, "latin": 40, "english_share": 0.3}
GERMAN = {"label": "de", "score": 0.95, "english": 0.01, "letters": 40, "latin": 40, "english_share": 0.0}


def table(*rows: dict[str, object]) -> pa.Table:
    return pa.table(
        {
            name: pa.array([row[name.partition(".")[2]] for row in rows], Language.columns[name[9:]].type)
            for name in LanguageFilter.columns()
        }
    )


def verdict(row: dict[str, object], **settings: object) -> tuple[bool, str]:
    verdicts = judge(table(row), LanguageThresholds(**settings))  # type: ignore[arg-type]
    return bool(verdicts.passed[0]), str(verdicts.reason[0])


def test_top_label_decides() -> None:
    verdicts = judge(table(ENGLISH, GERMAN), LanguageThresholds())
    assert verdicts.passed.tolist() == [True, False]
    assert verdicts.reason.tolist() == ["", "other_language"]
    assert verdicts.numbers.tolist() == [0.9, 0.01]
    assert verdicts.threshold.tolist() == [0.0, 0.95]  # what English was beaten by
    assert verdict(ENGLISH | {"score": 0.1, "english": 0.1}) == (True, "")


def test_short_and_unsure_is_undecided_and_stays() -> None:
    short = GERMAN | {"letters": 39, "latin": 39, "score": 0.35, "english": 0.05}
    assert verdict(short) == (True, "")
    assert judge(table(short), LanguageThresholds()).threshold.tolist() == [0.5]
    assert LanguageFilter(LanguageThresholds()).is_undecided(table(short, ENGLISH, GERMAN)).tolist() == [
        True,
        False,
        False,
    ]
    assert verdict(short | {"letters": 40})[0] is False
    assert verdict(short | {"score": 0.36})[0] is False  # English is too far behind
    assert verdict(short | {"score": 0.5, "english": 0.24}, close_english=1.0)[0] is False
    assert verdict(short | {"english": 0.04})[0] is False
    assert verdict(short | {"latin": 0})[0] is False


def test_a_guess_of_english_is_not_enough_for_a_longer_text() -> None:
    """The model guesses English for languages that it does not know (Xhosa, Somali, Oromo)."""
    guess = ENGLISH | {"score": 0.29, "english": 0.29, "english_share": 0.07}
    verdicts = judge(table(guess), LanguageThresholds())
    assert (verdicts.passed[0], verdicts.reason[0]) == (False, "low_score")
    assert (verdicts.numbers[0], verdicts.threshold[0]) == (0.29, 0.3)
    assert verdict(guess | {"score": 0.3, "english": 0.3})[0]
    assert verdict(guess | {"english_share": 0.08})[0]
    assert verdict(guess | {"letters": 39, "latin": 39})[0]
    assert verdict(guess, min_english=0.0)[0]


def test_english_among_foreign_words_stays() -> None:
    mixed = GERMAN | {"english": 0.02, "english_share": 0.08}
    assert verdict(mixed) == (True, "")
    assert verdict(GERMAN | {"english": 0.25}) == (True, "")
    assert not LanguageFilter(LanguageThresholds()).is_undecided(table(mixed))[0]
    assert verdict(mixed | {"english_share": 0.07})[0] is False
    assert verdict(mixed | {"english": 0.01})[0] is False
    assert verdict(mixed | {"latin": 10})[0] is False
    assert verdict(mixed, allowed=("fr",))[0] is False


def test_english_without_latin_letters_is_not_english() -> None:
    han = ENGLISH | {"letters": 3, "latin": 0, "score": 0.34, "english": 0.34, "english_share": 0.0}
    verdicts = judge(table(han), LanguageThresholds())
    assert (verdicts.passed[0], verdicts.reason[0], verdicts.numbers[0], verdicts.threshold[0]) == (
        False,
        "not_latin",
        0.0,
        0.5,
    )
    assert verdict(ENGLISH | {"letters": 0, "latin": 0}) == (True, "")  # nothing to judge: a matter for `quality`


def test_other_languages_may_be_wanted_and_sure() -> None:
    assert verdict(GERMAN, allowed=("en", "de")) == (True, "")
    assert verdict(ENGLISH, allowed=("de",)) == (False, "other_language")
    weak = GERMAN | {"score": 0.6}
    verdicts = judge(table(weak), LanguageThresholds(allowed=("de",), min_score=0.8))
    assert (verdicts.reason[0], verdicts.numbers[0], verdicts.threshold[0]) == ("low_score", 0.6, 0.8)


@pytest.mark.parametrize("name", [name[9:] for name in LanguageFilter.columns()])
def test_anything_missing_fails_closed(name: str) -> None:
    for absent in (None, math.nan):
        if absent is not None and not pa.types.is_floating(Language.columns[name].type):
            continue
        for row in (ENGLISH, GERMAN | {"letters": 5, "score": 0.3, "english": 0.2}):
            verdicts = judge(table(row | {name: absent}), LanguageThresholds(allowed=("en", "de")))
            assert (verdicts.passed[0], verdicts.reason[0]) == (False, "missing")
            assert math.isnan(verdicts.numbers[0])


rows = st.fixed_dictionaries(
    {
        "label": st.sampled_from(["en", "de", None]),
        "score": st.sampled_from([0.3, 0.9, math.nan]),
        "english": st.sampled_from([0.0, 0.1, 0.3]),
        "letters": st.sampled_from([0, 10, 30]),
        "latin": st.sampled_from([0, 10]),
        "english_share": st.sampled_from([0.0, 0.2]),
    }
)


@settings(deadline=None, max_examples=30)
@given(st.lists(rows, min_size=1, max_size=8), st.data())
def test_verdicts_do_not_depend_on_order_or_chunks(drawn: list[dict[str, object]], data: st.DataObject) -> None:
    signals = table(*drawn)
    whole = judge(signals, LanguageThresholds())
    assert ((whole.reason == "") == whole.passed).all()
    order = np.array(data.draw(st.permutations(range(len(drawn)))))
    shuffled = judge(signals.take(order), LanguageThresholds())
    for field in ("passed", "numbers", "threshold", "reason"):
        expected = getattr(whole, field)
        np.testing.assert_array_equal(getattr(shuffled, field), expected[order])
        single = [getattr(judge(signals.slice(i, 1), LanguageThresholds()), field)[0] for i in range(len(drawn))]
        np.testing.assert_array_equal(np.array(single), expected)
