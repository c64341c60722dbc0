import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.quality import Quality
from annotators.quality import QualitySettings as Measured
from filters.quality import DocumentThresholds, QualityFilter, QualityThresholds
from filters.rules import Judgement

READS = QualityFilter.columns()


def judge(signals: pa.Table, settings: QualityThresholds) -> Judgement:
    return QualityFilter(settings).judge(signals)


CAPTION = dict.fromkeys((name.partition(".")[2] for name in READS), 0.0) | {"words": 8, "chars": 40}
DOCUMENT = CAPTION | {"words": 400, "chars": 2400, "mean_word_length": 5, "alpha_words": 0.95, "stop_words": 6}
DOCUMENT |= {"sentences": 20, "terminal_lines": 0.9}
NGRAMS = [*(f"top_{n}gram" for n in (2, 3, 4)), *(f"dup_{n}gram" for n in range(5, 11))]

CAPTION_FAULTS = [
    ("too_short", {"words": 2}, 3),
    ("too_short", {"chars": 5}, 6),
    ("too_long", {"words": 2_049}, 2_048),
    ("shouted", {"shouted_share": 0.9}, 0.5),
    ("symbols", {"symbol_ratio": 0.31}, 0.3),
    ("digits", {"digit_ratio": 0.41}, 0.4),
    ("repetitive", {"dup_2gram": 0.41}, 0.4),
    ("urls", {"urls": 1}, 0),
    ("bad_words", {"bad_words": 1}, 0),
]
DOCUMENT_FAULTS = [
    ("too_short", {"words": 49}, 50),
    ("too_long", {"words": 100_001}, 100_000),
    ("word_length", {"mean_word_length": 2.9}, 3),
    ("word_length", {"mean_word_length": 10.1}, 10),
    ("shouted", {"shouted_share": 0.6}, 0.5),
    ("symbols", {"hash_ratio": 0.11}, 0.1),
    ("symbols", {"ellipsis_ratio": 0.11}, 0.1),
    ("bullets", {"bullet_lines": 0.91}, 0.9),
    ("ellipses", {"ellipsis_lines": 0.31}, 0.3),
    ("not_words", {"alpha_words": 0.79}, 0.8),
    ("no_stop_words", {"stop_words": 1}, 2),
    ("too_few_sentences", {"sentences": 2}, 3),
    ("no_sentence_ends", {"terminal_lines": 0.4}, 0.5),
    ("braces", {"braces": 1}, 0),
    ("lorem_ipsum", {"lorem": 1}, 0),
    ("bad_words", {"bad_words": 1}, 0),
    ("duplicate_lines", {"dup_lines": 0.31}, 0.30),
    ("duplicate_lines", {"dup_line_chars": 0.21}, 0.20),
    ("duplicate_paragraphs", {"dup_paragraphs": 0.31}, 0.30),
    ("duplicate_paragraphs", {"dup_paragraph_chars": 0.21}, 0.20),
    *(("repetitive", {name: 0.21}, None) for name in NGRAMS),
]
STRICT = QualityThresholds(
    max_urls=0,
    max_bad_words=0,
    document=DocumentThresholds(min_sentences=3, min_terminal_lines=0.5, max_braces=0, max_bad_words=0),
)


def table(rows: list[dict[str, float | None]], modality: str | list[str]) -> pa.Table:
    modalities = [modality] * len(rows) if isinstance(modality, str) else modality
    columns = {name: pa.array([row[name.partition(".")[2]] for row in rows], pa.float64()) for name in READS}
    return pa.table({"modality": pa.array(modalities, pa.string()), **columns})


@pytest.mark.parametrize(("reason", "fault", "threshold"), CAPTION_FAULTS)
def test_every_caption_rule(reason: str, fault: dict[str, float], threshold: float) -> None:
    verdicts = judge(table([CAPTION, CAPTION | fault], "image"), STRICT)
    assert verdicts.reason.tolist() == ["", reason]
    assert verdicts.passed.tolist() == [True, False]
    assert (verdicts.numbers[1], verdicts.threshold[1]) == (next(iter(fault.values())), threshold)


@pytest.mark.parametrize(("reason", "fault", "threshold"), DOCUMENT_FAULTS)
def test_every_document_rule(reason: str, fault: dict[str, float], threshold: float | None) -> None:
    verdicts = judge(table([DOCUMENT, DOCUMENT | fault], "text"), STRICT)
    assert verdicts.reason.tolist() == ["", reason]
    assert verdicts.numbers[1] == next(iter(fault.values()))
    assert threshold is None or verdicts.threshold[1] == threshold


def test_no_reason_is_without_a_test() -> None:
    written = {threshold.reason for threshold in QualityFilter.thresholds}
    assert written == {reason for reason, _, _ in (*CAPTION_FAULTS, *DOCUMENT_FAULTS)}


def test_documents_are_not_judged_as_captions() -> None:
    assert judge(table([CAPTION, CAPTION], ["text", "video"]), QualityThresholds()).reason.tolist() == ["too_short", ""]


@pytest.mark.parametrize("name", [name.partition(".")[2] for name in READS])
@pytest.mark.parametrize("absent", [None, math.nan])
def test_anything_missing_fails_closed(name: str, absent: float | None) -> None:
    verdicts = judge(
        table([CAPTION | {name: absent}, DOCUMENT | {name: absent}], ["image", "text"]), QualityThresholds()
    )
    assert verdicts.passed.tolist() == [False, False]
    assert verdicts.reason.tolist() == ["missing", "missing"]


def test_rules_can_be_switched_off() -> None:
    loud = CAPTION | {"shouted_share": 1.0, "words": 1}
    assert judge(table([loud], "image"), QualityThresholds(max_shouted=None, min_words=None)).passed.tolist() == [True]


faults = st.sampled_from([{}, *(fault for _, fault, _ in CAPTION_FAULTS), {"words": None}])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(faults, st.sampled_from(["image", "text", "video"])), min_size=1, max_size=12), st.data())
def test_verdicts_do_not_depend_on_order_or_chunks(
    rows: list[tuple[dict[str, float], str]], data: st.DataObject
) -> None:
    signals = table([CAPTION | fault for fault, _ in rows], [modality for _, modality in rows])
    whole = judge(signals, STRICT)
    order = np.array(data.draw(st.permutations(range(len(rows)))))
    cut = data.draw(st.integers(0, len(rows)))
    shuffled = judge(signals.take(order), STRICT)
    chunks = [judge(chunk, STRICT) for chunk in (signals.slice(0, cut), signals.slice(cut))]
    for field in ("passed", "numbers", "threshold", "reason"):
        expected = getattr(whole, field)
        np.testing.assert_array_equal(getattr(shuffled, field), expected[order])
        np.testing.assert_array_equal(np.concatenate([getattr(chunk, field) for chunk in chunks]), expected)


def test_the_columns_read_are_columns_measured() -> None:
    assert {name.partition(".")[2] for name in READS} <= set(Quality.columns)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("A dog runs across the field", ""),
        ("A dog running", ""),
        ("NASA and ESA launch the JWST from Kourou", ""),
        ("FC BARCELONA meets REAL MADRID at CAMP NOU", ""),
        ("A DOG RUNS ACROSS THE FIELD", "shouted"),
        ("dog", "too_short"),
        ("buy now buy now buy now", "repetitive"),
        ("!!! *** $$$ sale now best ###", "symbols"),
        ("12345 67890 123456 photo", "digits"),
        ("犬が公園を走っている", ""),  # another filter's question
    ],
)
def test_from_text_to_verdict(text: str, reason: str) -> None:
    texts = pa.array([text])
    chunk = pa.table({"text": texts, "clean.text": texts})
    measured = Quality(Measured()).measure(chunk, [None])
    signals = pa.table({"modality": ["image"], **{f"quality.{name}": measured[name] for name in Quality.columns}})
    assert judge(signals, QualityThresholds()).reason.tolist() == [reason]
