"""Words that say something: what two texts have in common beyond grammar, which numbers and times they name.

Rough on purpose and the same everywhere: stems by cutting endings, a list of words that any text about a video may
hold, numbers as values. Ours; made for English, and for other scripts by whole words or pairs of characters.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+(?:['’][a-z]+)?")
# Scripts written without blanks between words: Thai to Khmer, kana, Han with its extensions.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_RUN = re.compile(f"([{_UNSPACED}]+)")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_LETTER = re.compile(r"[^\W\d_]")

_SAME = """
    ran:run sat:sit held:hold wore:wear worn:wear stood:stand took:take taken:take went:go gone:go came:come rode:ride
    ridden:ride threw:throw thrown:throw drove:drive driven:drive ate:eat eaten:eat drank:drink swam:swim sang:sing
    sung:sing fell:fall fallen:fall caught:catch brought:bring bought:buy built:build cut:cut gave:give given:give
    flew:fly flown:fly grew:grow hit:hit kept:keep laid:lay led:lead lit:light made:make met:meet put:put
    heard:hear said:say shook:shake spoke:speak spun:spin spread:spread swung:swing told:tell wrote:write written:write
    won:win men:man women:woman children:child people:person feet:foot teeth:tooth mice:mouse
    knives:knife wives:wife"""
_IRREGULAR = {form: base for form, _, base in (pair.partition(":") for pair in _SAME.split())}

# Function words; then what any talk about a video holds; then words of order, degree, guessing and giving reasons.
_EMPTY = """
    a an the and or but nor so if then than that this these those there here it its he him his she her hers they them
    their theirs we us our you your i me my who whom whose which what when where why how as at by for from in into of
    off on onto out over to up down with within without through across about around after before behind between during
    under until upon while along against among beside besides near toward towards is are was were be been being am do
    does did doing done has have had having can could may might must shall should will would not no yes n't also both
    each either every few more most much many other others another such same some any all only own too very just still
    doesn didn isn wasn aren weren couldn won wouldn shouldn hasn haven hadn
    again once one ones himself herself itself themselves someone something anything everything nothing let s t don
    video clip film footage scene picture screen frame camera viewer view visible describe description happen happening
    occur event thing moment action activity show shown see seen appear look watch feature contain include depict
    display present kind type sort way part piece name detail contents overall entire whole
    colour color mood setting purpose reason role order sequence
    first second third last next final finally begin beginning start end ending later earlier then now time seconds
    minute minutes second point throughout afterwards meanwhile eventually middle continue become remain
    say read text word quote hear
    likely probably perhaps possibly maybe seem suggest imply indicate infer mean because since therefore thus due
    about approximately roughly around nearly almost exactly really quite rather well together
    go get make use take keep be come give"""

_TO_TWENTY = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty"""
_NUMBER_WORDS = {word: float(value) for value, word in enumerate(_TO_TWENTY.split())} | {
    "thirty": 30.0,
    "forty": 40.0,
    "fifty": 50.0,
    "sixty": 60.0,
    "hundred": 100.0,
}
# "one" is a pronoun as often as a number.
_COUNTED = {word: value for word, value in _NUMBER_WORDS.items() if word != "one"}

_VALUE = r"\d+(?:\.\d+)?"
_SAID = "|".join(_COUNTED)
_UNIT = r"(?:seconds?|secs?|s|minutes?|mins?|hours?|hrs?)"
_CLOCK = re.compile(r"(?<![\d:.])(?:(\d{1,2}):)?(\d{1,3}):([0-5]\d(?:\.\d+)?)(?![\d:])")
_BOTH = re.compile(
    rf"(?<![\w.])({_VALUE}|{_SAID})[ -]?(?:minutes?|mins?)(?: and)? ({_VALUE}|{_SAID})[ -]?(?:seconds?|secs?|s)\b"
)
_RANGE = re.compile(rf"(?<![\w.])({_VALUE}|{_SAID})(?: ?[-–—] ?| to | and )({_VALUE}|{_SAID})[ -]?({_UNIT})\b")
_AMOUNT = re.compile(rf"(?<![\w.:])({_VALUE}|{_SAID})[ -]?({_UNIT})\b")
_AFTER = re.compile(rf"\b(second|minute)s? ({_VALUE})(?![\w:])")
_NUMBER = re.compile(rf"(?<![\w.])({_VALUE})(?!\w)")
# Without any of these no time is named, and the patterns above, which are slow, need not be tried.
_UNITS = ("sec", "min", "hour", "hr", ":")
_SECONDS = re.compile(r"[\d -]s\b")
_DIGIT = re.compile(r"\d")


@functools.lru_cache(maxsize=65536)
def stem(word: str) -> str:
    """A lower-case word without its ending: walks, walked and walking are one."""
    word = word.split("'", 1)[0].split("’", 1)[0]
    word = _IRREGULAR.get(word, word)
    if len(word) <= 3 or not word.isascii():
        return word
    if word.endswith(("ies", "ied")) and len(word) > 4:
        return word[:-3] + "y"
    for ending in ("ings", "ing", "ed", "es", "ly", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            cut = word[: -len(ending)]
            doubled = ending in ("ing", "ed") and cut[-1] == cut[-2] and cut[-1] not in "aeiouslz" and len(cut) > 3
            return cut[:-1] if doubled else cut
    return word


_SAYS_NOTHING = frozenset(stem(word) for word in _EMPTY.split()) | _NUMBER_WORDS.keys()


def split_words(text: str) -> list[str]:
    """Lower-case words in order; of scripts without blanks, overlapping pairs of characters."""
    text = text.lower()
    if text.isascii() or not _RUN.search(text):
        return _WORD.findall(text)
    found: list[str] = []
    for i, part in enumerate(_RUN.split(text)):
        if i % 2 == 0:
            found += _WORD.findall(part)
        else:
            found += [part[k : k + 2] for k in range(max(len(part) - 1, 1))]
    return found


class TextFeatures(NamedTuple):
    """A text taken apart.

    words: in lower case, in order (see `split_words`). content: stems of those that say something; numbers in digits
    are none.
    times: seconds of every time or duration that is named, with the words that name it: "0:45", "12 seconds in", "from
    3 to 7 s", "two minutes", "second 12", "1 minute 20 seconds". numbers: values of the other numbers, in digits or in
    words from "two" to "hundred"; "one" is a pronoun as often.
    """

    text: str
    words: tuple[str, ...]
    content: frozenset[str]
    times: tuple[tuple[float, str], ...]
    numbers: frozenset[float]


@functools.lru_cache(maxsize=512)  # of a sheet's items every turn asks again
def extract_features(text: str) -> TextFeatures:
    """A text taken apart."""
    found = tuple(split_words(text))
    in_digits = _DIGIT.search(text) is not None
    content = frozenset(map(stem, found)) - _SAYS_NOTHING
    if in_digits:
        content = frozenset(word for word in content if not word.isdecimal())
    if not in_digits and _COUNTED.keys().isdisjoint(found):
        return TextFeatures(text, found, content, (), frozenset())
    low = text.lower()
    timed = any(unit in low for unit in _UNITS) or _SECONDS.search(low)
    times, rest = _times(low) if timed else ((), low)
    others = {float(value) for value in _NUMBER.findall(rest)} if in_digits else set()
    others |= {_COUNTED[word] for word in _COUNTED.keys() & (split_words(rest) if times else found)}
    return TextFeatures(text, found, content, times, frozenset(others))


def _times(text: str) -> tuple[tuple[tuple[float, str], ...], str]:
    """The times, and the text without them."""
    found: list[tuple[float, str]] = []
    for pattern, values in _TIMES:

        def take(match: re.Match[str], values: Values = values) -> str:
            found.extend((value, match[0].strip()) for value in values(match))
            return " "

        text = pattern.sub(take, text)
    return tuple(found), text


def shingles(words: tuple[str, ...]) -> frozenset[tuple[str, ...]]:
    """Runs of three words that follow each other; of fewer words all as one run."""
    if len(words) <= 3:
        return frozenset([words]) if words else frozenset()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def jaccard(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    """Share of their shingles, 0 to 1, that two texts have in common (Jaccard)."""
    common = len(a & b)
    return common / (len(a) + len(b) - common) if common else 0.0


def is_non_latin(text: str) -> bool:
    """Whether most letters are of another script than Latin; False without letters."""
    return not text.isascii() and len(_LATIN.findall(text)) * 2 < len(_LETTER.findall(text))


def parse_number(word: str) -> float | None:
    """The value of a lower-case word that is a number, in digits or from "zero" to "hundred"; None of any other."""
    if word in _NUMBER_WORDS:
        return _NUMBER_WORDS[word]
    return float(word) if word.isascii() and word.isdecimal() and len(word) < 16 else None


def _value(written: str) -> float:
    return _NUMBER_WORDS[written] if written in _NUMBER_WORDS else float(written)


def _scale(unit: str) -> float:
    return {"s": 1.0, "m": 60.0, "h": 3600.0}[unit[0]]


def _amount(match: re.Match[str]) -> Sequence[float]:
    decade = match[0].endswith("0s")  # "the 1990s", "in the 80s"
    return () if decade else (_scale(match[2]) * _value(match[1]),)


Values = Callable[[re.Match[str]], Sequence[float]]

# How times are written, in the order in which they are looked for, and what they come to in seconds.
_TIMES: tuple[tuple[re.Pattern[str], Values], ...] = (
    (_CLOCK, lambda m: (3600 * float(m[1] or 0) + 60 * float(m[2]) + float(m[3]),)),
    (_BOTH, lambda m: (60 * _value(m[1]) + _value(m[2]),)),
    (_RANGE, lambda m: (_scale(m[3]) * _value(m[1]), _scale(m[3]) * _value(m[2]))),
    (_AMOUNT, _amount),
    (_AFTER, lambda m: (_scale(m[1]) * _value(m[2]),)),
)
