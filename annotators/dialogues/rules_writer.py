"""Dialogues without any language model: templates filled with what the items say, word for word. Plain, but honest:
nothing is said that no item says, and every turn has been through the checks before it is given out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from annotators.dialogues import checks
from annotators.dialogues.dialogue import Dialogue, Turn
from annotators.dialogues.evidence import EvidenceItem, EvidenceSheet
from annotators.dialogues.kinds import IMAGE_TEXT, DialogueKind
from infra.hashing import draw_integers

#: Raised whenever the same sheet and key would give another dialogue.
VERSION = 1

_TOPICS = 12  # looked at for one dialogue
_CLAUSE = 160  # characters of a text that may stand inside a question
_GAP_S = 1.0  # seconds by which two lengths must differ to be compared

_SENTENCE_END = re.compile(r"(?<=[.!?。！？…])\s+")
_SHOTS = re.compile(r"(?:of|has) (\d+)")
_CLOSED = tuple(".!?。！？…\"'”’»」")
# Words that have a capital only where a sentence begins with them.
_SMALL_WORDS = """
    a an the this that these those there here he she it they we you his her its their our your my some several many two
    three four five six one another all both each every no in on at by from with under over near behind beside after
    before while when as then next first finally people someone somebody children men women"""
_SMALL = frozenset(_SMALL_WORDS.split())


@dataclass(frozen=True)
class _Topic:
    """One thing to talk about: wordings of the question, and of the answer, all of them true. follows: only makes sense
    right after the topic before it."""

    questions: Sequence[str]
    answers: Sequence[str]
    evidence: Sequence[EvidenceItem]
    start_s: float | None = None
    end_s: float | None = None
    follows: bool = False


def write(
    kind: DialogueKind, sheet: EvidenceSheet, seed: int, key: str, settings: checks.CheckSettings | None = None
) -> Dialogue:
    """A dialogue of this kind about the video `key`: at most `kind.most` turns, where little is known fewer than
    `kind.least`, and none where there is nothing honest to say. Topics and wordings are drawn from (seed, key).

    Every turn passes `checks.check_dialogue` under `settings` (by default the defaults), except that the language is
    that of the captions.
    """
    limits = (settings or checks.CheckSettings()).model_copy(update={"language": None})
    of_turn = kind.schema["properties"]["turns"]["items"]["properties"]
    numbers = _numbers(seed, key)
    topics = list(itertools.islice(_ABOUT[kind.name](sheet), _TOPICS))
    turns = []
    for topic in topics:
        question = topic.questions[next(numbers) % len(topic.questions)]
        answer = topic.answers[next(numbers) % len(topic.answers)]
        cited = tuple(item.id for item in topic.evidence[: of_turn["evidence"]["maxItems"]])
        span = (topic.start_s, topic.end_s) if "start_s" in of_turn else (None, None)
        turns.append(Turn(question, _fitted(answer, of_turn["answer"]["maxLength"]), cited, *span))
    # Texts may hold anything, so some turns fail; the others are no worse for their absence.
    reasons = checks.check_dialogue(Dialogue(kind.name, tuple(turns)), sheet, kind, limits).turns
    passed = [i for i, reason in enumerate(reasons) if reason is None]
    most = min(kind.most, len(passed))
    count = max(most - next(numbers) % 3, min(kind.least, most))
    # The first topic opens the dialogue; of the others those with the lowest numbers come too, in their order.
    taken = sorted(passed[:1] + sorted(passed[1:], key=lambda _: next(numbers))[: max(count - 1, 0)])
    kept: list[int] = []
    for i in taken:
        if not topics[i].follows or (kept and kept[-1] == i - 1):
            kept.append(i)
    return Dialogue(kind.name, tuple(turns[i] for i in kept))


def _numbers(seed: int, key: str) -> Iterator[int]:
    for i in itertools.count():
        yield from draw_integers(seed, [f"{key}/{16 * i + k}" for k in range(16)], "rules").tolist()


# What the kinds talk about, the most telling first.


def _captioning(sheet: EvidenceSheet) -> Iterator[_Topic]:
    whole, parts = _whole(sheet), sheet.of_kinds("dense")
    if whole:
        yield _Topic(_DESCRIBE, (_sentence(whole.text),), (whole,))
    if parts:
        yield _Topic(
            (
                "Describe in detail what happens from the beginning to the end.",
                "Describe the video step by step.",
                "Give a detailed account of the whole video.",
                "Walk me through the video in the order of events.",
            ),
            (" ".join(_sentence(item.text) for item in parts),),
            parts,
        )


def _conversation(sheet: EvidenceSheet) -> Iterator[_Topic]:
    whole, parts = _whole(sheet), sheet.of_kinds("dense")
    if whole:
        yield _Topic(
            (
                "What can be seen in this video?",
                "What is this video about?",
                "What is going on here?",
                "What does the video show?",
            ),
            (_sentence(whole.text), f"One can see this: {_clause(whole.text)}"),
            (whole,),
        )
    if parts:
        first = parts[0]
        yield _Topic(
            ("What is seen first?", "How does the video begin?", "What happens at the beginning?"),
            (_sentence(first.text), f"At first, this is what one sees: {_clause(first.text)}"),
            (first,),
        )
    for before, after in itertools.pairwise(parts[:4]):
        yield _Topic(
            ("And what happens after that?", "What comes next?", "How does it go on?", "And then?"),
            (_sentence(after.text), f"Next comes this: {_clause(after.text)}"),
            (after, before),
            follows=True,
        )
    if len(parts) > 4:
        yield _Topic(
            ("What is seen at the end?", "How does the video end?", "What is the last thing that happens?"),
            (_sentence(parts[-1].text), f"It ends like this: {_clause(parts[-1].text)}"),
            (parts[-1],),
        )
    for item in sheet.of_kinds("transcript")[:2]:
        yield _Topic(
            ("What is being said?", "What can be heard?", "Which words are spoken?"),
            (f"One hears: “{item.text}”", f"Somebody says: “{item.text}”"),
            (item,),
        )
    for item in sheet.of_kinds("ocr")[:1]:
        yield _read_out(item)
    yield from _length(sheet)
    yield from _shots(sheet)
    for item in sheet.of_kinds("motion"):
        yield _Topic(
            ("How lively is it?", "Is it calm or lively?", "Does much go on in it, or is it calm?"),
            (item.text,),
            (item,),
        )


def _reasoning(sheet: EvidenceSheet) -> Iterator[_Topic]:
    found = list(_conclusions(sheet))
    yield from found
    whole = _whole(sheet)
    if whole and not found:
        yield _Topic(
            (
                "What would one have to tell somebody who missed it?",
                "If only one thing could be retold, what would it have to be?",
            ),
            (f"What matters is this: {_clause(whole.text)}",),
            (whole,),
        )


def _conclusions(sheet: EvidenceSheet) -> Iterator[_Topic]:
    parts = [item for item in sheet.of_kinds("dense") if item.start_s is not None and len(item.text) <= _CLAUSE]
    for a, b in itertools.pairwise(parts[:6]):
        if (a.end_s or 0.0) <= (b.start_s or 0.0) + 0.05:
            yield _Topic(
                (
                    f"How does one know that the video does not begin with this: {_bare(b.text)}?",
                    f"Is this how the video begins: {_bare(b.text)}?",
                ),
                (f"No, something else comes before it, namely: {_clause(a.text)}",),
                (a, b),
            )
        longer, shorter = sorted((a, b), key=lambda item: _lasts(item), reverse=True)
        if _lasts(longer) - _lasts(shorter) >= _GAP_S:
            yield _Topic(
                (
                    f"What takes up more time, (1) {_bare(a.text)}, or (2) {_bare(b.text)}?",
                    f"Of two things, which one goes on for longer: (1) {_bare(a.text)}, or (2) {_bare(b.text)}?",
                ),
                (
                    f"What takes longer is this: {_clause(longer.text)} It goes on for about "
                    f"{_seconds(_lasts(longer))}, the other for about {_seconds(_lasts(shorter))}.",
                ),
                (a, b),
            )
    shots, facts = sheet.of_kinds("shot"), sheet.of_kinds("facts")
    count = _count(shots)
    if count > 1 and sheet.seconds and facts:
        pace = "fast" if sheet.seconds / count < 3 else "slowly"
        yield _Topic(
            ("Is it cut fast or slowly, and why would one say so?", "How would one judge the pace of the cutting?"),
            (f"There are {count} shots in {_seconds(sheet.seconds)}, so it is cut {pace}.",),
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


def _temporal_perception(sheet: EvidenceSheet) -> Iterator[_Topic]:
    timed = [item for item in sheet.of_kinds("caption", "dense", "transcript", "ocr") if item.start_s is not None]
    short = [item for item in timed if len(item.text) <= _CLAUSE]
    for i, item in enumerate(short[:6]):
        span = (item.start_s, item.end_s)
        when = _when(item)
        if item.kind == "ocr":
            questions = (f"When can “{item.text}” be read?", f"At what time does “{item.text}” stand in the picture?")
            answers = (f"It can be read {when}.", f"“{item.text}” can be read {when}.")
        elif item.kind == "transcript":
            questions = (f"When does one hear “{item.text}”?", f"At what time are these words spoken: “{item.text}”?")
            answers = (f"One hears it {when}.", f"These words are spoken {when}: “{item.text}”")
        else:
            questions = (
                f"When does this happen: {_bare(item.text)}?",
                f"At what time is this seen: {_bare(item.text)}?",
            )
            answers = (f"It happens {when}.", f"This is seen {when}: {_clause(item.text)}")
        yield _Topic(questions, answers, (item,), *span)
        later = next((o for o in short[i + 1 :] if o.kind == item.kind and (o.start_s or 0) >= (item.end_s or 0)), None)
        if item.kind == "dense" and later is not None:
            yield _Topic(
                (
                    f"What comes right after this: {_bare(item.text)}?",
                    f"What follows once this is over: {_bare(item.text)}?",
                ),
                (_sentence(later.text), f"After that comes this: {_clause(later.text)}"),
                (later, item),
                later.start_s,
                later.end_s,
            )
    for item in timed[:3]:
        if item.kind in ("caption", "dense"):
            yield _Topic(
                (f"What is seen {_when(item)}?", f"What happens {_when(item)}?"),
                (_sentence(item.text),),
                (item,),
                item.start_s,
                item.end_s,
            )


def _egocentric(sheet: EvidenceSheet) -> Iterator[_Topic]:
    whole, parts = _whole(sheet), sheet.of_kinds("dense")
    if whole:
        yield _Topic(
            ("What am I doing in this video?", "What do I have before my eyes?", "What did I record here?"),
            (
                f"From where you stood, this is what one sees: {_clause(whole.text)}",
                f"Seen through your eyes, it is this: {_clause(whole.text)}",
            ),
            (whole,),
        )
    for i, item in enumerate(parts[:5]):
        asked = ("What did I do first?", "How did I begin?") if i == 0 else ("And what came next for me?", "And then?")
        yield _Topic(
            asked,
            (f"Through your eyes, one sees this: {_clause(item.text)}", f"You recorded this: {_clause(item.text)}"),
            (item,),
            follows=i > 0,
        )
    for item in sheet.of_kinds("ocr")[:1]:
        yield _Topic(
            ("Which words did I have before me?", "What did I get to read?"),
            (f"You had “{item.text}” before you.", f"You could read “{item.text}”."),
            (item,),
        )


def _text_recognition(sheet: EvidenceSheet) -> Iterator[_Topic]:
    items = [item for item in sheet.of_kinds("ocr") if len(item.text) <= _CLAUSE]
    for item in items[:1]:
        yield _read_out(item)
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
                (f"It can be read {_when(item)}.",),
                (item,),
            )
    for item in items[1:3]:
        yield _Topic(
            ("What else is written there?", "Is there other writing, and what does it say?"),
            (f"It also says “{item.text}”.", f"One can also read “{item.text}”."),
            (item,),
        )


_ABOUT: Mapping[str, Callable[[EvidenceSheet], Iterator[_Topic]]] = {
    "conversation": _conversation,
    "reasoning": _reasoning,
    "captioning": _captioning,
    "temporal_perception": _temporal_perception,
    "egocentric": _egocentric,
    "text_recognition": _text_recognition,
    IMAGE_TEXT: _text_recognition,
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


def _read_out(item: EvidenceItem) -> _Topic:
    return _Topic(
        ("What can be read in the picture?", "What does the writing in the picture say?", "Which text is visible?"),
        (f"It says “{item.text}”.", f"One can read “{item.text}”.", f"The writing says “{item.text}”."),
        (item,),
    )


def _length(sheet: EvidenceSheet) -> Iterator[_Topic]:
    facts = sheet.of_kinds("facts")
    if sheet.seconds and facts:
        yield _Topic(
            ("How long is the video?", "How long does it last?", "How many seconds does it take?"),
            (f"It lasts {_seconds(sheet.seconds)}.", f"It is {_seconds(sheet.seconds)} long."),
            facts,
        )


def _shots(sheet: EvidenceSheet) -> Iterator[_Topic]:
    shots = sheet.of_kinds("shot")
    count = _count(shots)
    if count > 1:
        yield _Topic(
            ("How many shots are there?", "How often is there a new shot?", "Of how many shots is it made?"),
            (f"There are {count} shots.", f"It is made of {count} shots."),
            shots[:1],
        )
    elif shots:
        yield _Topic(("How is it edited?", "Does the picture ever jump to another?"), (shots[0].text,), shots[:1])


def _count(shots: Sequence[EvidenceItem]) -> int:
    """Shots of the video, of which the sheet may hold a part: "Shot 2 of 14.", "The video has 90 shots."; else 0."""
    said = _SHOTS.search(shots[0].text) if shots else None
    return int(said[1]) if said else 0


def _whole(sheet: EvidenceSheet) -> EvidenceItem | None:
    return next(iter(sheet.of_kinds("caption")), None)


def _lasts(item: EvidenceItem) -> float:
    return (item.end_s or 0.0) - (item.start_s or 0.0)


def _amount(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _seconds(value: float) -> str:
    return f"{_amount(value)} second{'' if _amount(value) == '1' else 's'}"


def _when(item: EvidenceItem) -> str:
    start, end = item.start_s or 0.0, item.end_s or 0.0
    if _amount(start) == _amount(end):
        return f"at about {_seconds(start)}"
    return f"from {_amount(start)} to {_seconds(end)}"


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(_CLOSED) else f"{text}."


def _clause(text: str) -> str:
    """`text` as it goes on behind a colon, closed."""
    word = re.match(r"[A-Z]\w*", text)
    if word and word[0].lower() in _SMALL:
        text = text[:1].lower() + text[1:]
    return text if text.endswith(_CLOSED) else f"{text}."


def _bare(text: str) -> str:
    """The same without its end, to go on."""
    return _clause(text).rstrip(".!?。！？… ")


def _fitted(text: str, most: int) -> str:
    """As many whole sentences as fit; of a single longer one, as many words."""
    if len(text) <= most:
        return text
    kept = ""
    for sentence in _SENTENCE_END.split(text):
        if len(kept) + len(sentence) + 1 > most:
            break
        kept = f"{kept} {sentence}".strip()
    return kept or text[: most - 1].rsplit(" ", 1)[0] + "…"
