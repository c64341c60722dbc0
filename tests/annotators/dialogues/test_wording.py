import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotators.dialogues import wording
from annotators.dialogues.wording import extract_features, stem


@pytest.mark.parametrize(
    "forms",
    [
        ("walk", "walks", "walked", "walking"),
        ("run", "runs", "running", "ran"),
        ("ski", "skis", "skiing"),
        ("make", "makes", "making", "made"),
        ("carry", "carries", "carried", "carrying"),
        ("glass", "glasses"),
        ("child", "children", "child's"),
        ("quick", "quickly"),
        ("shot", "shots"),
        ("leave", "leaves", "leaving"),
        ("犬",),
    ],
)
def test_forms_of_a_word_have_one_stem(forms: tuple[str, ...]) -> None:
    assert len({stem(form) for form in forms}) == 1


@pytest.mark.parametrize(
    "words",
    [("man", "many"), ("party", "part"), ("car", "carry"), ("sing", "single"), ("red", "reed"), ("bus", "business")],
)
def test_different_words_have_different_stems(words: tuple[str, ...]) -> None:
    assert len({stem(word) for word in words}) == len(words)


def test_words_without_content_are_left_out() -> None:
    assert extract_features("The video shows a man who is in the 2 red cars, and then he jumps.").content == {
        "man",
        "red",
        "car",
        "jump",
    }
    assert extract_features("It probably seems to be the first scene.").content == frozenset()
    assert extract_features("He doesn't. It’s not.").content == frozenset()
    assert extract_features("").content == frozenset()


def test_scripts_without_blanks_are_pairs_of_characters() -> None:
    assert extract_features("a 犬が走る b").words == ("a", "犬が", "が走", "走る", "b")
    assert extract_features("犬").words == ("犬",)


def test_shingles_and_their_similarity() -> None:
    def compare_texts(a: str, b: str) -> float:
        return wording.jaccard(
            wording.make_shingles(extract_features(a).words), wording.make_shingles(extract_features(b).words)
        )

    sentence = "the dog runs over the grass"
    assert len(wording.make_shingles(extract_features(sentence).words)) == 4
    assert compare_texts(sentence, "The dog runs over the grass!") == 1.0
    assert compare_texts(sentence, "a cat sleeps on the sofa") == 0.0
    assert compare_texts("Yes.", "yes") == 1.0
    assert compare_texts("", "") == 0.0
    assert 0 < compare_texts(sentence, "the dog runs over the road") < 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("at 0:45", [45]),
        ("at 1:02:03.5", [3723.5]),
        ("12 seconds in", [12]),
        ("12.5 s", [12.5]),
        ("12s in", [12]),
        ("after two minutes", [120]),
        ("in a five-second clip", [5]),
        ("from 3 to 7 seconds", [3, 7]),
        ("between 3 and 7 s", [3, 7]),
        ("3–7.5 seconds", [3, 7.5]),
        ("at second 12", [12]),
        ("in minute 2", [120]),
        ("1 minute and 20 seconds", [80]),
        ("an hour, no: 2 hours", [7200]),
        ("in the 1990s and the 80s", []),
        ("the score is 3:2 in a 16:9 picture", []),
        ("two men and 12 dogs", []),
        ("1:2:3:4", []),
        ("C3s", []),
        ("", []),
    ],
)
def test_times_are_extracted_in_seconds(text: str, seconds: list[float]) -> None:
    assert [number for number, _ in extract_features(text).times] == seconds
    for _, words in extract_features(text).times:
        assert words in text.lower()


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("two men and 12 dogs", {2, 12}),
        ("12.40 in total", {12.4}),
        ("one of them", set()),
        ("at 3 seconds there are 4", {4}),
        ("the 2nd of x3, C4", set()),
        ("twenty people", {20}),
        ("tense oxen", set()),
    ],
)
def test_numbers_are_extracted_from_digits_and_words(text: str, values: set[float]) -> None:
    assert extract_features(text).numbers == values


@pytest.mark.parametrize(
    ("text", "non_latin"),
    [("", False), ("12 !", False), ("A dog", False), ("naïve café", False), ("犬が走る", True), ("Собака", True)],
)
def test_text_that_is_not_in_latin_letters_is_recognised(text: str, non_latin: bool) -> None:
    assert wording.is_non_latin(text) is non_latin


@given(st.text(max_size=60))
def test_features_are_extracted_from_any_text(text: str) -> None:
    features = extract_features(text)
    assert len(wording.make_shingles(features.words)) <= max(len(features.words) - 2, 1)
    assert all(number >= 0 for number, _ in features.times)
    assert extract_features(text + " ").words == features.words


@given(st.lists(st.sampled_from(["3", "dogs", "0:45", "seconds", "to", "two", "and", "12.5", "s", "in"]), max_size=12))
def test_every_digit_is_in_one_number_or_time(tokens: list[str]) -> None:
    features = extract_features(" ".join(tokens))
    written = sum(bool(re.search(r"\d", token)) or token == "two" for token in tokens)
    assert len(features.times) + len(features.numbers) <= written
