import time
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from annotators.clean import Clean, CleanSettings, caption, document, sentence_case


def measure(texts: list[str | None], modality: str = "image", **options: object) -> list[str]:
    chunk = pa.table(
        {
            "key": [str(i) for i in range(len(texts))],
            "modality": [modality] * len(texts),
            "text": pa.array(texts, pa.string()),
        }
    )
    answer = Clean(CleanSettings(**options)).measure(chunk, [None] * len(texts))  # type: ignore[arg-type]
    assert answer.schema.names == ["text", "error"]
    assert answer["error"].null_count == len(texts)
    return answer["text"].to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  a   dog \n\t runs ", "a dog runs"),
        ("caf\u00c3\u00a9 in Paris", "café in Paris"),  # UTF-8 read as Latin-1
        ("cafe\u0301", "café"),
        ("a\x00 b\x07c\u200bd\ufeff", "a bcd"),
        ("a\u202edog\u202c", "adog"),
        ("soft\u00adhyphen", "softhyphen"),
        ("fish &amp;amp; chips &#233;", "fish & chips é"),
        ("<p>A <b>big</b>ger dog<br/>runs</p>", "A bigger dog runs"),
        ("<script>alert('x')</script>a dog<!-- no -->", "a dog"),
        ("5 < 6 and <unk> &c; AT&T; a<b", "5 < 6 and <unk> &c; AT&T; a<b"),
        ("İ<STYLE>b{}</Style >a<style>b", "İ a<style>b"),
        ("&lt;b&gt;bold&lt;/b&gt;", "bold"),
        ("\ud83d\ude00 hi \ud800!", "😀 hi \ufffd!"),  # a surrogate pair, and one that stands alone
        ("family 👨\u200d👩\u200d👧 x\u200dy", "family 👨\u200d👩\u200d👧 xy"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("", ""),
        ("\u200b \x00", ""),
    ],
)
def test_caption_cleaning_by_example(raw: str, clean: str) -> None:
    assert caption(raw) == clean


def test_null_and_empty_are_empty_and_no_error() -> None:
    assert measure([None, "", "  "]) == ["", "", ""]
    assert measure([None, "", " \n "], "text") == ["", "", ""]


def test_documents_keep_lines_and_markup() -> None:
    raw = "Title  here \r\n\r\n\r\n\r\n    if a  <b:\n\t<b>x</b> &amp;\x00\n"
    assert measure([raw], "text") == ["Title here\n\n    if a <b:\n    <b>x</b> &amp;"]
    assert measure(["SHOUTED DOCUMENTS ARE KEPT AS THEY ARE"], "text") == ["SHOUTED DOCUMENTS ARE KEPT AS THEY ARE"]


def test_shouted_captions_become_sentences_and_names_stay() -> None:
    shouted = "TWO MEN DRIVE A BMW X5. THE DOG SITS! AND I?"
    assert measure([shouted], "video") == ["Two men drive a BMW X5. The dog sits! And I?"]
    assert measure(["NASA and ESA launch the JWST"]) == ["NASA and ESA launch the JWST"]
    assert measure([shouted], repair_shouting=1.0) != [shouted]


def test_sentence_case_knows_quotes() -> None:
    assert sentence_case("“HELLO” SHE SAID. 'OH.' YES") == "“Hello” she said. 'Oh.' Yes"


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=80) | st.text(alphabet="ab <>&;/p#1\u0301\u200b\u200d👨\n\tÃ©AT", max_size=60))
@example("&amp;lt;b>&#60;i>")
@example("\u200d\u200dক\u200d\u200dক")
def test_cleaning_leaves_no_dirt_and_is_the_same_alone(raw: str) -> None:
    for modality in ("image", "text"):
        if any("\ud800" <= c <= "\udfff" for c in raw):
            continue
        clean, again = measure([raw, "neighbour"], modality)[0], measure([raw], modality)[0]
        assert clean == again
        assert unicodedata.is_normalized("NFC", clean)
        assert not any(unicodedata.category(c) == "Cc" and c != "\n" for c in clean)
        assert "\u200b" not in clean
        assert clean == clean.rstrip()
        assert modality == "text" or "\n" not in clean
        clean.encode()


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab <>&;/pé\u0301\u200b\u200d\n\tTHE.", max_size=50))
@example("<a\u200b>")
@example("&l\u200bt;b>")
def test_cleaning_a_cleaned_caption_changes_nothing(raw: str) -> None:
    once = measure([raw])[0]
    assert measure([once])[0] == once


def test_absurd_captions_are_bounded() -> None:
    hostile = ["<b" * 50_000, "&amp;" * 20_000, "a" * 100_000, "Ã©" * 50_000, "<!--" * 25_000, "<script>" * 12_000]
    start = time.process_time()
    captions = measure([*hostile])
    assert all(len(caption) <= 10_000 for caption in captions)
    assert time.process_time() - start < 5.0
    assert len(document("x" * 2_000_000)) == 1_000_000


def test_fingerprint_inputs_name_every_parameter() -> None:
    assert Clean(CleanSettings()).fingerprint_inputs() == {
        "caption_chars": 10_000,
        "document_chars": 1_000_000,
        "repair_shouting": 0.8,
    }
