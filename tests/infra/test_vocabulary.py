import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import vocabulary
from infra.errors import ConfigError


def spaced_by_hand(text: str, case: str) -> str:
    """The rule once more, letter by letter."""
    out = " "
    for letter in text:
        if letter in ",.;:?!`":
            out += f" {letter} "
        else:
            out += " " if letter.isspace() else letter
    while "  " in out:
        out = out.replace("  ", " ")
    out = f" {out.strip(' ')} "
    return out.lower() if case == "lower" else out


@given(st.text(), st.sampled_from(["lower", "keep"]))
def test_padding_of_words_equals_the_rule_written_by_hand(text, case):
    assert vocabulary.pad_words(text, case) == (spaced_by_hand(text, case))


@given(st.lists(st.one_of(st.none(), st.text(alphabet="aΣσ .,\n\u2003É"))), st.sampled_from(["lower", "keep"]))
def test_a_text_has_the_same_words_alone_and_among_others(texts, case):
    together = vocabulary.split_texts(texts, case)
    alone = [word for text in texts for word in [*vocabulary.split_words(text or "", case), vocabulary.BREAK]]
    assert together == alone


def test_words():
    text = "A \u00a0dog,  the U.S. flag\u3000and `code`; who?Me!\x85"
    expected = ["A", "dog", ",", "the", "U", ".", "S", ".", "flag", "and", "`", "code", "`", ";", "who", "?", "Me", "!"]
    assert vocabulary.split_words(text, "keep") == expected
    assert vocabulary.split_words(text, "lower") == [word.lower() for word in expected]


def test_signs_that_are_not_separated_stay_with_their_word():
    assert vocabulary.split_words('the "dog" (brown) don\'t re-run', "keep") == [
        "the",
        '"dog"',
        "(brown)",
        "don't",
        "re-run",
    ]


def test_a_metaclip_list_loads(tmp_path):
    entries = ["dog", "New York", "U.S.", "0", "99", "dog", "fotografía", "日本"]
    path = tmp_path / "metadata.json"
    content = json.dumps(entries).encode()
    path.write_bytes(content)
    loaded = vocabulary.load(path)
    assert list(loaded.entries) == entries
    assert loaded.sha256 == hashlib.sha256(content).hexdigest()


def test_a_list_may_be_any_uri() -> None:
    saved = vocabulary.save("memory://vocabulary/list.json", ["dog", "new york"])
    assert vocabulary.load("memory://vocabulary/list.json") == saved


def test_saving_gives_back_the_same_and_the_same_bytes(tmp_path):
    entries = ["dog", 'a "b" \\ c', "日本", "line\u2028break"]
    first = vocabulary.save(tmp_path / "deep" / "a.json", entries)
    vocabulary.save(tmp_path / "b.json", entries)
    assert vocabulary.load(tmp_path / "deep" / "a.json") == first == vocabulary.load(tmp_path / "b.json")
    assert sorted(p.name for p in tmp_path.rglob("*.*")) == ["a.json", "b.json"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not JSON"),
        (b'["dog",\n"cat"', "not JSON"),
        (b'["d\xffg"]', "UTF-8"),
        (b'{"dog": 1}', "JSON object"),
        (b"null", "JSON null"),
        (b"[]", "is empty"),
        (b'["dog", 3]', "entry 1 is a JSON number"),
        (b'["dog", true]', "entry 1 is a JSON boolean"),
        (b'["dog", ["cat"]]', "entry 1 is a JSON list"),
        (b'["dog", "cat", " \\t"]', "entry 2 is blank"),
        (b'["", "cat"]', "entry 0 is blank"),
        (b'["\\ud83d"]', "surrogate"),
        (b"[" * 100_000, "nested"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, content, says):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        vocabulary.load(path)
    assert says in caught.value.what
    assert caught.value.where.startswith(str(path))


def test_the_line_of_broken_json_is_named(tmp_path):
    path = tmp_path / "bad.json"
    path.write_bytes(b'["dog",\n"cat",\n]')
    with pytest.raises(ConfigError) as caught:
        vocabulary.load(path)
    assert caught.value.where in (f"{path}:2", f"{path}:3")
    assert "JSON list" in caught.value.hint


def test_a_missing_file_and_a_folder_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="no such vocabulary file"):
        vocabulary.load(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot read"):
        vocabulary.load(tmp_path)


def test_nothing_is_written_when_an_entry_is_bad(tmp_path):
    with pytest.raises(ConfigError, match="blank"):
        vocabulary.save(tmp_path / "v.json", ["dog", " "])
    assert list(tmp_path.iterdir()) == []


def test_a_text_file_holds_an_entry_a_line(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("dog\n\n  big dog \n", encoding="utf-8")
    assert vocabulary.load(file).entries == ("dog", "big dog")
