from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import hashing

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_canonical_json_is_the_value_on_one_line(document: Any) -> None:
    try:
        line = hashing.canonical_json(document)
    except UnicodeEncodeError:
        return  # a lone surrogate, which no UTF-8 file can hold
    assert json.loads(line) == document
    assert line.endswith(b"\n") and line.count(b"\n") == 1


@given(st.dictionaries(st.text(alphabet="abcdé"), st.integers(), min_size=2), st.randoms())
def test_canonical_json_does_not_depend_on_the_order_of_keys(mapping: dict[str, int], random: Any) -> None:
    pairs = list(mapping.items())
    random.shuffle(pairs)
    assert hashing.canonical_json(dict(pairs)) == hashing.canonical_json(mapping)


@pytest.mark.parametrize("document", [math.nan, math.inf, {"a": [-math.inf]}])
def test_canonical_json_refuses_numbers_that_are_not_finite(document: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        hashing.canonical_json(document)


def test_digests_depend_on_where_parts_end() -> None:
    assert hashing.digest(b"ab", b"c") != hashing.digest(b"a", b"bc") != hashing.digest(b"abc")
    assert len(hashing.digest(b"", size=8)) == 8


PARTS = st.tuples(*[st.text(max_size=6)] * 5)


@given(PARTS, PARTS)
def test_keys_are_26_characters_and_differ_where_a_part_does(first: Any, second: Any) -> None:
    key = hashing.sample_key(*first)
    assert re.fullmatch("[a-z2-7]{26}", key)
    assert (key == hashing.sample_key(*second)) == (first == second)


def test_keys_never_change_between_versions() -> None:
    # Stores and mixtures made by earlier versions name samples so.
    assert hashing.sample_key("photos", "a/б.jpg", "", "0" * 64, "a caption") == "y6gyr7ca2eewdpqahkrdgppdya"


def test_draws_are_uniform_and_a_function_of_seed_key_and_purpose() -> None:
    keys = [f"k{i}" for i in range(20_000)]
    draws = hashing.draw_fractions(1, keys, "resample")
    assert draws.min() >= 0 and draws.max() < 1
    # Kolmogorov–Smirnov at one in a thousand; and another seed or purpose has nothing to do with it.
    gap = np.abs(np.sort(draws) - np.arange(len(draws)) / len(draws)).max()
    assert gap < 1.95 / math.sqrt(len(draws))
    for independent in (hashing.draw_fractions(2, keys, "resample"), hashing.draw_fractions(1, keys, "mix")):
        assert abs(np.corrcoef(draws, independent)[0, 1]) < 0.03
    assert (hashing.draw_fractions(1, keys[::-1], "resample")[::-1] == draws).all()
    assert (hashing.draw_integers(1, ["a"], "x") == hashing.draw_integers(1, ["b", "a"], "x")[1:]).all()
    assert len(hashing.draw_integers(1, [], "x")) == 0


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hashing.file_sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_fingerprints_of_rows_depend_on_order_and_cell_boundaries_but_not_on_chunks() -> None:
    def hash_rows(*values: str) -> str:
        return hashing.rows_fingerprint(pa.array(values, pa.string()))

    assert hash_rows("a", "b") != hash_rows("b", "a") and hash_rows("ab", "c") != hash_rows("a", "bc")
    assert hashing.rows_fingerprint(pa.chunked_array([["a"], ["b"]])) == hash_rows("a", "b")
    assert hashing.rows_fingerprint(pa.array([b"a", b"b"], pa.binary())) == hash_rows("a", "b")


def test_mix64_is_splitmix64() -> None:
    # The first three outputs of splitmix64 from state 0 (its state grows by the golden ratio before each).
    golden = 0x9E3779B97F4A7C15
    states = np.array([(golden * i) % 2**64 for i in (1, 2, 3)], dtype=np.uint64)
    assert hashing.mix64(states).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
