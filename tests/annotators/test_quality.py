from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.quality import Quality, QualitySettings
from infra import storage
from infra.errors import ConfigError


def measure(texts: list[str | None], raw: list[str | None] | None = None, **options: str) -> list[dict[str, float]]:
    names = [str(i) for i in range(len(texts))]
    columns = {
        "key": pa.array(names),
        "modality": pa.array(["text"] * len(texts)),
        "text": pa.array(raw if raw is not None else texts, pa.string()),
        "clean.text": pa.array(texts, pa.string()),
    }
    answer = Quality(QualitySettings(**options)).measure(pa.table(columns), [None] * len(texts))
    assert answer.schema == Quality.schema()
    assert answer["error"].null_count == len(texts)
    return answer.to_pylist()  # type: ignore[no-any-return]


def signals_of(text: str, raw: str | None = None) -> dict[str, float]:
    return measure([text], [text if raw is None else raw])[0]


def test_a_plain_caption() -> None:
    row = signals_of("A dog runs, at 9 o'clock!")
    assert (row["words"], row["chars"], row["letters"]) == (6, 25, 16)
    assert row["upper_share"] == pytest.approx(1 / 16)
    assert row["symbol_ratio"] == pytest.approx(3 / 20)
    assert row["digit_ratio"] == pytest.approx(1 / 20)
    assert row["mean_word_length"] == pytest.approx(20 / 6, abs=1e-6)
    assert row["alpha_words"] == pytest.approx(5 / 6, abs=1e-6)
    assert (row["sentences"], row["terminal_lines"], row["urls"], row["bad_words"]) == (1, 1.0, 0, 0)


def test_capitals_are_counted_in_the_text_that_is_trained_on() -> None:
    row = signals_of("A DOG RUNS ACROSS THE FIELD", "a dog runs across the field")
    assert (row["upper_share"], row["shouted_share"]) == (1.0, 1.0)
    row = signals_of("A dog runs across the field", "A DOG RUNS ACROSS THE FIELD")
    assert row["shouted_share"] == 0.0
    row = signals_of("NASA and ESA launch the JWST")
    assert row["upper_share"] > 0.4
    assert row["shouted_share"] == 0.0


def test_scripts_without_blanks_have_words() -> None:
    assert signals_of("犬が公園を走っている")["words"] == 5
    assert signals_of("สุนัขวิ่ง")["words"] >= 3
    assert signals_of("a 犬")["words"] == 2


def test_lines_and_documents() -> None:
    text = "• one\n- two\nthree...\n\nThe end of it, with that. https://x.y {\n\nthree...\nlorem ipsum"
    row = signals_of(text)
    assert row["bullet_lines"] == pytest.approx(2 / 6, abs=1e-6)
    assert row["ellipsis_lines"] == pytest.approx(2 / 6, abs=1e-6)
    assert row["terminal_lines"] == pytest.approx(2 / 6, abs=1e-6)
    assert row["dup_lines"] == pytest.approx(1 / 6, abs=1e-6)
    assert row["stop_words"] == 4  # the, of, with, that
    assert (row["urls"], row["braces"], row["lorem"]) == (1, 1, 1)
    assert row["ellipsis_ratio"] == pytest.approx(2 / row["words"], abs=1e-6)
    assert signals_of("# a # b")["hash_ratio"] == 1.0
    assert signals_of("p q\n\np q\n\np q")["dup_paragraphs"] == pytest.approx(2 / 3, abs=1e-6)


def test_stop_words_are_counted_once_each() -> None:
    assert signals_of("the the The the")["stop_words"] == 1


def test_empty_and_null_are_zeros() -> None:
    for row in measure(["", None, "   "]):
        assert {signal for name, signal in row.items() if name not in ("error", "chars")} == {0}


def test_a_list_of_bad_words_may_be_any_uri_and_must_exist() -> None:
    storage.write_bytes("memory://bad-words/list.txt", b"darn")
    assert measure(["Darn!"], bad_words="memory://bad-words/list.txt")[0]["bad_words"] == 1
    with pytest.raises(ConfigError, match="cannot read the list of bad words"):
        Quality(QualitySettings(bad_words="memory://bad-words/none.txt")).fingerprint_inputs()


def test_bad_words_are_whole_words_or_phrases(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("darn\nblue moon\nc++\n\n", "utf-8")
    rows = measure(["Darn!", "darning", "a blue moon, a bluemoon", "c++", "clean"], bad_words=str(path))
    assert [row["bad_words"] for row in rows] == [1, 0, 1, 1, 0]
    assert (
        Quality(QualitySettings(bad_words=str(path))).fingerprint_inputs()
        != Quality(QualitySettings()).fingerprint_inputs()
    )
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ConfigError):
        measure(["x"], bad_words=str(tmp_path / "empty.txt"))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(alphabet="aA bé\n.#9犬…", max_size=30), min_size=1, max_size=6))
def test_rows_do_not_depend_on_each_other_and_shares_are_between_0_and_1(texts: list[str]) -> None:
    rows = measure(list(texts))
    assert rows == [measure([text])[0] for text in texts]
    assert rows[::-1] == measure(texts[::-1])
    for row in rows:
        for name, column in Quality.columns.items():
            if column.type == pa.float64() and name not in ("mean_word_length", "hash_ratio", "ellipsis_ratio"):
                assert 0.0 <= row[name] <= 1.0, name
