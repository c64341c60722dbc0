"""Whether a dialogue may be trained on, as far as rules can tell: what each turn cites, whether that covers what it
says, and whether the words could be said by somebody who watched the video. Lexical and so rough; a turn that fails is
lost, a wrong one that passes is worse.
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
from annotators.dialogues.wording import TextFeatures
from infra.config import Strict

#: Raised whenever the same dialogue would be judged otherwise.
VERSION = 1

#: Every reason, in the order in which they are looked for; a reason may carry a detail behind ": ".
REASONS: Mapping[str, str] = {
    "empty": "the question or the answer is empty; of a dialogue: it has no turns",
    "control": "control characters, control or media tokens, or HTML tags",
    "length": "the question or the answer is shorter or longer than the settings allow",
    "uncited": "no evidence is cited",
    "unknown_citation": "what is cited is not on the sheet",
    "leaked_id": "an id of the evidence stands in the words",
    "prompt_words": "the words speak of captions, evidence or the prompt, which nobody who watches a video has",
    "refusal": "the answer begins with that it is not known, in words that LLaVA-Video filters and like ones",
    "loops": "the answer says the same over and over",
    "repeated": "an earlier turn asks or answers the same",
    "given_away": "the question already says everything that the answer says",
    "time_outside": "a time beyond the end of the video",
    "span": "start_s and end_s are missing where the kind has them, out of order, or outside the video",
    "span_uncovered": "start_s to end_s lies outside the spans of what is cited",
    "other_script": "what is cited is in another script than the answer: words cannot tell whether it is covered",
    "uncovered": "too few of the answer's words stand in what is cited",
    "uncovered_number": "a number or a time in the answer stands in nothing that is cited",
    "uncovered_question": "too few of the question's words stand on the sheet or in the answer",
    "wrong_kind": "of a dialogue: it is of another kind",
    "too_many_turns": "of a dialogue: it has more turns than its kind",
    "language": "of a dialogue: it is in another language",
}

_LANGUAGE_CHARS = 240  # what a language is told from
_BEGINNING = 120  # characters in which a refusal comes out; later "it is unclear whether" is part of a description


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.I)


# Ids: in brackets, after "item", or bare and small, since "F1" and "C4" are things of the world. A match is excused
# where what is cited holds the same words, and so are those below.
_LEAK = _any(
    r"[\[(]\s*(?:[cdotfms]\d{1,3}\b[\s,;&]*(?:and )?)+[\])]",
    r"\b(?:items?|ids?) [cdotfms]\d{1,3}\b",
)
_BARE = re.compile(r"(?<![\w.'-])[cdotfms]\d{1,3}(?![\w'-]|\.\d)")

# What is said of the sheet and not of the video. "The caption on the screen reads" and "a note on the table" pass.
_SOURCE = r"(?:captions?|descriptions?|transcripts?|transcriptions?|evidence|notes?|metadata|annotations?|ocr)"
_MATTER = r"(?:text|information|details|facts|data|items?|context|input|content)"
_PROMPT = _any(
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
# One of these words stands in all of the above; most turns need no closer look.
_HINTS_TEXT = """
    caption captions description descriptions transcript transcripts transcription transcriptions evidence note
    notes metadata annotation annotations ocr given provided above available supplied item items id ids shot json
    prompt ai assistant language training unable can't cannot can did didn't"""
_HINTS = frozenset(_HINTS_TEXT.split())

# LLaVA-Video (arXiv 2410.02713) drops answers that begin with "does not specify, mention, specifically, depict, show".
_MEDIUM = r"(?:video|clip|footage|film|scene|picture|image|frames?|speaker|text|shot)"
_NOT_TOLD = (
    r"(?:specif(?:y|ically)|mention|depict|show|provide|indicate|state|reveal|contain|include|give|say|tell|clarify|"
    r"disclose|describe|explain|offer)"
)
_REFUSAL = _any(
    rf"^\W*(?:(?:the|this|that) (?:\w+ )?{_MEDIUM} |it )?(?:do|does|did)(?: not|n't) {_NOT_TOLD}\b",
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

Language = Callable[[str], str]


class CheckSettings(Strict):
    """question_chars, answer_chars: least and most characters.
    coverage: least share (0 to 1) of an answer's words, by stem and without empty ones, that what it cites must hold;
        reasoning: the same for dialogues that draw conclusions, which need words of their own.
    question_coverage: least share of a question's words that stand anywhere on the sheet or in the answer, from three
        words on; not of dialogues that draw conclusions.
    numbers: whether every number and time in an answer must stand in what it cites.
    slack_s: seconds by which a time may be off.
    repeated: share of word triples in common (Jaccard) from which two questions or two answers are the same.
    language: of dialogues, as fastText's lid.176 calls it; None: any.
    All ours. LLaVA-Video removes duplicates by a sentence encoder and refusals by their beginnings; nobody published
    limits for coverage.
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
    def _ordered(self) -> CheckSettings:
        for least, most in (self.question_chars, self.answer_chars):
            if not 0 < least <= most:
                raise ValueError(f"lengths must be positive and in order, got {least} and {most}")
        return self


@dataclass(frozen=True)
class DialogueFindings:
    """turns: for each turn a reason of REASONS, with or without a detail, or None where it passes. whole: a reason
    against the dialogue as such, or None."""

    turns: tuple[str | None, ...]
    whole: str | None

    @property
    def passed(self) -> bool:
        return self.whole is None and all(reason is None for reason in self.turns)


def identify(text: str) -> str:
    """The likeliest language of a text, as lid.176 labels it; "" of nothing."""
    from annotators import language

    names, _ = language._model(None).predict(text[:_LANGUAGE_CHARS].lower().replace("\n", " "), k=1)
    return str(names[0]).removeprefix("__label__") if names else ""


def check_dialogue(
    dialogue: Dialogue, sheet: EvidenceSheet, kind: DialogueKind, settings: CheckSettings, language: Language = identify
) -> DialogueFindings:
    """The first reason against each turn, and against the whole. `language` tells the language of a text; it is asked
    once, about the dialogue's beginning, since single questions are too short to tell."""
    before: list[Pair] = []
    reasons = [_turn(turn, sheet, kind, settings, before) for turn in dialogue.turns]
    return DialogueFindings(tuple(reasons), _whole(dialogue, kind, settings, language))


def _whole(dialogue: Dialogue, kind: DialogueKind, settings: CheckSettings, language: Language) -> str | None:
    if not dialogue.turns:
        return "empty"
    if dialogue.kind != kind.name:
        return f"wrong_kind: {dialogue.kind}"
    if len(dialogue.turns) > kind.most:
        return f"too_many_turns: {len(dialogue.turns)}"
    if settings.language is not None:
        text = " ".join(f"{turn.question} {turn.answer}" for turn in dialogue.turns)
        label = language(text[:_LANGUAGE_CHARS])
        if label != settings.language:
            return f"language: {label or 'none'}"
    return None


Runs = frozenset[tuple[str, ...]]
Pair = tuple[Runs, Runs]


def _turn(
    turn: Turn, sheet: EvidenceSheet, kind: DialogueKind, settings: CheckSettings, before: list[Pair]
) -> str | None:
    asked, told = (wording.extract_features(text.strip().replace("’", "'")) for text in (turn.question, turn.answer))
    if not asked.text or not told.text:
        return "empty"
    if evidence.has_markup(asked.text) or evidence.has_markup(told.text):
        return "control"
    for text, (least, most) in ((turn.question, settings.question_chars), (turn.answer, settings.answer_chars)):
        if not least <= len(text) <= most:
            return f"length: {len(text)} characters"
    if not turn.evidence:
        return "uncited"
    cited = [sheet.by_id[name] for name in turn.evidence if name in sheet.by_id]
    if len(cited) < len(turn.evidence):
        return "unknown_citation"
    runs = wording.shingles(asked.words), wording.shingles(told.words)
    reason = _speech(asked, told, sheet, cited) or _repetition(told, runs, before, settings)
    before.append(runs)
    return (
        reason
        or _given_away(asked, told)
        or _outside(asked, told, sheet, cited, settings.slack_s)
        or _span(turn, sheet, kind, cited, settings.slack_s)
        or (_strange_number(told, cited, settings.slack_s) if settings.numbers else None)
        or _covered(asked, told, sheet, kind, cited, settings)
    )


def _speech(asked: TextFeatures, told: TextFeatures, sheet: EvidenceSheet, cited: Sequence[EvidenceItem]) -> str | None:
    """Ids, words about the prompt, refusals."""
    used = {*asked.words, *told.words}
    for text in (asked.text, told.text):
        likely = "(" in text or "[" in text or not _HINTS.isdisjoint(used)
        if likely and any(not _stands_in(match[0], cited) for match in _LEAK.finditer(text)):
            return "leaked_id"
        if not used.isdisjoint(sheet.by_id):
            found = {match[0] for match in _BARE.finditer(text)} & sheet.by_id.keys()
            if any(not _stands_in(name, cited) for name in found):
                return "leaked_id"
        if not _HINTS.isdisjoint(used):
            for match in _PROMPT.finditer(text):
                if not _stands_in(match[0], cited):
                    return f"prompt_words: {match[0].lower()}"
    return "refusal" if not _DENIALS.isdisjoint(used) and _REFUSAL.search(told.text[:_BEGINNING]) else None


def _stands_in(words: str, cited: Iterable[EvidenceItem]) -> bool:
    words = words.casefold()
    return any(words in item.text.casefold() for item in cited)


def _repetition(told: TextFeatures, runs: Pair, before: Sequence[Pair], settings: CheckSettings) -> str | None:
    if len(told.words) >= 20 and len(runs[1]) < 0.5 * (len(told.words) - 2):
        return "loops"
    for asked, answered in before:
        if wording.jaccard(runs[0], asked) >= settings.repeated:
            return "repeated: question"
        # "Yes." and "Two." may be said twice.
        if len(told.words) >= 5 and wording.jaccard(runs[1], answered) >= settings.repeated:
            return "repeated: answer"
    return None


def _given_away(asked: TextFeatures, told: TextFeatures) -> str | None:
    if not told.content or not told.content <= asked.content or _CHOICE.search(asked.text):
        return None
    return None if told.numbers - asked.numbers or told.times or _YES.match(told.text) else "given_away"


def _outside(
    asked: TextFeatures, told: TextFeatures, sheet: EvidenceSheet, cited: Sequence[EvidenceItem], slack: float
) -> str | None:
    if sheet.seconds is not None:
        for value, words in (*asked.times, *told.times):
            if value > sheet.seconds + slack and not _stands_in(words, cited):
                return f"time_outside: {words}"
    return None


def _span(
    turn: Turn, sheet: EvidenceSheet, kind: DialogueKind, cited: Sequence[EvidenceItem], slack: float
) -> str | None:
    wanted = "start_s" in kind.schema["properties"]["turns"]["items"]["properties"]
    if not wanted and turn.start_s is None and turn.end_s is None:
        return None
    start, end = turn.start_s, turn.end_s
    last = math.inf if sheet.seconds is None else sheet.seconds
    if start is None or end is None or not 0 <= start <= end or not end <= last + slack:
        return "span"
    spans = _spans(cited)
    if not spans:
        return "span_uncovered: nothing cited has a time"
    inside = min(spans)[0] - slack <= start and end <= max(end for _, end in spans) + slack
    return None if inside else "span_uncovered"


def _covered(
    asked: TextFeatures,
    told: TextFeatures,
    sheet: EvidenceSheet,
    kind: DialogueKind,
    cited: Sequence[EvidenceItem],
    settings: CheckSettings,
) -> str | None:
    words = told.content
    if not words or _YES.match(told.text):
        words |= asked.content  # "Yes." says what was asked
    if not words:
        return None if told.numbers or told.times else "uncovered: no words to judge by"
    strange = words.difference(*(item.features.content for item in cited))
    least = settings.reasoning if kind.name == "reasoning" else settings.coverage
    if len(words) - len(strange) < least * len(words):
        if wording.is_non_latin(" ".join(item.text for item in cited)) != wording.is_non_latin(told.text):
            return "other_script"
        return f"uncovered: {len(strange)} of {len(words)} words"
    # The words that say nothing are known of English only.
    if kind.name == "reasoning" or len(asked.content) < 3 or wording.is_non_latin(asked.text):
        return None
    unheard = asked.content - sheet.content - words
    if len(asked.content) - len(unheard) < settings.question_coverage * len(asked.content):
        return f"uncovered_question: {len(unheard)} of {len(asked.content)} words"
    return None


def _strange_number(told: TextFeatures, cited: Sequence[EvidenceItem], slack: float) -> str | None:
    """The first number of an answer for which nothing cited stands: neither the same number (decimals may be left out),
    nor, for a time, the span of an item, how long that is, or how far two ends are apart."""
    if not told.times and not told.numbers:
        return None
    known = {1.0} if any("one" in item.features.words for item in cited) else set()
    for item in cited:
        # "12.4 seconds" may be told as 12 or as 12.4, in seconds or without the word.
        known |= item.features.numbers | {value for value, _ in item.features.times}
        known |= {value / 60 for value, _ in item.features.times if value % 60 == 0}
    known |= {float(math.floor(value)) for value in known} | {float(round(value)) for value in known}
    for value in sorted(told.numbers - known):
        return f"uncovered_number: {value:g}"
    spans = _spans(cited)
    edges = sorted({edge for span in spans for edge in span})[:64]
    for value, words in told.times:
        near = value in known or any(start - slack <= value <= end + slack for start, end in spans)
        if not near and not any(abs(value - (b - a)) <= slack for a in edges for b in edges if b > a):
            return f"uncovered_number: {words}"
    return None


def _spans(cited: Iterable[EvidenceItem]) -> list[tuple[float, float]]:
    starts = [(item.start_s, item.end_s) for item in cited]
    return [(start, start if end is None else end) for start, end in starts if start is not None]
