"""Documents for the demo's world: paragraphs, near copies, and several kinds of poor text."""

from __future__ import annotations

import numpy as np

from pipelines.demo.captions import CITIES, FOREIGN_PHRASES, NAMES, TRANSLATIONS, pick

_ADJECTIVES = [
    "patient", "narrow", "weathered", "bright", "reluctant", "hollow", "generous", "crooked", "distant", "polished",
    "hurried", "stubborn", "gentle", "dusty", "curious", "heavy", "silent", "copper", "woollen", "fragile",
    "ambitious", "frozen", "spotless", "tired", "clever", "remote", "ordinary", "painted", "broken", "borrowed",
    "enormous", "restless", "salty", "practical", "forgotten", "local", "modest", "shallow", "wooden", "electric",
]  # fmt: skip
_PEOPLE = [
    "baker", "surveyor", "librarian", "fisherman", "clockmaker", "teacher", "gardener", "pilot", "carpenter", "nurse",
    "archivist", "beekeeper", "tailor", "engineer", "ferryman", "painter", "geologist", "postman", "violinist",
    "translator", "mechanic", "astronomer", "shepherd", "glazier", "printer", "cook", "botanist", "mason", "porter",
    "diver", "judge", "weaver", "cyclist", "locksmith", "musician", "farmer", "student", "plumber", "captain",
    "journalist",
]  # fmt: skip
_THINGS = [
    "lantern", "ledger", "bridge", "kettle", "telescope", "orchard", "harbour", "notebook", "bicycle", "staircase",
    "spade", "quilt", "engine", "window", "garden", "map", "radio", "ladder", "barrel", "workshop", "cabinet",
    "signal", "fountain", "envelope", "hammer", "canal", "mirror", "anvil", "saddle", "greenhouse", "recipe",
    "chimney", "photograph", "pump", "violin", "tunnel", "basket", "camera", "market", "cellar",
]  # fmt: skip
_DID = [
    "repaired", "measured", "carried", "described", "abandoned", "painted", "counted", "examined", "borrowed", "sold",
    "rebuilt", "polished", "followed", "sketched", "opened", "copied", "remembered", "cleaned", "inspected",
    "weighed", "moved", "collected", "designed", "ignored", "admired", "rented", "photographed", "replaced",
    "compared", "restored",
]  # fmt: skip
_WHERE = [
    "behind the railway station", "beside the old mill", "near the northern gate", "on the far side of the river",
    "in a rented room above the bakery", "under the stone arches", "at the edge of the marsh",
    "along the coastal road", "inside the empty theatre", "opposite the town hall", "at the top of the hill",
    "between two rows of poplars", "on the lower deck", "in the back of the museum", "outside the village school",
    "by the lighthouse", "across the frozen lake", "in the shade of a walnut tree", "at the third platform",
    "below the observatory",
]  # fmt: skip
_WHEN = [
    "in the last week of March", "before the first snow", "on a quiet Tuesday", "after the long drought",
    "just before dawn", "during the harvest", "some years later", "at the end of the season",
    "while the ferries were still running", "on the second evening", "a month after the flood",
    "early in the morning", "throughout that summer", "shortly after lunch", "when the lamps were lit",
    "during the night shift", "in the autumn of that year", "as soon as the road dried", "over the holidays",
    "one week too late",
]  # fmt: skip
_WHY = [
    "because nobody else had the time", "although the price had doubled", "so that the children could see it",
    "which surprised the neighbours", "and it took most of the afternoon", "since the older one had rusted through",
    "in spite of the noise", "to save a few coins", "for reasons that were never written down",
    "without asking for permission", "as the contract required", "and wrote to the council about it",
    "while the others argued about money", "even though rain was expected", "in order to finish before winter",
    "with help from two cousins", "until the light failed", "and was thanked with a basket of pears",
    "despite a broken wrist", "as carefully as a surgeon",
]  # fmt: skip
_OPENINGS = [
    "According to the diary", "As far as anyone knows", "To everyone's relief", "In the meantime", "By all accounts",
    "On the other hand", "For the first time", "Strangely enough", "As a matter of habit", "In a letter to a friend",
    "Without much fuss", "Against all advice", "With some difficulty", "In the official report", "Years before that",
    "Not long afterwards",
]  # fmt: skip


class _SentenceWriter:
    """Writes sentences; uses no phrase twice before all of its kind have been used."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._decks: dict[str, list[str]] = {}

    def _draw(self, kind: str, phrases: list[str]) -> str:
        deck = self._decks.setdefault(kind, [])
        if not deck:
            deck.extend(phrases[int(i)] for i in self._rng.permutation(len(phrases)))
        return deck.pop()

    def _person(self) -> str:
        return f"the {self._draw('adjective', _ADJECTIVES)} {self._draw('person', _PEOPLE)}"

    def _object(self) -> str:
        return f"the {self._draw('adjective', _ADJECTIVES)} {self._draw('thing', _THINGS)}"

    def write(self) -> str:
        """A sentence of 12 to 40 words."""
        person, object_, number = self._person, self._object, int(self._rng.integers(3, 90))
        where, when = self._draw("where", _WHERE), self._draw("when", _WHEN)
        why, did, also = self._draw("why", _WHY), self._draw("did", _DID), self._draw("did", _DID)
        form = int(self._rng.integers(6))
        if form == 0:
            opening = self._draw("opening", _OPENINGS)
            text = f"{opening}, {person()} {did} {object_()} {where} {why}"
        elif form == 1:
            text = f"{when}, {person()} and {person()} {did} {object_()} {why}"
        elif form == 2:
            text = f"{object_()} that {person()} {did} {when} stood {where} with {object_()}"
        elif form == 3:
            objects = self._draw("thing", _THINGS) + "s"
            text = f"there were {number} such {objects} {where}, and {person()} {did} each of them {when}"
        elif form == 4:
            text = f"{person()} {did} {object_()} {when}, {why}, and then {also} {object_()} {where}"
        else:
            text = f"if {person()} had not {did} {object_()} {where}, {object_()} would have been lost {when}"
        return text[0].upper() + text[1:] + "."


def paragraph(rng: np.random.Generator, least: int = 70, most: int = 130) -> str:
    """English sentences of between `least` and about `most` words together; no two paragraphs are alike."""
    length = int(rng.integers(least, most))
    writer = _SentenceWriter(rng)
    sentences: list[str] = []
    while sum(len(sentence.split()) for sentence in sentences) < length:
        sentences.append(writer.write())
    return " ".join(sentences)


def foreign_flavoured(rng: np.random.Generator) -> str:
    """An English paragraph with names and phrases of other languages."""
    extra = [
        f"{pick(rng, NAMES)} of {pick(rng, CITIES)} {pick(rng, _DID)} a {pick(rng, _THINGS)}, {phrase}."
        for phrase in rng.permutation(FOREIGN_PHRASES)[:2]
    ]
    first, dot, rest = paragraph(rng, 70, 110).partition(". ")
    return f"{extra[0]} {first}{dot}{extra[1]} {rest}"


def nearly_same(text: str, rng: np.random.Generator) -> str:
    """The paragraph with one or two small edits: another word, other case and punctuation, or a shorter end."""
    words = text.split(" ")
    edit = int(rng.integers(3))
    if edit == 0:
        words[int(rng.integers(len(words) // 4))] = "somewhat"
    elif edit == 1:
        words = words[: -int(rng.integers(1, 4))]
    else:
        words = [word.upper() if rng.random() < 0.1 else word for word in words]
        words[-1] = words[-1].removesuffix(".") + "!"
        words[0] = "So " + words[0].lower()
    return " ".join(words)


def shares_a_sentence(text: str, rng: np.random.Generator) -> str:
    """Another paragraph that quotes one sentence of `text`."""
    quotation = text.split(". ")[0].removesuffix(".") + "."
    return f"{paragraph(rng, 60, 110)} {quotation}"


def poor_document(rng: np.random.Generator) -> tuple[str, str]:
    """(kind, text): a text that the quality filter must drop."""
    kind = ("symbols", "repetition", "short", "numbers")[int(rng.integers(4))]
    if kind == "symbols":
        symbols = [_symbols(rng) for _ in range(int(rng.integers(50, 90)))]
        return kind, f"{paragraph(rng, 30, 40)} {' '.join(symbols)}"
    if kind == "repetition":
        return kind, " ".join([_SentenceWriter(rng).write()] * 9)
    if kind == "short":
        return kind, f"The {pick(rng, _ADJECTIVES)} {pick(rng, _THINGS)} and the {pick(rng, _PEOPLE)}."
    figures = " ".join(f"{number:.3f}" for number in rng.uniform(0, 9999, int(rng.integers(60, 90))))
    return kind, f"{paragraph(rng, 30, 40)} {figures}"


def _symbols(rng: np.random.Generator) -> str:
    return "".join("#@%&*{}<>|~^$=+"[int(i)] for i in rng.integers(0, 15, int(rng.integers(3, 9))))


def brief_document(rng: np.random.Generator) -> str:
    """A short English text with nothing wrong: some figures, a list, names in capitals."""
    head = f"The {pick(rng, _PEOPLE)} of the BBC and the {pick(rng, _PEOPLE)} of NASA met {pick(rng, _WHERE)}."
    return f"{head} {paragraph(rng, 48, 62)}"


def other_document(language: str, rng: np.random.Generator) -> str:
    """Some sentences about pictures in another language."""
    sentences, *word_lists = TRANSLATIONS[language]
    shapes, colours, tints = (words.split("|") for words in word_lists)
    texts = [
        sentences[int(rng.integers(len(sentences)))].format(
            s=pick(rng, shapes), c=pick(rng, colours), t=pick(rng, tints)
        )
        for _ in range(int(rng.integers(5, 8)))
    ]
    return ("" if language == "ja" else " ").join(texts)
