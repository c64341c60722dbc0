from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.repetition import duplicate_shares, ngram_shares

TOP, REPEATED = (2, 3, 4), (2, 5, 6)
words = st.lists(st.sampled_from(["a", "bb", "ccc", "dd", "é"]), max_size=14)


def oracle(tokens: list[str]) -> dict[str, float]:
    """The same shares, one text and one n-gram at a time."""
    total = sum(map(len, tokens))

    def covered_share(starts: list[int], width: int) -> float:
        inside = {position for start in starts for position in range(start, start + width)}
        return sum(len(tokens[position]) for position in inside) / total if total else 0.0

    shares = {}
    for width in sorted({*TOP, *REPEATED}):
        grams = [tuple(tokens[i : i + width]) for i in range(len(tokens) - width + 1)]
        counts = Counter(grams)
        if width in TOP:
            best = max(counts, key=lambda g: (counts[g], sum(map(len, g)), -grams.index(g)), default=None)
            starts = [i for i, g in enumerate(grams) if g == best] if best and counts[best] > 1 else []
            shares[f"top_{width}gram"] = covered_share(starts, width)
        if width in REPEATED:
            shares[f"dup_{width}gram"] = covered_share([i for i, g in enumerate(grams) if g in grams[:i]], width)
    return shares


@settings(deadline=None, max_examples=60)
@given(st.lists(words, max_size=6))
def test_shares_equal_the_plain_loop_for_every_text_of_a_chunk(texts: list[list[str]]) -> None:
    shares = ngram_shares(pa.array(texts, pa.list_(pa.string())), TOP, REPEATED)
    assert set(shares) == {f"top_{n}gram" for n in TOP} | {f"dup_{n}gram" for n in REPEATED}
    for row, tokens in enumerate(texts):
        for name, share in oracle(tokens).items():
            assert shares[name][row] == pytest.approx(share), (name, tokens)


def test_half_of_a_doubled_text_is_repetition() -> None:
    text = ["the", "quick", "brown", "fox", "jumps", "over", "lazy", "dogs"]
    shares = ngram_shares(pa.array([text, text * 2]), TOP, REPEATED)
    assert shares["dup_5gram"].tolist() == [0.0, 0.5]
    assert shares["top_2gram"][0] == 0.0


def test_overlaps_are_counted_once() -> None:
    shares = ngram_shares(pa.array([["dog"] * 5]), TOP, REPEATED)
    assert shares["top_2gram"].tolist() == [1.0]
    assert shares["dup_2gram"].tolist() == [0.8]


def test_empty_columns_and_empty_texts_have_no_repetition() -> None:
    empty = pa.array([], pa.list_(pa.string()))
    assert all(len(share) == 0 for share in ngram_shares(empty, TOP, REPEATED).values())
    assert ngram_shares(pa.array([[]], pa.list_(pa.string())), TOP, REPEATED)["dup_2gram"].tolist() == [0.0]
    assert [share.tolist() for share in duplicate_shares(empty)] == [[], []]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.sampled_from(["", " ", "x", "yy", "yy "]), max_size=8), max_size=5))
def test_duplicate_lines_equal_the_plain_loop(texts: list[list[str]]) -> None:
    by_part, by_char = duplicate_shares(pa.array(texts, pa.list_(pa.string())))
    for row, lines in enumerate(texts):
        lines = [line.strip() for line in lines if line.strip()]
        again = [line for i, line in enumerate(lines) if line in lines[:i]]
        assert by_part[row] == pytest.approx(len(again) / len(lines) if lines else 0.0)
        assert by_char[row] == pytest.approx(len("".join(again)) / len("".join(lines)) if lines else 0.0)
