import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from annotators.minhash import MinHash, MinHashSettings, normalise_words, shingles


def measure(texts: list[str | None], **options: int) -> pa.Table:
    chunk = pa.table({"key": [str(i) for i in range(len(texts))], "clean.text": pa.array(texts, pa.string())})
    answer = MinHash(MinHashSettings(**options)).measure(chunk, [None] * len(texts))
    assert answer.schema == MinHash.schema()
    return answer


def signatures(texts: list[str], **options: int) -> np.ndarray:
    return np.array([np.frombuffer(s, "<u4") for s in measure(list(texts), **options)["signature"].to_pylist()])


def test_exact_sees_through_case_punctuation_and_width() -> None:
    exact = measure(["A dog, runs!", "a DOG runs", "ａ dog — runs", "a dog run"])["exact"].to_pylist()
    assert exact[0] == exact[1] == exact[2] != exact[3]
    assert len(exact[0]) == 16


def test_texts_without_words_are_not_all_the_same() -> None:
    table = measure(["!!!", "???", "", None])
    exact, signature = table["exact"].to_pylist(), table["signature"].to_pylist()
    assert exact[0] != exact[1] and signature[0] != signature[1]
    assert exact[2] == exact[3]
    assert table["words"].to_pylist() == [0, 0, 0, 0]


def test_equal_values_estimate_jaccard() -> None:
    rng = np.random.default_rng(3)
    for shared in (20, 60, 100):
        first = [f"w{i}" for i in rng.permutation(5000)[:120]]
        second = first[:shared] + [f"v{i}" for i in rng.permutation(5000)[: 120 - shared]]
        a, b = set(shingles(first, 5)), set(shingles(second, 5))
        a_signature, b_signature = signatures([" ".join(first), " ".join(second)], num_perm=1024)
        assert (a_signature == b_signature).mean() == pytest.approx(len(a & b) / len(a | b), abs=0.06)


def test_short_texts_are_near_to_their_copies_only() -> None:
    capital, copy, other_word = signatures(["Red car!", "red car", "red cat"])
    assert (capital == copy).all()
    assert (capital == other_word).mean() < 0.1
    assert shingles(["red", "car"], 5) == ["red car"]
    assert shingles([], 5) == []
    assert shingles(list("abcdef"), 5) == ["a b c d e", "b c d e f"]
    assert normalise_words("Straße-1 ﬁne_x") == ["strasse", "1", "fine", "x"]


def test_rows_do_not_depend_on_each_other() -> None:
    texts = ["one two three four five six", "x", "", "one two three four five seven"]
    whole = measure(list(texts))
    for row, text in enumerate(texts):
        assert measure([text]).to_pylist()[0] == whole.slice(row, 1).to_pylist()[0]
    assert measure([]).num_rows == 0


def test_the_signature_is_the_same_in_another_process_and_for_ever() -> None:
    text = "the quick brown fox jumps over the lazy dog"
    program = (
        "import pyarrow as pa; from annotators.minhash import *;"
        f"chunk = pa.table({{'clean.text': [{text!r}]}});"
        "print(MinHash(MinHashSettings()).measure(chunk, [None])['signature'][0].as_py().hex())"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    measured = measure([text])
    assert printed == measured["signature"][0].as_py().hex()
    assert measured["exact"][0].as_py().hex() == "5bfb7372bdb2f169ed8c800e5ee441e8"
    assert printed[:32] == "12e440dfd2c0a1c453042ebe84a187cd"
    assert len(printed) == 128 * 4 * 2


def test_fingerprint_inputs_name_the_parameters() -> None:
    assert MinHash(MinHashSettings(seed=2)).fingerprint_inputs() != MinHash(MinHashSettings()).fingerprint_inputs()
    assert (signatures(["a b c d e f"], seed=2) != signatures(["a b c d e f"])).any()
    assert MinHash.store_only == {"signature"}
