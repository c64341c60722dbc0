import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.interface import Annotator
from annotators.ngrams import Matcher, Ngrams, NgramsSettings
from infra.errors import ConfigError
from infra.vocabulary import pad_words


def match_plainly(entries, texts, case):
    """`entry in text`, all against all; of entries that come to the same words only the first."""
    needles = [pad_words(entry, case) for entry in entries]
    first = [needles.index(needle) == i for i, needle in enumerate(needles)]
    return [
        [i for i, needle in enumerate(needles) if first[i] and needle in pad_words(text or "", case)] for text in texts
    ]


# Few letters, so that entries are found, overlap, nest, repeat and lie at the edges.
WORDS = st.sampled_from(["a", "b", "A", "ab", "é", "ς", "Σ", "(a", "a'b", ",", "U.S.", "x?y", "`"])
GAPS = st.sampled_from([" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2003", "\u3000", "\x1f", "\x85", ",", ".", ""])
TEXTS = st.lists(st.tuples(WORDS, GAPS), max_size=12).map(lambda parts: "".join(w + g for w, g in parts))
ANY = st.one_of(TEXTS, st.text(max_size=12))
CASES = st.sampled_from(["lower", "keep"])


@settings(max_examples=150, deadline=None)
@given(st.lists(ANY.filter(lambda t: t.strip()), min_size=1, max_size=12), st.lists(st.none() | ANY, max_size=5), CASES)
def test_equal_to_entry_in_text(entries, texts, case):
    matches = Matcher(entries, case).match(pa.array(texts, pa.string()))
    assert matches.type == pa.list_(pa.int32())
    assert matches.to_pylist() == match_plainly(entries, texts, case)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | ANY, max_size=12), st.integers(1, 12), CASES)
def test_a_text_does_not_depend_on_its_chunk(texts, size, case):
    matcher = Matcher(["a", "a b", "b a b", ", a", "é"], case)
    column = pa.array(texts, pa.string())
    whole = matcher.match(column).to_pylist()
    assert [
        ids for at in range(0, len(texts), size) for ids in matcher.match(column.slice(at, size)).to_pylist()
    ] == whole
    assert matcher.match(pa.chunked_array([column.slice(0, size), column.slice(size)])).to_pylist() == whole


def test_equal_to_the_plain_loop_on_many_entries():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(300)]
    entries = [" ".join(words[i] for i in rng.zipf(1.5, rng.integers(1, 6)) % 300) for _ in range(20_000)]
    texts = [" ".join(words[i] for i in rng.zipf(1.3, 12) % 300) for _ in range(40)]
    matches = Matcher(entries, "lower").match(pa.array(texts)).to_pylist()
    assert matches == plain_fast(entries, texts)
    assert max(len(entries[i].split()) for ids in matches for i in ids) == 5


def plain_fast(entries, texts):
    first = {entry: i for i, entry in reversed(list(enumerate(entries)))}
    return [sorted(i for entry, i in first.items() if f" {entry} " in f" {text} ") for text in texts]


def test_entries_are_found_only_at_word_boundaries():
    matcher = Matcher(["new york", "new", "york city", "ew"], "keep")
    texts = pa.array(["in new york city", "renew york", "new, york", "New York", "new\n york."])
    assert matcher.match(texts).to_pylist() == [[0, 1, 2], [], [1], [], [0, 1]]
    assert Matcher(["new york"], "lower").match(texts).to_pylist() == [[0], [], [], [0], [0]]


def test_a_repeated_entry_is_found_once_and_the_first_of_equals_counts():
    matcher = Matcher(["cat", "dog", "Dog", "dog", "U.S.", "u . s ."], "lower")
    assert matcher.match(pa.array(["dog dog DOG", "U.S. cat"])).to_pylist() == [[1], [0, 4]]


@pytest.fixture
def annotator(tmp_path):
    path = tmp_path / "vocabulary.json"
    path.write_text(json.dumps(["dog", "brown dog", "car"]))
    return Ngrams(NgramsSettings(vocabulary=str(path)))


def chunk(texts, clean):
    n = len(texts)
    return pa.table(
        {
            "key": [f"k{i}" for i in range(n)],
            "modality": ["image"] * n,
            "text": pa.array(texts, pa.string()),
            "clean.text": pa.array(clean, pa.string()),
        }
    )


def test_rows_get_the_ids_of_their_entries_or_an_error(annotator):
    assert isinstance(annotator, Annotator)
    rows = chunk(["a", "b", "", None, "e"], ["A brown dog.", "nothing", "", None, None])
    measured = annotator.measure(rows, [None] * 5)
    assert measured.schema.names == ["ids", "error"]
    assert measured.schema.types == [pa.list_(pa.int32()), pa.string()]
    assert measured["ids"].to_pylist() == [[0, 1], [], [], [], None]
    assert measured["error"].to_pylist() == [None, None, None, None, "missing: clean.text"]


def test_no_rows(annotator):
    assert annotator.measure(chunk([], []), []).num_rows == 0


def test_fingerprint_inputs_name_the_vocabulary_by_its_bytes(annotator, tmp_path):
    longer = tmp_path / "other.json"
    longer.write_text(json.dumps(["dog", "brown dog", "cat"]))
    copy = tmp_path / "copy.json"
    copy.write_text(json.dumps(["dog", "brown dog", "car"]))
    assert Ngrams(NgramsSettings(vocabulary=str(copy))).fingerprint_inputs() == annotator.fingerprint_inputs()
    assert Ngrams(NgramsSettings(vocabulary=str(longer))).fingerprint_inputs() != annotator.fingerprint_inputs()
    assert (
        Ngrams(NgramsSettings(vocabulary=str(copy), case="keep")).fingerprint_inputs() != annotator.fingerprint_inputs()
    )


def test_construction_loads_nothing_and_a_missing_file_is_a_config_error():
    absent = Ngrams(NgramsSettings(vocabulary="/nowhere/v.json"))
    with pytest.raises(ConfigError, match="no such vocabulary"):
        absent.fingerprint_inputs()


def test_pickling_leaves_the_lookup_tables_out(annotator):
    before = annotator.measure(chunk(["dog"], ["dog"]), [None])
    sent = pickle.dumps(annotator)
    assert len(sent) < 2_000
    assert pickle.loads(sent).measure(chunk(["dog"], ["dog"]), [None]).equals(before)
