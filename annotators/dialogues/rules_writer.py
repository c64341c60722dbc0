"""Write dialogues without a language model: templates filled with the texts of the items, word for word. Plain, but
honest: a dialogue says nothing that no item says, and contains only turns that pass the checks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from annotators.dialogues import checks
from annotators.dialogues.dialogue import Dialogue, Turn
from annotators.dialogues.evidence import EvidenceItem, EvidenceSheet, format_amount
from annotators.dialogues.kinds import IMAGE_TEXT, DialogueKind
from infra.hashing import draw_integers

#: Incremented with every change that gives another dialogue for the same sheet and key.
VERSION = 1

_MAX_TOPICS = 12  # candidates per dialogue
_CLAUSE_CHARS = 160  # maximum length of a text inside a question
_GAP_S = 1.0  # minimum difference of two durations that are compared, in seconds

_SENTENCE_END = re.compile(r"(?<=[.!?。！？…])\s+")
_SHOTS = re.compile(r"(?:of|has) (\d+)")
_CLOSED = tuple(".!?。！？…\"'”’»」")
# Words with a capital letter only at the beginning of a sentence.
_SMALL_WORDS = """
    a an the this that these those there here he she it they we you his her its their our your my some several many two
    three four five six one another all both each every no in on at by from with under over near behind beside after
    before while when as then next first finally people someone somebody children men women"""
_SMALL = frozenset(_SMALL_WORDS.split())


@dataclass(frozen=True)
class _Topic:
    """A topic: alternative questions and answers, all of them true. follows: whether it only makes sense right after
    the topic before it."""

    questions: Sequence[str]
    answers: Sequence[str]
    evidence: Sequence[EvidenceItem]
    start_s: float | None = None
    end_s: float | None = None
    follows: bool = False


def write(
    kind: DialogueKind, sheet: EvidenceSheet, seed: int, key: str, settings: checks.CheckSettings | None = None
) -> Dialogue:
    """Write a dialogue of this kind about the video `key`: at most `kind.most` turns, fewer than `kind.least` if little
    is known, none if there is nothing honest to say. Topics and wordings are drawn by (seed, key).

    Every turn passes `checks.check_dialogue` under `settings` (by default the defaults), except that the language is
    that of the captions.
    """
    limits = (settings or checks.CheckSettings()).model_copy(update={"language": None})
    properties = kind.turn_properties
    numbers = _draw_numbers(seed, key)
    topics = list(itertools.islice(_TOPICS[kind.name](sheet), _MAX_TOPICS))
    turns = []
    for topic in topics:
        question = topic.questions[next(numbers) % len(topic.questions)]
        answer = topic.answers[next(numbers) % len(topic.answers)]
        cited = tuple(item.id for item in topic.evidence[: properties["evidence"]["maxItems"]])
        span = (topic.start_s, topic.end_s) if "start_s" in properties else (None, None)
        turns.append(Turn(question, _fit(answer, properties["answer"]["maxLength"]), cited, *span))
    # Items may contain any text, so some turns fail; the others do not depend on them.
    reasons = checks.check_dialogue(Dialogue(kind.name, tuple(turns)), sheet, kind, limits).turns
    passed = [i for i, reason in enumerate(reasons) if reason is None]
    most = min(kind.most, len(passed))
    count = max(most - next(numbers) % 3, min(kind.least, most))
    # The first topic opens the dialogue; those of the others with the lowest numbers follow, in order.
    selected = sorted(passed[:1] + sorted(passed[1:], key=lambda _: next(numbers))[: max(count - 1, 0)])
    kept: list[int] = []
    for i in selected:
        if not topics[i].follows or (kept and kept[-1] == i - 1):
            kept.append(i)
    return Dialogue(kind.name, tuple(turns[i] for i in kept))


def _draw_numbers(seed: int, key: str) -> Iterator[int]:
    for i in itertools.count():
        yield from draw_integers(seed, [f"{key}/{16 * i + k}" for k in range(16)], "rules").tolist()


# Topics of the kinds, the most informative first.


def _captioning_topics(sheet: EvidenceSheet) -> Iterator[_Topic]:
    whole, segments = _find_caption(sheet), sheet.of_kinds("dense")
    if whole:
        yield _Topic(_DESCRIBE, (_to_sentence(whole.text),), (whole,))
    if segments:
        yield _Topic(
            (
                "Describe in detail what happens from the beginning to the end.",
                "Describe the video step by step.",
                "Give a detailed account of the whole video.",
                "Walk me through the video in the order of events.",
            ),
            (" ".join(_to_sentence(item.text) for item in segments),),
            segments,
        )


def _conversation_topics(sheet: EvidenceSheet) -> Iterator[_Topic]:
    whole, segments = _find_caption(sheet), sheet.of_kinds("dense")
    if whole:
        yield _Topic(
            (
                "What can be seen in this video?",
                "What is this video about?",
                "What is going on here?",
                "What does the video show?",
            ),
            (_to_sentence(whole.text), f"One can see this: {_to_clause(whole.text)}"),
            (whole,),
        )
    if segments:
        first = segments[0]
        yield _Topic(
            ("What is seen first?", "How does the video begin?", "What happens at the beginning?"),
            (_to_sentence(first.text), f"At first, this is what one sees: {_to_clause(first.text)}"),
            (first,),
        )
    for before, after in itertools.pairwise(segments[:4]):
        yield _Topic(
            ("And what happens after that?", "What comes next?", "How does it go on?", "And then?"),
            (_to_sentence(after.text), f"Next comes this: {_to_clause(after.text)}"),
            (after, before),
            follows=True,
        )
    if len(segments) > 4:
        yield _Topic(
            ("What is seen at the end?", "How does the video end?", "What is the last thing that happens?"),
            (_to_sentence(segments[-1].text), f"It ends like this: {_to_clause(segments[-1].text)}"),
            (segments[-1],),
        )
    for item in sheet.of_kinds("transcript")[:2]:
        yield _Topic(
            ("What is being said?", "What can be heard?", "Which words are spoken?"),
            (f"One hears: “{item.text}”", f"Somebody says: “{item.text}”"),
            (item,),
        )
    for item in sheet.of_kinds("ocr")[:1]:
        yield _reading_topic(item)
    yield from _length_topics(sheet)
    yield from _shot_topics(sheet)
    for item in sheet.of_kinds("motion"):
        yield _Topic(
            ("How lively is it?", "Is it calm or lively?", "Does much go on in it, or is it calm?"),
            (item.text,),
            (item,),
        )


def _reasoning_topics(sheet: EvidenceSheet) -> Iterator[_Topic]:
    conclusions = list(_conclusion_topics(sheet))
    yield from conclusions
    whole = _find_caption(sheet)
    if whole and not conclusions:
        yield _Topic(
            (
                "What would one have to tell somebody who missed it?",
                "If only one thing could be retold, what would it have to be?",
            ),
            (f"What matters is this: {_to_clause(whole.text)}",),
            (whole,),
        )


def _conclusion_topics(sheet: EvidenceSheet) -> Iterator[_Topic]:
    segments = [
        item for item in sheet.of_kinds("dense") if item.start_s is not None and len(item.text) <= _CLAUSE_CHARS
    ]
    for a, b in itertools.pairwise(segments[:6]):
        if (a.end_s or 0.0) <= (b.start_s or 0.0) + 0.05:
            yield _Topic(
                (
                    f"How does one know that the video does not begin with this: {_to_fragment(b.text)}?",
                    f"Is this how the video begins: {_to_fragment(b.text)}?",
                ),
                (f"No, something else comes before it, namely: {_to_clause(a.text)}",),
                (a, b),
            )
        longer, shorter = sorted((a, b), key=_duration, reverse=True)
        if _duration(longer) - _duration(shorter) >= _GAP_S:
            yield _Topic(
                (
                    f"What takes up more time, (1) {_to_fragment(a.text)}, or (2) {_to_fragment(b.text)}?",
                    f"Of two things, which one goes on for longer: (1) {_to_fragment(a.text)}, "
                    f"or (2) {_to_fragment(b.text)}?",
                ),
                (
                    f"What takes longer is this: {_to_clause(longer.text)} It goes on for about "
                    f"{_format_seconds(_duration(longer))}, the other for about {_format_seconds(_duration(shorter))}.",
                ),
                (a, b),
            )
    shots, facts = sheet.of_kinds("shot"), sheet.of_kinds("facts")
    count = _count_shots(shots)
    if count > 1 and sheet.seconds and facts:
        pace = "fast" if sheet.seconds / count < 3 else "slowly"
        yield _Topic(
            ("Is it cut fast or slowly, and why would one say so?", "How would one judge the pace of the cutting?"),
            (f"There are {count} shots in {_format_seconds(sheet.seconds)}, so it is cut {pace}.",),
            (shots[0], *facts),
        )
    for item in sheet.of_kinds("motion"):
        if item.text.startswith("Practically"):
            yield _Topic(
                ("Why would a single photograph tell almost as much?", "What would a photograph of it be missing?"),
                ("Hardly anything would be lost, because practically nothing moves.",),
                (item,),
            )
        elif " much " in item.text or "very fast" in item.text:
            yield _Topic(
                ("Why would a single photograph not do?", "What would a photograph of it be missing?"),
                (f"It would be missing the motion. {item.text}",),
                (item,),
            )


def _temporal_topics(sheet: EvidenceSheet) -> Iterator[_Topic]:
    timed = [item for item in sheet.of_kinds("caption", "dense", "transcript", "ocr") if item.start_s is not None]
    short = [item for item in timed if len(item.text) <= _CLAUSE_CHARS]
    for i, item in enumerate(short[:6]):
        span = (item.start_s, item.end_s)
        when = _format_when(item)
        if item.kind == "ocr":
            questions = (f"When can “{item.text}” be read?", f"At what time does “{item.text}” stand in the picture?")
            answers = (f"It can be read {when}.", f"“{item.text}” can be read {when}.")
        elif item.kind == "transcript":
            questions = (f"When does one hear “{item.text}”?", f"At what time are these words spoken: “{item.text}”?")
            answers = (f"One hears it {when}.", f"These words are spoken {when}: “{item.text}”")
        else:
            questions = (
                f"When does this happen: {_to_fragment(item.text)}?",
                f"At what time is this seen: {_to_fragment(item.text)}?",
            )
            answers = (f"It happens {when}.", f"This is seen {when}: {_to_clause(item.text)}")
        yield _Topic(questions, answers, (item,), *span)
        later = next((o for o in short[i + 1 :] if o.kind == item.kind and (o.start_s or 0) >= (item.end_s or 0)), None)
        if item.kind == "dense" and later is not None:
            yield _Topic(
                (
                    f"What comes right after this: {_to_fragment(item.text)}?",
                    f"What follows once this is over: {_to_fragment(item.text)}?",
                ),
                (_to_sentence(later.text), f"After that comes this: {_to_clause(later.text)}"),
                (later, item),
                later.start_s,
                later.end_s,
            )
    for item in timed[:3]:
        if item.kind in ("caption", "dense"):
            yield _Topic(
                (f"What is seen {_format_when(item)}?", f"What happens {_format_when(item)}?"),
                (_to_sentence(item.text),),
                (item,),
                item.start_s,
                item.end_s,
            )


def _egocentric_topics(sheet: EvidenceSheet) -> Iterator[_Topic]:
    whole, segments = _find_caption(sheet), sheet.of_kinds("dense")
    if whole:
        yield _Topic(
            ("What am I doing in this video?", "What do I have before my eyes?", "What did I record here?"),
            (
                f"From where you stood, this is what one sees: {_to_clause(whole.text)}",
                f"Seen through your eyes, it is this: {_to_clause(whole.text)}",
            ),
            (whole,),
        )
    for i, item in enumerate(segments[:5]):
        questions = (
            ("What did I do first?", "How did I begin?") if i == 0 else ("And what came next for me?", "And then?")
        )
        yield _Topic(
            questions,
            (
                f"Through your eyes, one sees this: {_to_clause(item.text)}",
                f"You recorded this: {_to_clause(item.text)}",
            ),
            (item,),
            follows=i > 0,
        )
    for item in sheet.of_kinds("ocr")[:1]:
        yield _Topic(
            ("Which words did I have before me?", "What did I get to read?"),
            (f"You had “{item.text}” before you.", f"You could read “{item.text}”."),
            (item,),
        )


def _text_topics(sheet: EvidenceSheet) -> Iterator[_Topic]:
    items = [item for item in sheet.of_kinds("ocr") if len(item.text) <= _CLAUSE_CHARS]
    for item in items[:1]:
        yield _reading_topic(item)
    if len(items) > 1:
        listed = ", ".join(f"“{item.text}”" for item in items[:6])
        every = ("Which texts can be read in all?", "List all the words that appear in writing.")
        some = ("Which texts can be read, for example?", "Name some of the texts that appear in writing.")
        yield _Topic(
            every if len(items) <= 6 else some,
            (f"One can read {listed}.", f"The texts are {listed}."),
            items[:6],
        )
    for item in items[:3]:
        if item.start_s is not None:
            yield _Topic(
                (f"When can “{item.text}” be read?", f"At what time is “{item.text}” in the picture?"),
                (f"It can be read {_format_when(item)}.",),
                (item,),
            )
    for item in items[1:3]:
        yield _Topic(
            ("What else is written there?", "Is there other writing, and what does it say?"),
            (f"It also says “{item.text}”.", f"One can also read “{item.text}”."),
            (item,),
        )


_TOPICS: Mapping[str, Callable[[EvidenceSheet], Iterator[_Topic]]] = {
    "conversation": _conversation_topics,
    "reasoning": _reasoning_topics,
    "captioning": _captioning_topics,
    "temporal_perception": _temporal_topics,
    "egocentric": _egocentric_topics,
    "text_recognition": _text_topics,
    IMAGE_TEXT: _text_topics,
}

_DESCRIBE = (
    "Describe the video.",
    "Describe what can be seen in this video.",
    "Please describe the video in a few words.",
    "Give a short description of the video.",
    "Can you describe what happens in this clip?",
    "Summarize the video.",
    "Write a caption for this video.",
)


def _reading_topic(item: EvidenceItem) -> _Topic:
    return _Topic(
        ("What can be read in the picture?", "What does the writing in the picture say?", "Which text is visible?"),
        (f"It says “{item.text}”.", f"One can read “{item.text}”.", f"The writing says “{item.text}”."),
        (item,),
    )


def _length_topics(sheet: EvidenceSheet) -> Iterator[_Topic]:
    facts = sheet.of_kinds("facts")
    if sheet.seconds and facts:
        yield _Topic(
            ("How long is the video?", "How long does it last?", "How many seconds does it take?"),
            (f"It lasts {_format_seconds(sheet.seconds)}.", f"It is {_format_seconds(sheet.seconds)} long."),
            facts,
        )


def _shot_topics(sheet: EvidenceSheet) -> Iterator[_Topic]:
    shots = sheet.of_kinds("shot")
    count = _count_shots(shots)
    if count > 1:
        yield _Topic(
            ("How many shots are there?", "How often is there a new shot?", "Of how many shots is it made?"),
            (f"There are {count} shots.", f"It is made of {count} shots."),
            shots[:1],
        )
    elif shots:
        yield _Topic(("How is it edited?", "Does the picture ever jump to another?"), (shots[0].text,), shots[:1])


def _count_shots(shots: Sequence[EvidenceItem]) -> int:
    """Number of shots of the video, of which the sheet may list some ("Shot 2 of 14.", "The video has 90 shots."), or
    0."""
    match = _SHOTS.search(shots[0].text) if shots else None
    return int(match[1]) if match else 0


def _find_caption(sheet: EvidenceSheet) -> EvidenceItem | None:
    return next(iter(sheet.of_kinds("caption")), None)


def _duration(item: EvidenceItem) -> float:
    return (item.end_s or 0.0) - (item.start_s or 0.0)


def _format_seconds(seconds: float) -> str:
    amount = format_amount(seconds)
    return f"{amount} second{'' if amount == '1' else 's'}"


def _format_when(item: EvidenceItem) -> str:
    start, end = item.start_s or 0.0, item.end_s or 0.0
    if format_amount(start) == format_amount(end):
        return f"at about {_format_seconds(start)}"
    return f"from {format_amount(start)} to {_format_seconds(end)}"


def _to_sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(_CLOSED) else f"{text}."


def _to_clause(text: str) -> str:
    """`text` as it continues after a colon, with a full stop."""
    word = re.match(r"[A-Z]\w*", text)
    if word and word[0].lower() in _SMALL:
        text = text[:1].lower() + text[1:]
    return text if text.endswith(_CLOSED) else f"{text}."


def _to_fragment(text: str) -> str:
    """`text` as a clause without its full stop, inside a sentence."""
    return _to_clause(text).rstrip(".!?。！？… ")


def _fit(text: str, max_chars: int) -> str:
    """As many whole sentences as fit; of one longer sentence, as many words."""
    if len(text) <= max_chars:
        return text
    fitting = ""
    for sentence in _SENTENCE_END.split(text):
        if len(fitting) + len(sentence) + 1 > max_chars:
            break
        fitting = f"{fitting} {sentence}".strip()
    return fitting or text[: max_chars - 1].rsplit(" ", 1)[0] + "…"
