"""Check whether a dialogue may be used for training: what each turn cites, whether that covers what it says, and
whether somebody who watched the video could say it.

Lexical rules, and so approximate: they prefer to reject a good turn over accepting a wrong one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from annotators.dialogues import evidence, wording
from annotators.dialogues.dialogue import Dialogue, Turn
from annotators.dialogues.evidence import EvidenceItem, EvidenceSheet
from annotators.dialogues.kinds import DialogueKind
from annotators.dialogues.wording import Shingles, TextFeatures
from infra.config import Strict

#: Incremented with every change that judges the same dialogue differently.
VERSION = 1

#: Every reason with its meaning, in the order of the checks; a detail may follow a reason after ": ".
REASONS: Mapping[str, str] = {
    "empty": "the question or the answer is empty; of a dialogue: it has no turns",
    "control": "control characters, control or media tokens, or HTML tags",
    "length": "the question or the answer is shorter or longer than the settings allow",
    "uncited": "no evidence is cited",
    "unknown_citation": "a cited id is not on the sheet",
    "leaked_id": "the question or the answer contains the id of an item",
    "prompt_words": "the words refer to captions, evidence or the prompt, which nobody who watches a video has",
    "refusal": "the answer begins by saying that it is not known, in words that LLaVA-Video filters or similar ones",
    "loops": "the answer repeats itself",
    "repeated": "an earlier turn asks or answers the same",
    "given_away": "the question already contains everything that the answer says",
    "time_outside": "a time beyond the end of the video",
    "span": "start_s and end_s are missing where the kind requires them, out of order, or outside the video",
    "span_uncovered": "start_s to end_s is outside the spans of the cited items",
    "other_script": "the cited items are in another script than the answer: words cannot show whether they cover it",
    "uncovered": "too few of the answer's words appear in the cited items",
    "uncovered_number": "a number or a time in the answer appears in none of the cited items",
    "uncovered_question": "too few of the question's words appear on the sheet or in the answer",
    "wrong_kind": "of a dialogue: it is of another kind",
    "too_many_turns": "of a dialogue: it has more turns than its kind allows",
    "language": "of a dialogue: it is in another language",
}

_LANGUAGE_CHARS = 240  # from which the language is identified
_REFUSAL_CHARS = 120  # in which a refusal appears; later, "it is unclear whether" is part of a description


def _compile_any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.I)


# Ids: in brackets, after "item", or bare in lower case, since "F1" and "C4" exist in the world. A match that a cited
# item contains too is allowed, here and below.
_MARKED_ID = _compile_any(
    r"[\[(]\s*(?:[cdotfms]\d{1,3}\b[\s,;&]*(?:and )?)+[\])]",
    r"\b(?:items?|ids?) [cdotfms]\d{1,3}\b",
)
_BARE_ID = re.compile(r"(?<![\w.'-])[cdotfms]\d{1,3}(?![\w'-]|\.\d)")

# Words about the sheet instead of the video. "The caption on the screen reads" and "a note on the table" pass.
_SOURCE = r"(?:captions?|descriptions?|transcripts?|transcriptions?|evidence|notes?|metadata|annotations?|ocr)"
_MATTER = r"(?:text|information|details|facts|data|items?|context|input|content)"
_PROMPT = _compile_any(
    r"\b(?:according to|based on|judging (?:by|from)|from|per|in|as (?:\w+ ){1,2}(?:in|by)) "
    r"(?:the|this|these|that|its) "
    rf"(?:(?:given|provided|available|above|video'?s?) )?{_SOURCE}\b(?! (?:on|of) )",
    rf"\b(?:given|provided|above|available|supplied) (?:{_SOURCE}|{_MATTER})\b",
    rf"(?<!screen )(?<!picture )\b{_SOURCE} (?:says?|states?|mentions?|describes?|indicates?|notes?|suggests?|reads?|"
    r"tells?|does|do|is|are|shows?|provided?|given)\b",
    r"\b(?:evidence (?:sheet|items?|block)|items? of evidence|cited items?|item ids?|dense captions?|shot list)\b",
    r"\b(?:the|this|any|some|no|enough) evidence\b|\bevidence[:\]]",
    r"\b(?:json|system prompt|user prompt|as (?:an ai|a language model|an assistant)|language model|training data)\b",
    r"\bi (?:cannot|can't|can not|am unable to|was unable to|did not|didn't) (?:see|watch|view|access)\b",
)
# Each of the patterns above contains one of these words; a turn without them needs no search.
_PROMPT_WORDS_TEXT = """
    caption captions description descriptions transcript transcripts transcription transcriptions evidence note
    notes metadata annotation annotations ocr given provided above available supplied item items id ids shot json
    prompt ai assistant language training unable can't cannot can did didn't"""
_PROMPT_WORDS = frozenset(_PROMPT_WORDS_TEXT.split())

# LLaVA-Video (arXiv 2410.02713) drops answers that begin with "does not specify, mention, specifically, depict, show".
_MEDIUM = r"(?:video|clip|footage|film|scene|picture|image|frames?|speaker|text|shot)"
_UNSTATED = (
    r"(?:specif(?:y|ically)|mention|depict|show|provide|indicate|state|reveal|contain|include|give|say|tell|clarify|"
    r"disclose|describe|explain|offer)"
)
_REFUSAL = _compile_any(
    rf"^\W*(?:(?:the|this|that) (?:\w+ )?{_MEDIUM} |it )?(?:do|does|did)(?: not|n't) {_UNSTATED}\b",
    r"^\W*(?:(?:i am|i'm) )?(?:sorry|afraid)\b",
    r"\bi (?:do not|don't|cannot|can't|could not|couldn't) (?:know|tell|say|determine)\b",
    r"\b(?:it|this)(?: is|'s) (?:unclear|unknown|impossible to|not (?:known|certain|possible to))\b",
    r"\b(?:it|this)(?: is|'s) not (?:clear|visible|shown)(?: (?:from|if|whether|what|who|why|how|where|when|which)\b"
    r"|\W*$)",
    r"(?: is| are| was| were|'s) not (?:(?:explicit|specific|clear)ly )?"
    r"(?:specified|mentioned|stated|indicated|disclosed)\b",
    r"\bthere (?:is|are) (?:no|not enough|insufficient) (?:information|mention|indication|details?|evidence)\b",
    r"\bcannot be (?:determined|known|told|inferred)\b",
    r"^\W*(?:unknown|none|unclear|not (?:specified|mentioned|known|clear|applicable)|n/a|no answer)\W*$",
)
_DENIALS_TEXT = """
    not don't doesn't didn't cannot can't couldn't sorry afraid unclear unknown impossible no insufficient none n"""
_DENIALS = frozenset(_DENIALS_TEXT.split())
_YES = re.compile(r"\W*yes\b", re.I)
_CHOICE = re.compile(r"\bor\b", re.I)

#: Identifies the language of a text, as a label of fastText's lid.176.
LanguageIdentifier = Callable[[str], str]


class CheckSettings(Strict):
    """question_chars, answer_chars: minimum and maximum characters.
    coverage: minimum share (0 to 1) of an answer's words (stems, without function words) that the cited items contain;
        reasoning: the same for dialogues that draw conclusions, which need words of their own.
    question_coverage: minimum share of a question's words that appear anywhere on the sheet or in the answer; applies
        from three words on, and not to dialogues that draw conclusions.
    numbers: whether every number and time in an answer must appear in the cited items.
    slack_s: tolerance of times, in seconds.
    repeated: Jaccard similarity of word triples from which two questions or two answers are the same.
    language: of dialogues, as a label of fastText's lid.176; None: any.
    All ours. LLaVA-Video removes duplicates by a sentence encoder and refusals by their beginnings; nobody has
    published limits for coverage.
    """

    question_chars: tuple[int, int] = (5, 400)
    answer_chars: tuple[int, int] = (1, 4000)
    coverage: float = Field(default=0.5, ge=0, le=1)
    reasoning: float = Field(default=0.3, ge=0, le=1)
    question_coverage: float = Field(default=0.3, ge=0, le=1)
    numbers: bool = True
    slack_s: float = Field(default=1.0, ge=0)
    repeated: float = Field(default=0.7, gt=0, le=1)
    language: str | None = "en"

    @model_validator(mode="after")
    def _check_order(self) -> CheckSettings:
        for minimum, maximum in (self.question_chars, self.answer_chars):
            if not 0 < minimum <= maximum:
                raise ValueError(f"lengths must be positive and in order, got {minimum} and {maximum}")
        return self


@dataclass(frozen=True)
class DialogueFindings:
    """turns: per turn a reason of REASONS, with or without a detail, or None if it passes. whole: the reason against
    the whole dialogue, or None."""

    turns: tuple[str | None, ...]
    whole: str | None

    @property
    def passed(self) -> bool:
        return self.whole is None and all(reason is None for reason in self.turns)


def identify_language(text: str) -> str:
    """Return the most likely language of a text, as a label of lid.176; "" for an empty text."""
    from annotators import language

    labels, _ = language._model(None).predict(text[:_LANGUAGE_CHARS].lower().replace("\n", " "), k=1)
    return str(labels[0]).removeprefix("__label__") if labels else ""


def check_dialogue(
    dialogue: Dialogue,
    sheet: EvidenceSheet,
    kind: DialogueKind,
    settings: CheckSettings,
    identify: LanguageIdentifier = identify_language,
) -> DialogueFindings:
    """Return the first reason against each turn, and against the whole dialogue. `identify` is called once, for the
    beginning of the dialogue: single questions are too short to identify a language."""
    earlier: list[ShinglePair] = []
    reasons = [_check_turn(turn, sheet, kind, settings, earlier) for turn in dialogue.turns]
    return DialogueFindings(tuple(reasons), _check_whole(dialogue, kind, settings, identify))


def _check_whole(
    dialogue: Dialogue, kind: DialogueKind, settings: CheckSettings, identify: LanguageIdentifier
) -> str | None:
    if not dialogue.turns:
        return "empty"
    if dialogue.kind != kind.name:
        return f"wrong_kind: {dialogue.kind}"
    if len(dialogue.turns) > kind.most:
        return f"too_many_turns: {len(dialogue.turns)}"
    if settings.language is not None:
        text = " ".join(f"{turn.question} {turn.answer}" for turn in dialogue.turns)
        label = identify(text[:_LANGUAGE_CHARS])
        if label != settings.language:
            return f"language: {label or 'none'}"
    return None


#: Shingles of a question and of its answer.
ShinglePair = tuple[Shingles, Shingles]


def _check_turn(
    turn: Turn, sheet: EvidenceSheet, kind: DialogueKind, settings: CheckSettings, earlier: list[ShinglePair]
) -> str | None:
    """The first reason against a turn. `earlier`: shingles of the turns before it; those of this turn are appended."""
    question, answer = (
        wording.extract_features(text.strip().replace("’", "'")) for text in (turn.question, turn.answer)
    )
    if not question.text or not answer.text:
        return "empty"
    if evidence.has_markup(question.text) or evidence.has_markup(answer.text):
        return "control"
    for text, (minimum, maximum) in ((turn.question, settings.question_chars), (turn.answer, settings.answer_chars)):
        if not minimum <= len(text) <= maximum:
            return f"length: {len(text)} characters"
    if not turn.evidence:
        return "uncited"
    cited = [sheet.by_id[name] for name in turn.evidence if name in sheet.by_id]
    if len(cited) < len(turn.evidence):
        return "unknown_citation"
    shingles = wording.make_shingles(question.words), wording.make_shingles(answer.words)
    reason = _check_speech(question, answer, sheet, cited) or _check_repetition(answer, shingles, earlier, settings)
    earlier.append(shingles)
    return (
        reason
        or _check_given_away(question, answer)
        or _check_times(question, answer, sheet, cited, settings.slack_s)
        or _check_span(turn, sheet, kind, cited, settings.slack_s)
        or (_check_numbers(answer, cited, settings.slack_s) if settings.numbers else None)
        or _check_coverage(question, answer, sheet, kind, cited, settings)
    )


def _check_speech(
    question: TextFeatures, answer: TextFeatures, sheet: EvidenceSheet, cited: Sequence[EvidenceItem]
) -> str | None:
    """Ids, words about the prompt, refusals."""
    words = {*question.words, *answer.words}
    for text in (question.text, answer.text):
        suspect = "(" in text or "[" in text or not _PROMPT_WORDS.isdisjoint(words)
        if suspect and any(not _is_cited(match[0], cited) for match in _MARKED_ID.finditer(text)):
            return "leaked_id"
        if not words.isdisjoint(sheet.by_id):
            ids = {match[0] for match in _BARE_ID.finditer(text)} & sheet.by_id.keys()
            if any(not _is_cited(name, cited) for name in ids):
                return "leaked_id"
        if not _PROMPT_WORDS.isdisjoint(words):
            for match in _PROMPT.finditer(text):
                if not _is_cited(match[0], cited):
                    return f"prompt_words: {match[0].lower()}"
    return "refusal" if not _DENIALS.isdisjoint(words) and _REFUSAL.search(answer.text[:_REFUSAL_CHARS]) else None


def _is_cited(words: str, cited: Iterable[EvidenceItem]) -> bool:
    words = words.casefold()
    return any(words in item.text.casefold() for item in cited)


def _check_repetition(
    answer: TextFeatures, shingles: ShinglePair, earlier: Sequence[ShinglePair], settings: CheckSettings
) -> str | None:
    if len(answer.words) >= 20 and len(shingles[1]) < 0.5 * (len(answer.words) - 2):
        return "loops"
    for question_before, answer_before in earlier:
        if wording.jaccard(shingles[0], question_before) >= settings.repeated:
            return "repeated: question"
        # "Yes." and "Two." may be repeated.
        if len(answer.words) >= 5 and wording.jaccard(shingles[1], answer_before) >= settings.repeated:
            return "repeated: answer"
    return None


def _check_given_away(question: TextFeatures, answer: TextFeatures) -> str | None:
    if not answer.content or not answer.content <= question.content or _CHOICE.search(question.text):
        return None
    return None if answer.numbers - question.numbers or answer.times or _YES.match(answer.text) else "given_away"


def _check_times(
    question: TextFeatures, answer: TextFeatures, sheet: EvidenceSheet, cited: Sequence[EvidenceItem], slack_s: float
) -> str | None:
    if sheet.seconds is not None:
        for seconds, words in (*question.times, *answer.times):
            if seconds > sheet.seconds + slack_s and not _is_cited(words, cited):
                return f"time_outside: {words}"
    return None


def _check_span(
    turn: Turn, sheet: EvidenceSheet, kind: DialogueKind, cited: Sequence[EvidenceItem], slack_s: float
) -> str | None:
    required = "start_s" in kind.turn_properties
    if not required and turn.start_s is None and turn.end_s is None:
        return None
    start, end = turn.start_s, turn.end_s
    last = math.inf if sheet.seconds is None else sheet.seconds
    if start is None or end is None or not 0 <= start <= end or not end <= last + slack_s:
        return "span"
    spans = _list_spans(cited)
    if not spans:
        return "span_uncovered: nothing cited has a time"
    inside = min(spans)[0] - slack_s <= start and end <= max(end for _, end in spans) + slack_s
    return None if inside else "span_uncovered"


def _check_coverage(
    question: TextFeatures,
    answer: TextFeatures,
    sheet: EvidenceSheet,
    kind: DialogueKind,
    cited: Sequence[EvidenceItem],
    settings: CheckSettings,
) -> str | None:
    words = answer.content
    if not words or _YES.match(answer.text):
        words |= question.content  # "Yes." asserts the question
    if not words:
        return None if answer.numbers or answer.times else "uncovered: no words to judge by"
    uncovered = words.difference(*(item.features.content for item in cited))
    minimum = settings.reasoning if kind.name == "reasoning" else settings.coverage
    if len(words) - len(uncovered) < minimum * len(words):
        if wording.is_non_latin(" ".join(item.text for item in cited)) != wording.is_non_latin(answer.text):
            return "other_script"
        return f"uncovered: {len(uncovered)} of {len(words)} words"
    # The list of function words is English only.
    if kind.name == "reasoning" or len(question.content) < 3 or wording.is_non_latin(question.text):
        return None
    unknown = question.content - sheet.content - words
    if len(question.content) - len(unknown) < settings.question_coverage * len(question.content):
        return f"uncovered_question: {len(unknown)} of {len(question.content)} words"
    return None


def _check_numbers(answer: TextFeatures, cited: Sequence[EvidenceItem], slack_s: float) -> str | None:
    """The first number of an answer that no cited item supports: neither by the same number (decimals may be omitted)
    nor, for a time, by the span of an item, its length, or the distance between two ends of spans."""
    if not answer.times and not answer.numbers:
        return None
    supported = {1.0} if any("one" in item.features.words for item in cited) else set()
    for item in cited:
        # "12.4 seconds" supports 12 and 12.4, in seconds or without a unit.
        supported |= item.features.numbers | {seconds for seconds, _ in item.features.times}
        supported |= {seconds / 60 for seconds, _ in item.features.times if seconds % 60 == 0}
    supported |= {float(math.floor(number)) for number in supported} | {float(round(number)) for number in supported}
    for number in sorted(answer.numbers - supported):
        return f"uncovered_number: {number:g}"
    spans = _list_spans(cited)
    ends = sorted({end for span in spans for end in span})[:64]
    for seconds, words in answer.times:
        near = seconds in supported or any(start - slack_s <= seconds <= end + slack_s for start, end in spans)
        if not near and not any(abs(seconds - (b - a)) <= slack_s for a in ends for b in ends if b > a):
            return f"uncovered_number: {words}"
    return None


def _list_spans(cited: Iterable[EvidenceItem]) -> list[tuple[float, float]]:
    spans = [(item.start_s, item.end_s) for item in cited]
    return [(start, start if end is None else end) for start, end in spans if start is not None]
