import pickle
from collections import Counter
from itertools import pairwise
from math import log2

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.ngrams import Matcher
from infra import vocabulary
from infra.errors import ConfigError
from infra.vocabulary import split_words
from pipelines.tools.vocabulary_builder import SMALL, VocabularySettings, build, count, merge, notes, pmi

TEXT = st.lists(
    st.sampled_from(["new", "york", "New", "a", ".", ", ", "(x)", "don't", "-", "é\u0301", "\n"]), max_size=10
)
TEXTS = st.lists(st.none() | TEXT.map(" ".join), max_size=8)
CASES = st.sampled_from(["lower", "keep"])


def by_hand(texts, case):
    singles, pairs = Counter(), Counter()
    for text in texts:
        tokens = split_words(text or "", case)
        is_word = [t not in (".", ",", "(x)", "-") for t in tokens]
        singles.update(t for t, good in zip(tokens, is_word, strict=True) if good)
        both = zip(pairwise(tokens), pairwise(is_word), strict=True)
        pairs.update(pair for pair, good in both if all(good))
    return singles, pairs


def as_counters(counts):
    rows = counts.pairs.to_pylist()
    return (
        Counter({row["word"]: row["count"] for row in counts.words.to_pylist()}),
        Counter({(row["first"], row["second"]): row["count"] for row in rows}),
    )


@settings(deadline=None)
@given(TEXTS, CASES)
def test_counts(texts, case):
    counts = count(pa.array(texts, pa.string()), case)
    singles, pairs = by_hand(texts, case)
    assert as_counters(counts) == (singles, pairs)
    assert counts.total == singles.total() and counts.texts == len(texts)


def same(a, b):
    return a.words.equals(b.words) and a.pairs.equals(b.pairs) and a.texts == b.texts


@settings(max_examples=50, deadline=None)
@given(TEXTS, st.integers(0, 8), CASES, st.booleans())
def test_parts_merge_to_the_whole_in_any_order(texts, cut, case, swap):
    parts = [count(texts[:cut], case), count(texts[cut:], case), merge([])]
    merged = merge(reversed(parts) if swap else parts)
    assert same(merged, count(texts, case))
    assert same(merge([merged]), merged)


def test_counts_survive_pickling():
    counts = count(["new york new york", "a dog"], "lower")
    assert same(pickle.loads(pickle.dumps(counts)), counts)


def test_pmi_by_hand():
    # 10 words: a 4, b 3, c 2, d 1; pairs ab 3, bc 2, bd 1, and c–a, c–a, d–a are in other texts or behind a stop.
    counts = count(["a b c . a b c", "a b d", "a"], "lower")
    assert counts.total == 10
    values = dict(
        zip(zip(*[counts.pairs[s].to_pylist() for s in ("first", "second")], strict=True), pmi(counts), strict=True)
    )
    assert values == {
        ("a", "b"): pytest.approx(log2(3 * 10 / (4 * 3)), abs=1e-6),
        ("b", "c"): pytest.approx(log2(2 * 10 / (3 * 2)), abs=1e-6),
        ("b", "d"): pytest.approx(log2(1 * 10 / (3 * 1)), abs=1e-6),
    }


def test_thresholds_and_order():
    counts = count(["a b c . a b c", "a b d", "a"], "lower")
    settings = VocabularySettings(min_count=2, min_pmi=1.5, min_pair_count=1, numbers=False)
    assert build(counts, settings) == ["a", "b", "c", "b c", "b d"]  # equal PMI: the more frequent first
    assert build(counts, settings.model_copy(update={"min_pair_count": 2})) == ["a", "b", "c", "b c"]
    assert build(counts, settings.model_copy(update={"min_count": 4, "min_pmi": 1.3})) == ["a", "b c", "b d", "a b"]


def test_titles_come_last_once_each_and_keep_their_spelling():
    counts = count(["new york"] * 2, "lower")
    titles = ["New York", "U.S. Route 66", " ", "!", "u . s. route 66", "  Ōsaka ", "66"]
    settings = VocabularySettings(min_count=2, min_pmi=0, min_pair_count=3)
    entries = build(counts, settings, titles)
    assert entries == [*map(str, range(100)), "new", "york", "New York", "U.S. Route 66", "Ōsaka"]


def test_ties_are_in_the_order_of_the_text_whatever_was_read_first():
    lines = ["zebra ant", "bee zebra", "ant bee"]
    settings = VocabularySettings(min_count=1, min_pmi=0, numbers=False)
    expected = ["ant", "bee", "zebra", "ant bee", "bee zebra", "zebra ant"]
    assert build(count(lines, "lower"), settings) == expected
    assert build(merge(count([line], "lower") for line in reversed(lines)), settings) == expected


@settings(max_examples=50, deadline=None)
@given(TEXTS, CASES)
def test_every_entry_matches_its_own_text(texts, case):
    counts = count(texts, case)
    if not counts.total:
        return
    entries = build(counts, VocabularySettings(case=case, min_count=1, min_pmi=-99, numbers=False))
    matches = Matcher(entries, case).match(pa.array(texts, pa.string())).to_pylist()
    assert {i for ids in matches for i in ids} == set(range(len(entries)))
    assert len({vocabulary.pad_words(entry, case) for entry in entries}) == len(entries)


def test_the_defaults_are_metaclips_and_say_when_a_text_is_too_small():
    assert VocabularySettings().model_dump() == {
        "case": "lower",
        "min_count": 100,
        "min_pmi": 30.0,
        "min_pair_count": 1,
        "numbers": True,
    }
    counts = count(["the big brown dog"] * 20, "lower")
    with pytest.raises(ConfigError, match="commonest occurs 20 times, and min_count is 100"):
        build(counts, VocabularySettings())
    few, none = notes(counts, VocabularySettings())
    assert "the commonest occurs 20 times" in few
    assert "no pair can have a PMI of 30: in 80 words, one that occurs 1 times has at most 6.3" in none
    with pytest.raises(ConfigError, match="no word is left"):
        build(merge([]), SMALL)
    assert len(notes(merge([]), SMALL)) == 2


def test_a_small_text_gives_a_small_vocabulary():
    filler = [f"the w{i} of the w{i + 1} is the w{i + 2}" for i in range(400)]
    counts = count([*filler, *["we saw the golden gate"] * 6, *["gate of the golden"] * 2], "lower")
    assert notes(counts, SMALL) == []
    entries = build(counts, SMALL)
    assert entries[:2] == ["0", "1"] and entries[100] == "the"
    assert "golden gate" in entries and "saw the" not in entries and "w7" not in entries


def test_what_is_built_is_saved_and_loaded(tmp_path):
    entries = build(count(["new york"] * 5, "lower"), SMALL, ["Überlingen", 'the "x"'])
    saved = vocabulary.save(tmp_path / "v.json", entries)
    assert list(vocabulary.load(tmp_path / "v.json").entries) == entries == list(saved.entries)
