import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.text import count, ratio, shouting, strings


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("A DOG RUNS ACROSS THE FIELD", 1.0),
        ("TWO PEOPLE ARE WALKING NEAR A MINI TRUCK", 1.0),
        ("MAN RIDING HORSE", 1.0),
        ("NASA and ESA launch the JWST from Kourou", 0.0),
        ("FC BARCELONA meets REAL MADRID at CAMP NOU", 0.0),
        ("a USS ENTERPRISE model in the IMAX hall", 0.0),
        ("A dog runs across the field", 0.0),
        ("I saw A man", 0.0),
        ("DON'T run", 0.0),
        ("", 0.0),
        ("12 + 3", 0.0),
        ("犬が走る", 0.0),
        ("СОБАКА БЕЖИТ ПО ПОЛЮ", 1.0),
    ],
)
def test_capitals_of_names_do_not_count_as_shouting(text: str, share: float) -> None:
    assert shouting([text]).tolist() == [share]


def test_shouting_is_the_share_of_shouted_letters() -> None:
    assert shouting(["CUTE DOG RUNS ACROSS the park"])[0] == pytest.approx(17 / 24)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(max_size=40), max_size=8))
def test_shouting_is_between_0_and_1_and_does_not_depend_on_other_rows(texts: list[str]) -> None:
    shares = shouting(texts)
    assert ((shares >= 0) & (shares <= 1)).all()
    assert shares.tolist() == [shouting([text])[0] for text in texts]


def test_strings_with_invalid_utf8_are_read() -> None:
    damaged = pa.array([b"ok", b"a\xff\xedb", None], pa.binary()).cast(pa.string(), safe=False)
    if damaged.type != pa.string():  # some Arrow builds check even unsafe casts
        pytest.skip("this Arrow does not build damaged strings")
    assert strings(damaged) == ["ok", "a\ufffd\ufffdb", ""]


def test_ratio_of_nothing_is_zero() -> None:
    assert ratio(np.array([1, 2]), np.array([0, 4])).tolist() == [0.0, 0.5]


def test_count_takes_a_pattern() -> None:
    assert count(pa.array(["a1b22", ""]), r"\d").tolist() == [3, 0]
