"""Words for the demo's world: good captions in many dresses, and every kind of bad one.

Everything is a function of a scene and a generator. The good styles are also what the demo's own alignment model
trains on (with scenes of the other split), so that a place name or an acronym is no strange thing to it.
"""

from __future__ import annotations

import numpy as np

from pipelines.demo.scenes import COLOURS, SHAPES, TINTS, VARIANTS, DemoScene

#: Good captions: as the scene tells it; with names; with words of other languages; with capitals; brief; with a place.
STYLES = ("plain", "named", "foreign_words", "capitals", "brief", "placed")

NAMES = (
    "Anna Kowalska", "Jürgen Müller", "Yuki Tanaka", "Chloé Dubois", "José García", "Nguyễn Minh", "Ingrid Sørensen",
    "Fatima al-Rashid", "Giovanni Rossi", "Ana Gonçalves", "Olga Petrova", "Łukasz Nowak", "Björn Åkesson",
)  # fmt: skip
CITIES = (
    "Lisbon", "Kraków", "São Paulo", "Kyoto", "Marrakesh", "Reykjavík", "Buenos Aires", "Ljubljana", "Zürich", "Hanoi",
    "Tromsø", "Valparaíso",
)  # fmt: skip
_FOREIGN = (
    "the kind of thing that has a certain je ne sais quoi",
    "as bright as a piñata at a fiesta",
    "with the wanderlust of a true Weltenbummler",
    "which the makers call their pièce de résistance",
    "in the spirit of la dolce vita",
    "and everyone in the café said olé",
    "made with the patience of ikebana and origami",
    "a little déjà vu for those who know the Jardin du Luxembourg",
    "with all the hygge of a Danish winter",
    "and the Zeitgeist of the old Kunsthalle",
)
_CAPITALS = (
    "from the NASA archive in the USA",
    "as shown by the BBC and ITV in the UK",
    "made for UNESCO and UNICEF",
    "with a JPEG of it kept by the ESA",
    "found in the IKEA catalogue",
    "on a DVD from the NHK library",
    "for the FIFA museum",
    "filmed for the MIT and UCLA students",
)
#: Places that hardly occur twice: the long tail of the n-grams.
PLACES = (
    "Zanzibar", "Timbuktu", "Samarkand", "Ushuaia", "Antananarivo", "Kathmandu", "Vladivostok", "Ouagadougou", "Nuuk",
    "Paramaribo", "Bratislava", "Tallinn", "Asmara", "Bishkek", "Cartagena", "Dunedin", "Esfahan", "Fairbanks",
    "Galway", "Hobart", "Innsbruck", "Jaipur", "Kigali", "Lhasa", "Mombasa", "Nairobi", "Odessa", "Palermo", "Quito",
    "Rotorua", "Salzburg", "Tbilisi", "Uppsala", "Valletta", "Windhoek", "Yerevan", "Zagreb", "Aarhus", "Bergen",
)  # fmt: skip


def good_caption(
    scene: DemoScene,
    style: str = "plain",
    rng: np.random.Generator | None = None,
    *,
    still: bool = False,
    place: str = "",
) -> str:
    """A true English caption of the scene in one of `STYLES`; `rng` chooses among the wordings (None: the first).

    `place` is for style "placed"; without one it is drawn. Always names every subject's colour and shape and the tint.
    Raises ValueError for an unknown style.
    """
    rng = rng or np.random.default_rng(0)
    said = scene.describe(int(rng.integers(VARIANTS)), still).removesuffix(".")
    if style == "plain":
        return said + "."
    if style == "named":
        made = "photographed" if still else "filmed"
        return f"{said}, {made} by {_pick(rng, NAMES)} in {_pick(rng, CITIES)}."
    if style == "foreign_words":
        return f"{said}, {_pick(rng, _FOREIGN)}."
    if style == "capitals":
        return f"{said}, {_pick(rng, _CAPITALS)}."
    if style == "placed":
        return f"{said}, seen on the way to {place or _pick(rng, PLACES)}."
    if style == "brief":
        things = " and ".join(f"{s.colour} {s.noun}" for s in scene.subjects)
        form = ("{} on a {} photo", "The {} over a {} backdrop", "A picture of the {} on {}")[int(rng.integers(3))]
        text = form.format(things, scene.tint)
        return text[0].upper() + text[1:] + "."
    raise ValueError(f"unknown caption style {style!r}: one of {', '.join(STYLES)}")


def shouted(caption: str, rng: np.random.Generator) -> str:
    """The caption as a shop window would say it: in capitals."""
    end = ("!!!", "!", " - CLICK NOW!", " WOW!!")[int(rng.integers(4))]
    return caption.removesuffix(".").upper() + end


def too_short(scene: DemoScene, rng: np.random.Generator) -> str:
    """What is left of a caption in collections that nobody described: a word or two."""
    first = scene.subjects[0]
    choices = (
        first.colour.capitalize(),
        f"nice {first.shape}",
        "pic",
        "Untitled",
        "a",
        "clip",
        "my video",
        "New photo",
    )
    return choices[int(rng.integers(len(choices)))]


def vocabulary() -> list[str]:
    """N-grams to resample by, sorted: what is shown, in which light, and the places."""
    things = [f"{c} {s}" for c in COLOURS for s in SHAPES]
    textured = [f"{t} {s}" for t in ("striped", "spotted") for s in SHAPES]
    light = [f"{t} {word}" for t in TINTS for word in ("tones", "photograph", "cast", "backdrop")]
    return sorted({*things, *textured, *light, *(p.lower() for p in PLACES), *(c.lower() for c in CITIES)})


# ---------------------------------------------------------------- other languages

#: language -> (sentences, shapes in the order of SHAPES, colours in the order of COLOURS, tints in the order of TINTS).
_OTHER: dict[str, tuple[tuple[str, ...], str, str, str]] = {
    "de": (
        (
            "Auf diesem Bild sieht man {s} in der Farbe {c}, und im Hintergrund liegt ein Foto in {t} Tönen.",
            "Hier bewegt sich {s}, ganz in {c}, langsam vor einem Foto, das sehr {t} wirkt.",
        ),
        "einen Ball|einen Stern|ein Herz|einen Luftballon|einen Fisch|ein Boot|einen Drachen|eine Blume|"
        "ein Haus|einen Schmetterling|ein Auto",
        "rot|orange|gelb|grün|blau|violett|rosa|weiß|schwarz",
        "natürlich|grau|bräunlich|bläulich|grünlich|rosig|dunkel|blass",
    ),
    "fr": (
        (
            "Sur cette image on voit {s} de couleur {c} devant une photographie aux tons {t}.",
            "Il y a {s}, entièrement {c}, qui se déplace lentement devant une photo plutôt {t}.",
        ),
        "un ballon|une étoile|un cœur|une montgolfière|un poisson|un bateau|un cerf-volant|une fleur|"
        "une maison|un papillon|une voiture",
        "rouge|orange|jaune|verte|bleue|violette|rose|blanche|noire",
        "naturels|gris|sépia|bleus|verts|rosés|sombres|pâles",
    ),
    "es": (
        (
            "En esta imagen se ve {s} de color {c} delante de una fotografía en tonos {t}.",
            "Aquí hay {s}, todo de color {c}, que se mueve despacio sobre una foto de tonos {t}.",
        ),
        "una pelota|una estrella|un corazón|un globo|un pez|un barco|una cometa|una flor|una casa|"
        "una mariposa|un coche",
        "rojo|naranja|amarillo|verde|azul|morado|rosado|blanco|negro",
        "naturales|grises|sepia|azules|verdes|rosados|oscuros|pálidos",
    ),
    "it": (
        (
            "In questa immagine si vede {s} di colore {c} davanti a una fotografia dai toni {t}.",
            "Qui c'è {s}, di colore {c}, che si muove lentamente sopra una foto dai toni {t}.",
        ),
        "una palla|una stella|un cuore|un palloncino|un pesce|una barca|un aquilone|un fiore|una casa|"
        "una farfalla|una macchina",
        "rosso|arancione|giallo|verde|blu|viola|rosa|bianco|nero",
        "naturali|grigi|seppia|azzurri|verdi|rosati|scuri|pallidi",
    ),
    "pt": (
        (
            "Nesta imagem vê-se {s} de cor {c} à frente de uma fotografia em tons {t}.",
            "Aqui está {s}, de cor {c}, que se move devagar sobre uma fotografia de tons {t}.",
        ),
        "uma bola|uma estrela|um coração|um balão|um peixe|um barco|um papagaio|uma flor|uma casa|"
        "uma borboleta|um carro",
        "vermelha|laranja|amarela|verde|azul|roxa|rosa|branca|preta",
        "naturais|cinzentos|sépia|azuis|verdes|rosados|escuros|pálidos",
    ),
    "nl": (
        (
            "Op deze afbeelding zie je {s} in de kleur {c} voor een foto met {t} tinten.",
            "Hier beweegt {s}, helemaal {c}, langzaam over een foto met {t} tinten.",
        ),
        "een bal|een ster|een hart|een luchtballon|een vis|een boot|een vlieger|een bloem|een huis|"
        "een vlinder|een auto",
        "rood|oranje|geel|groen|blauw|paars|roze|wit|zwart",
        "natuurlijke|grijze|bruine|blauwe|groene|roze|donkere|bleke",
    ),
    "pl": (
        (
            "Na tym obrazku widać {s} w kolorze {c} na tle zdjęcia w odcieniach {t}.",
            "Tutaj jest {s}, cały w kolorze {c}, który powoli przesuwa się nad zdjęciem o tonach {t}.",
        ),
        "piłkę|gwiazdę|serce|balon|rybę|łódkę|latawiec|kwiat|dom|motyla|samochód",
        "czerwonym|pomarańczowym|żółtym|zielonym|niebieskim|fioletowym|różowym|białym|czarnym",
        "naturalnych|szarych|brązowych|niebieskich|zielonych|różowych|ciemnych|bladych",
    ),
    "ru": (
        (
            "На этой картинке виден {s}, цвет {c}, на фоне фотографии в тонах: {t}.",
            "Здесь медленно движется {s}, цвет {c}, а за ним фотография, оттенок {t}.",
        ),
        "мяч|звёздный узор|сердечный знак|воздушный шар|рыбный силуэт|корабль|змей|цветок|дом|мотылёк|автомобиль",
        "красный|оранжевый|жёлтый|зелёный|синий|фиолетовый|розовый|белый|чёрный",
        "естественный|серый|коричневый|голубой|зелёный|розовый|тёмный|бледный",
    ),
    "tr": (
        (
            "Bu resimde {t} tonlarda bir fotoğrafın önünde {c} renkli bir {s} görülüyor.",
            "Burada {c} renkli bir {s}, {t} tonlardaki fotoğrafın üzerinde yavaşça hareket ediyor.",
        ),
        "top|yıldız|kalp|balon|balık|tekne|uçurtma|çiçek|ev|kelebek|araba",
        "kırmızı|turuncu|sarı|yeşil|mavi|mor|pembe|beyaz|siyah",
        "doğal|gri|kahverengi|mavi|yeşil|pembe|koyu|soluk",
    ),
    "ja": (
        (
            "この画像には{t}色合いの写真の前に{c}の{s}が写っています。",
            "ここでは{c}の{s}が{t}写真の上をゆっくりと動いています。",
        ),
        "ボール|星|ハート|風船|魚|船|凧|花|家|蝶|車",
        "赤色|橙色|黄色|緑色|青色|紫色|桃色|白色|黒色",
        "自然な|灰色の|茶色の|青い|緑の|ばら色の|暗い|淡い",
    ),
}  # fmt: skip
LANGUAGES = tuple(_OTHER)


def other_language(scene: DemoScene, language: str, rng: np.random.Generator) -> str:
    """What is seen, in another language (one of `LANGUAGES`): its first subject, colour and tint."""
    sentences, shapes, colours, tints = _OTHER[language]
    first = scene.subjects[0]
    words = {
        "s": shapes.split("|")[SHAPES.index(first.shape)],
        "c": colours.split("|")[list(COLOURS).index(first.colour)],
        "t": tints.split("|")[TINTS.index(scene.tint)],
    }
    return sentences[int(rng.integers(len(sentences)))].format(**words)


def other_document(language: str, rng: np.random.Generator) -> str:
    """Some sentences about pictures in another language."""
    sentences, shapes, colours, tints = (
        part if isinstance(part, tuple) else part.split("|") for part in _OTHER[language]
    )
    said = [
        sentences[int(rng.integers(len(sentences)))].format(
            s=_pick(rng, shapes), c=_pick(rng, colours), t=_pick(rng, tints)
        )
        for _ in range(int(rng.integers(5, 8)))
    ]
    return ("" if language == "ja" else " ").join(said)


# ---------------------------------------------------------------- documents

_ADJECTIVES = [
    "patient",
    "narrow",
    "weathered",
    "bright",
    "reluctant",
    "hollow",
    "generous",
    "crooked",
    "distant",
    "polished",
    "hurried",
    "stubborn",
    "gentle",
    "dusty",
    "curious",
    "heavy",
    "silent",
    "copper",
    "woollen",
    "fragile",
    "ambitious",
    "frozen",
    "spotless",
    "tired",
    "clever",
    "remote",
    "ordinary",
    "painted",
    "broken",
    "borrowed",
    "enormous",
    "restless",
    "salty",
    "practical",
    "forgotten",
    "local",
    "modest",
    "shallow",
    "wooden",
    "electric",
]
_PEOPLE = [
    "baker",
    "surveyor",
    "librarian",
    "fisherman",
    "clockmaker",
    "teacher",
    "gardener",
    "pilot",
    "carpenter",
    "nurse",
    "archivist",
    "beekeeper",
    "tailor",
    "engineer",
    "ferryman",
    "painter",
    "geologist",
    "postman",
    "violinist",
    "translator",
    "mechanic",
    "astronomer",
    "shepherd",
    "glazier",
    "printer",
    "cook",
    "botanist",
    "mason",
    "porter",
    "diver",
    "judge",
    "weaver",
    "cyclist",
    "locksmith",
    "musician",
    "farmer",
    "student",
    "plumber",
    "captain",
    "journalist",
]
_THINGS = [
    "lantern",
    "ledger",
    "bridge",
    "kettle",
    "telescope",
    "orchard",
    "harbour",
    "notebook",
    "bicycle",
    "staircase",
    "spade",
    "quilt",
    "engine",
    "window",
    "garden",
    "map",
    "radio",
    "ladder",
    "barrel",
    "workshop",
    "cabinet",
    "signal",
    "fountain",
    "envelope",
    "hammer",
    "canal",
    "mirror",
    "anvil",
    "saddle",
    "greenhouse",
    "recipe",
    "chimney",
    "photograph",
    "pump",
    "violin",
    "tunnel",
    "basket",
    "camera",
    "market",
    "cellar",
]
_DID = [
    "repaired",
    "measured",
    "carried",
    "described",
    "abandoned",
    "painted",
    "counted",
    "examined",
    "borrowed",
    "sold",
    "rebuilt",
    "polished",
    "followed",
    "sketched",
    "opened",
    "copied",
    "remembered",
    "cleaned",
    "inspected",
    "weighed",
    "moved",
    "collected",
    "designed",
    "ignored",
    "admired",
    "rented",
    "photographed",
    "replaced",
    "compared",
    "restored",
]
_WHERE = [
    "behind the railway station",
    "beside the old mill",
    "near the northern gate",
    "on the far side of the river",
    "in a rented room above the bakery",
    "under the stone arches",
    "at the edge of the marsh",
    "along the coastal road",
    "inside the empty theatre",
    "opposite the town hall",
    "at the top of the hill",
    "between two rows of poplars",
    "on the lower deck",
    "in the back of the museum",
    "outside the village school",
    "by the lighthouse",
    "across the frozen lake",
    "in the shade of a walnut tree",
    "at the third platform",
    "below the observatory",
]
_WHEN = [
    "in the last week of March",
    "before the first snow",
    "on a quiet Tuesday",
    "after the long drought",
    "just before dawn",
    "during the harvest",
    "some years later",
    "at the end of the season",
    "while the ferries were still running",
    "on the second evening",
    "a month after the flood",
    "early in the morning",
    "throughout that summer",
    "shortly after lunch",
    "when the lamps were lit",
    "during the night shift",
    "in the autumn of that year",
    "as soon as the road dried",
    "over the holidays",
    "one week too late",
]
_WHY = [
    "because nobody else had the time",
    "although the price had doubled",
    "so that the children could see it",
    "which surprised the neighbours",
    "and it took most of the afternoon",
    "since the older one had rusted through",
    "in spite of the noise",
    "to save a few coins",
    "for reasons that were never written down",
    "without asking for permission",
    "as the contract required",
    "and wrote to the council about it",
    "while the others argued about money",
    "even though rain was expected",
    "in order to finish before winter",
    "with help from two cousins",
    "until the light failed",
    "and was thanked with a basket of pears",
    "despite a broken wrist",
    "as carefully as a surgeon",
]
_OPENINGS = [
    "According to the diary",
    "As far as anyone knows",
    "To everyone's relief",
    "In the meantime",
    "By all accounts",
    "On the other hand",
    "For the first time",
    "Strangely enough",
    "As a matter of habit",
    "In a letter to a friend",
    "Without much fuss",
    "Against all advice",
    "With some difficulty",
    "In the official report",
    "Years before that",
    "Not long afterwards",
]


class _Writer:
    """Writes sentences; says no phrase twice before all of its kind have been said."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._decks: dict[str, list[str]] = {}

    def _one(self, kind: str, words: list[str]) -> str:
        deck = self._decks.setdefault(kind, [])
        if not deck:
            deck.extend(words[int(i)] for i in self._rng.permutation(len(words)))
        return deck.pop()

    def _person(self) -> str:
        return f"the {self._one('adjective', _ADJECTIVES)} {self._one('person', _PEOPLE)}"

    def _thing(self) -> str:
        return f"the {self._one('adjective', _ADJECTIVES)} {self._one('thing', _THINGS)}"

    def sentence(self) -> str:
        """12 to 40 words."""
        person, thing, number = self._person, self._thing, int(self._rng.integers(3, 90))
        where, when = self._one("where", _WHERE), self._one("when", _WHEN)
        why, did, also = self._one("why", _WHY), self._one("did", _DID), self._one("did", _DID)
        form = int(self._rng.integers(6))
        if form == 0:
            opening = self._one("opening", _OPENINGS)
            text = f"{opening}, {person()} {did} {thing()} {where} {why}"
        elif form == 1:
            text = f"{when}, {person()} and {person()} {did} {thing()} {why}"
        elif form == 2:
            text = f"{thing()} that {person()} {did} {when} stood {where} with {thing()}"
        elif form == 3:
            things = self._one("thing", _THINGS) + "s"
            text = f"there were {number} such {things} {where}, and {person()} {did} each of them {when}"
        elif form == 4:
            text = f"{person()} {did} {thing()} {when}, {why}, and then {also} {thing()} {where}"
        else:
            text = f"if {person()} had not {did} {thing()} {where}, {thing()} would have been lost {when}"
        return text[0].upper() + text[1:] + "."


def paragraph(rng: np.random.Generator, least: int = 70, most: int = 130) -> str:
    """English sentences of between `least` and about `most` words together; no two paragraphs are alike."""
    wanted = int(rng.integers(least, most))
    writer = _Writer(rng)
    said: list[str] = []
    while sum(len(s.split()) for s in said) < wanted:
        said.append(writer.sentence())
    return " ".join(said)


def foreign_flavoured(rng: np.random.Generator) -> str:
    """An English paragraph with names and phrases of other languages."""
    extra = [
        f"{_pick(rng, NAMES)} of {_pick(rng, CITIES)} {_pick(rng, _DID)} a {_pick(rng, _THINGS)}, {phrase}."
        for phrase in rng.permutation(_FOREIGN)[:2]
    ]
    said = paragraph(rng, 70, 110)
    first, dot, rest = said.partition(". ")
    return f"{extra[0]} {first}{dot}{extra[1]} {rest}"


def nearly_same(text: str, rng: np.random.Generator) -> str:
    """The paragraph with one or two small edits: another word, other case and punctuation, a word less at its end."""
    words = text.split(" ")
    kind = int(rng.integers(3))
    if kind == 0:
        words[int(rng.integers(len(words) // 4))] = "somewhat"
    elif kind == 1:
        words = words[: -int(rng.integers(1, 4))]
    else:
        words = [w.upper() if rng.random() < 0.1 else w for w in words]
        words[-1] = words[-1].removesuffix(".") + "!"
        words[0] = "So " + words[0].lower()
    return " ".join(words)


def shares_a_sentence(text: str, rng: np.random.Generator) -> str:
    """Another paragraph that quotes one sentence of `text`."""
    quoted = text.split(". ")[0].removesuffix(".") + "."
    return f"{paragraph(rng, 60, 110)} {quoted}"


def poor_document(rng: np.random.Generator) -> tuple[str, str]:
    """(kind, text): a text that no quality rule should let through."""
    kind = ("symbols", "repetition", "short", "numbers")[int(rng.integers(4))]
    if kind == "symbols":
        soup = [_soup(rng) for _ in range(int(rng.integers(50, 90)))]
        return kind, f"{paragraph(rng, 30, 40)} {' '.join(soup)}"
    if kind == "repetition":
        return kind, " ".join([_Writer(rng).sentence()] * 9)
    if kind == "short":
        return kind, f"The {_pick(rng, _ADJECTIVES)} {_pick(rng, _THINGS)} and the {_pick(rng, _PEOPLE)}."
    figures = " ".join(f"{v:.3f}" for v in rng.uniform(0, 9999, int(rng.integers(60, 90))))
    return kind, f"{paragraph(rng, 30, 40)} {figures}"


def _soup(rng: np.random.Generator) -> str:
    return "".join("#@%&*{}<>|~^$=+"[int(i)] for i in rng.integers(0, 15, int(rng.integers(3, 9))))


def brief_document(rng: np.random.Generator) -> str:
    """A short English text with nothing wrong: some figures, a list, names in capitals."""
    head = f"The {_pick(rng, _PEOPLE)} of the BBC and the {_pick(rng, _PEOPLE)} of NASA met {_pick(rng, _WHERE)}."
    return f"{head} {paragraph(rng, 48, 62)}"


def _pick(rng: np.random.Generator, words: tuple[str, ...] | list[str]) -> str:
    return words[int(rng.integers(len(words)))]
