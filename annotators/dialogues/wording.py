"""Features of a text for comparing what two texts say: content words, numbers and times.

Deliberately simple and the same everywhere: stems by removing endings, a list of words that any text about a video may
contain, numbers as values. Ours; made for English, and for other scripts by whole words or pairs of characters.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+(?:['’][a-z]+)?")
# Scripts written without spaces between words: Thai to Khmer, kana, Han with its extensions.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_UNSPACED_RUN = re.compile(f"([{_UNSPACED}]+)")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")
_LETTER = re.compile(r"[^\W\d_]")

_IRREGULAR_FORMS = """
    ran:run sat:sit held:hold wore:wear worn:wear stood:stand took:take taken:take went:go gone:go came:come rode:ride
    ridden:ride threw:throw thrown:throw drove:drive driven:drive ate:eat eaten:eat drank:drink swam:swim sang:sing
    sung:sing fell:fall fallen:fall caught:catch brought:bring bought:buy built:build cut:cut gave:give given:give
    flew:fly flown:fly grew:grow hit:hit kept:keep laid:lay led:lead lit:light made:make met:meet put:put
    heard:hear said:say shook:shake spoke:speak spun:spin spread:spread swung:swing told:tell wrote:write written:write
    won:win men:man women:woman children:child people:person feet:foot teeth:tooth mice:mouse
    knives:knife wives:wife"""
_IRREGULAR = {form: base for form, _, base in (pair.partition(":") for pair in _IRREGULAR_FORMS.split())}

# Function words; then words of any text about a video; then words of order, degree, guessing and giving reasons.
_FUNCTION_WORDS = """
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
_NUMBER_WORDS = {word: float(number) for number, word in enumerate(_TO_TWENTY.split())} | {
    "thirty": 30.0,
    "forty": 40.0,
    "fifty": 50.0,
    "sixty": 60.0,
    "hundred": 100.0,
}
# "one" is a pronoun as often as a number.
_NUMERALS = {word: number for word, number in _NUMBER_WORDS.items() if word != "one"}

_NUM = r"\d+(?:\.\d+)?"
_NUMERAL = "|".join(_NUMERALS)
_UNIT = r"(?:seconds?|secs?|s|minutes?|mins?|hours?|hrs?)"
_CLOCK = re.compile(r"(?<![\d:.])(?:(\d{1,2}):)?(\d{1,3}):([0-5]\d(?:\.\d+)?)(?![\d:])")
_MINUTES_SECONDS = re.compile(
    rf"(?<![\w.])({_NUM}|{_NUMERAL})[ -]?(?:minutes?|mins?)(?: and)? ({_NUM}|{_NUMERAL})[ -]?(?:seconds?|secs?|s)\b"
)
_RANGE = re.compile(rf"(?<![\w.])({_NUM}|{_NUMERAL})(?: ?[-–—] ?| to | and )({_NUM}|{_NUMERAL})[ -]?({_UNIT})\b")
_DURATION = re.compile(rf"(?<![\w.:])({_NUM}|{_NUMERAL})[ -]?({_UNIT})\b")
_UNIT_FIRST = re.compile(rf"\b(second|minute)s? ({_NUM})(?![\w:])")
_NUMBER = re.compile(rf"(?<![\w.])({_NUM})(?!\w)")
# A text without any of these names no time, and the slow patterns above are skipped.
_UNITS = ("sec", "min", "hour", "hr", ":")
_SECONDS = re.compile(r"[\d -]s\b")
_DIGIT = re.compile(r"\d")


@functools.lru_cache(maxsize=65536)  # threads: safe, a pure function of text
def stem(word: str) -> str:
    """Return a lower-case word without its ending: walks, walked and walking have one stem."""
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


_FUNCTION_STEMS = frozenset(stem(word) for word in _FUNCTION_WORDS.split()) | _NUMBER_WORDS.keys()


def split_words(text: str) -> list[str]:
    """Return lower-case words in order; of scripts without spaces, overlapping pairs of characters."""
    text = text.lower()
    if text.isascii() or not _UNSPACED_RUN.search(text):
        return _WORD.findall(text)
    words: list[str] = []
    for i, run in enumerate(_UNSPACED_RUN.split(text)):
        if i % 2 == 0:
            words += _WORD.findall(run)
        else:
            words += [run[k : k + 2] for k in range(max(len(run) - 1, 1))]
    return words


class TextFeatures(NamedTuple):
    """A text and its features.

    words: lower-case, in order (see `split_words`). content: stems without function words and without numbers in
    digits.
    times: (seconds, words) of every time or duration in the text: "0:45", "12 seconds in", "from 3 to 7 s", "two
    minutes", "second 12", "1 minute 20 seconds". numbers: all other numbers, in digits or in words from "two" to
    "hundred"; not "one", which is a pronoun as often.
    """

    text: str
    words: tuple[str, ...]
    content: frozenset[str]
    times: tuple[tuple[float, str], ...]
    numbers: frozenset[float]


# Every turn of a dialogue needs those of the sheet's items again. Threads: safe, a pure function of text.
@functools.lru_cache(maxsize=512)
def extract_features(text: str) -> TextFeatures:
    """Extract the features of a text."""
    words = tuple(split_words(text))
    has_digits = _DIGIT.search(text) is not None
    content = frozenset(map(stem, words)) - _FUNCTION_STEMS
    if has_digits:
        content = frozenset(word for word in content if not word.isdecimal())
    if not has_digits and _NUMERALS.keys().isdisjoint(words):
        return TextFeatures(text, words, content, (), frozenset())
    lower = text.lower()
    timed = any(unit in lower for unit in _UNITS) or _SECONDS.search(lower)
    times, rest = _extract_times(lower) if timed else ((), lower)
    numbers = {float(digits) for digits in _NUMBER.findall(rest)} if has_digits else set()
    numbers |= {_NUMERALS[word] for word in _NUMERALS.keys() & (split_words(rest) if times else words)}
    return TextFeatures(text, words, content, times, frozenset(numbers))


def _extract_times(text: str) -> tuple[tuple[tuple[float, str], ...], str]:
    """The times, and the text without them."""
    times: list[tuple[float, str]] = []
    for pattern, to_seconds in _TIME_PATTERNS:

        def collect(match: re.Match[str], to_seconds: ToSeconds = to_seconds) -> str:
            times.extend((seconds, match[0].strip()) for seconds in to_seconds(match))
            return " "

        text = pattern.sub(collect, text)
    return tuple(times), text


Shingles = frozenset[tuple[str, ...]]


def make_shingles(words: tuple[str, ...]) -> Shingles:
    """Return all runs of three consecutive words; of fewer words, all of them as one run."""
    if len(words) <= 3:
        return frozenset([words]) if words else frozenset()
    return frozenset(zip(words, words[1:], words[2:], strict=False))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Return the Jaccard similarity (0 to 1) of two sets of shingles."""
    common = len(a & b)
    return common / (len(a) + len(b) - common) if common else 0.0


def is_non_latin(text: str) -> bool:
    """Return whether most letters are of another script than Latin; False without letters."""
    return not text.isascii() and len(_LATIN.findall(text)) * 2 < len(_LETTER.findall(text))


def parse_number(word: str) -> float | None:
    """Return the value of a lower-case word that is a number, in digits or from "zero" to "hundred"; else None."""
    if word in _NUMBER_WORDS:
        return _NUMBER_WORDS[word]
    return float(word) if word.isascii() and word.isdecimal() and len(word) < 16 else None


def _to_float(numeral: str) -> float:
    return _NUMBER_WORDS[numeral] if numeral in _NUMBER_WORDS else float(numeral)


def _unit_seconds(unit: str) -> float:
    return {"s": 1.0, "m": 60.0, "h": 3600.0}[unit[0]]


def _duration_seconds(match: re.Match[str]) -> Sequence[float]:
    decade = match[0].endswith("0s")  # "the 1990s", "in the 80s"
    return () if decade else (_unit_seconds(match[2]) * _to_float(match[1]),)


ToSeconds = Callable[[re.Match[str]], Sequence[float]]

# Written forms of times, in the order in which they are searched, and their seconds.
_TIME_PATTERNS: tuple[tuple[re.Pattern[str], ToSeconds], ...] = (
    (_CLOCK, lambda m: (3600 * float(m[1] or 0) + 60 * float(m[2]) + float(m[3]),)),
    (_MINUTES_SECONDS, lambda m: (60 * _to_float(m[1]) + _to_float(m[2]),)),
    (_RANGE, lambda m: (_unit_seconds(m[3]) * _to_float(m[1]), _unit_seconds(m[3]) * _to_float(m[2]))),
    (_DURATION, _duration_seconds),
    (_UNIT_FIRST, lambda m: (_unit_seconds(m[1]) * _to_float(m[2]),)),
)
