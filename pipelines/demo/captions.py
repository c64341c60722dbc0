"""Captions for the demo's world: good ones in several styles, poor ones, and ones in other languages.

Every caption is a function of a scene and a generator. The good styles are also what the demo's own alignment model
trains on (with scenes of the other split), so that place names and acronyms are not unusual to it.
"""

from __future__ import annotations

import numpy as np

from pipelines.demo.scenes import COLOURS, SHAPES, TINTS, VARIANTS, DemoScene

#: Styles of good captions: the scene's own words; with names; with foreign phrases; with acronyms; brief; with a place.
STYLES = ("plain", "named", "foreign_words", "capitals", "brief", "placed")

NAMES = (
    "Anna Kowalska", "Jürgen Müller", "Yuki Tanaka", "Chloé Dubois", "José García", "Nguyễn Minh", "Ingrid Sørensen",
    "Fatima al-Rashid", "Giovanni Rossi", "Ana Gonçalves", "Olga Petrova", "Łukasz Nowak", "Björn Åkesson",
)  # fmt: skip
CITIES = (
    "Lisbon", "Kraków", "São Paulo", "Kyoto", "Marrakesh", "Reykjavík", "Buenos Aires", "Ljubljana", "Zürich", "Hanoi",
    "Tromsø", "Valparaíso",
)  # fmt: skip
FOREIGN_PHRASES = (
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
ACRONYM_PHRASES = (
    "from the NASA archive in the USA",
    "as shown by the BBC and ITV in the UK",
    "made for UNESCO and UNICEF",
    "with a JPEG of it kept by the ESA",
    "found in the IKEA catalogue",
    "on a DVD from the NHK library",
    "for the FIFA museum",
    "filmed for the MIT and UCLA students",
)
#: Places that rarely occur twice: the long tail of the n-grams.
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
    town: str = "",
) -> str:
    """A true English caption of the scene in one of `STYLES`; `rng` chooses among the wordings (None: the first).

    town: for style "placed"; by default drawn. A caption always names every subject's colour and shape and the tint.
    Raises ValueError for an unknown style.
    """
    rng = rng or np.random.default_rng(0)
    description = scene.describe(int(rng.integers(VARIANTS)), still).removesuffix(".")
    if style == "plain":
        return description + "."
    if style == "named":
        verb = "photographed" if still else "filmed"
        return f"{description}, {verb} by {pick(rng, NAMES)} in {pick(rng, CITIES)}."
    if style == "foreign_words":
        return f"{description}, {pick(rng, FOREIGN_PHRASES)}."
    if style == "capitals":
        return f"{description}, {pick(rng, ACRONYM_PHRASES)}."
    if style == "placed":
        return f"{description}, seen on the way to {town or pick(rng, PLACES)}."
    if style == "brief":
        subjects = " and ".join(f"{s.colour} {s.noun}" for s in scene.subjects)
        form = ("{} on a {} photo", "The {} over a {} backdrop", "A picture of the {} on {}")[int(rng.integers(3))]
        text = form.format(subjects, scene.tint)
        return text[0].upper() + text[1:] + "."
    raise ValueError(f"unknown caption style {style!r}: one of {', '.join(STYLES)}")


def in_capitals(caption: str, rng: np.random.Generator) -> str:
    """The caption in capitals throughout, as some people write: clean-up repairs it."""
    return caption.removesuffix(".").upper() + ("", ".", "!")[int(rng.integers(3))]


def shouted(caption: str, rng: np.random.Generator) -> str:
    """The caption with its first words in capitals, 60 to 75 % of its letters, and an exclamation: an advertisement,
    which clean-up leaves as it is, because the rest is in ordinary case."""
    words = caption.removesuffix(".").split()
    share = rng.uniform(0.6, 0.75) * sum(map(len, words))
    loud = next(n for n in range(len(words)) if sum(map(len, words[: n + 1])) > share)
    end = ("!!!", "!", " - click now!", " wow!!")[int(rng.integers(4))]
    return " ".join([word.upper() for word in words[:loud]] + words[loud:]) + end


def too_short(scene: DemoScene, rng: np.random.Generator) -> str:
    """A caption of a word or two, as in collections that nobody described."""
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
    """N-grams for resampling, sorted: subjects, tints and places."""
    subjects = [f"{c} {s}" for c in COLOURS for s in SHAPES]
    textured = [f"{t} {s}" for t in ("striped", "spotted") for s in SHAPES]
    light = [f"{t} {word}" for t in TINTS for word in ("tones", "photograph", "cast", "backdrop")]
    return sorted({*subjects, *textured, *light, *(p.lower() for p in PLACES), *(c.lower() for c in CITIES)})


# -- other languages --------------------------------------------------------------------------------------------------

#: language -> (sentences, shapes, colours, tints), in the order of SHAPES, COLOURS and TINTS.
TRANSLATIONS: dict[str, tuple[tuple[str, ...], str, str, str]] = {
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
LANGUAGES = tuple(TRANSLATIONS)


def other_language(scene: DemoScene, language: str, rng: np.random.Generator) -> str:
    """A caption in another language (one of `LANGUAGES`): the first subject, its colour, and the tint."""
    sentences, shapes, colours, tints = TRANSLATIONS[language]
    first = scene.subjects[0]
    words = {
        "s": shapes.split("|")[SHAPES.index(first.shape)],
        "c": colours.split("|")[list(COLOURS).index(first.colour)],
        "t": tints.split("|")[TINTS.index(scene.tint)],
    }
    return sentences[int(rng.integers(len(sentences)))].format(**words)


def pick(rng: np.random.Generator, words: tuple[str, ...] | list[str]) -> str:
    """One of the words, drawn at random."""
    return words[int(rng.integers(len(words)))]
