import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from annotators.language import Language, LanguageSettings
from filters.language import LanguageFilter

ENGLISH = """\
a dog
red car
two cats sleeping
a man in a hat
a bird on a branch
A DOG RUNS ACROSS THE FIELD
NASA and ESA launch the JWST from Kourou
a plate of sushi and ramen at a Kyoto izakaya
the crème brûlée arrives at the table with a silver spoon
a couple dancing tango in a Buenos Aires milonga
a barista pours a caffè latte in a Milano café
a bowl of phở with bánh mì on a wooden table
the señorita in a red flamenco dress spins on the plaza
tourists ride a gondola under the Ponte di Rialto in Venezia
croissants and pain au chocolat in a Paris boulangerie window
a VW Käfer parked on the Königsallee in Düsseldorf
a glass of Gewürztraminer next to Camembert cheese
a schnauzer wearing lederhosen at the Oktoberfest
a carnival float passes the Sambódromo in Rio de Janeiro
the Aufguss ceremony inside a Finnish sauna
the Louvre at night""".splitlines()

FOREIGN = """\
Ein Hund läuft über die Wiese
Ein rotes Auto
Un chien court dans le champ
Un chat noir
Un perro corre por el campo
Dos niños juegan en la playa
Un cane corre nel campo
Um cão corre no campo
Een hond rent over het veld
Pies biegnie po łące
Собака бежит по полю
Черный кот
犬が公園を走っている
黒い猫
一只狗在草地上奔跑
개가 공원에서 달리고 있다
كلب يركض في الحديقة
Bir köpek parkta koşuyor
En hund springer över fältet
Koira juoksee pellolla
Σκύλος τρέχει στο πάρκο
कुत्ता मैदान में दौड़ रहा है
สุนัขวิ่งในสวน
כלב רץ בפארק
Mann mit Hut""".splitlines()


def measure(texts: list[str | None]) -> pa.Table:
    chunk = pa.table({"key": [str(i) for i in range(len(texts))], "clean.text": pa.array(texts, pa.string())})
    answer = Language(LanguageSettings()).measure(chunk, [None] * len(texts))
    assert answer.schema == Language.schema()
    assert answer["error"].null_count == len(texts)
    return answer


def kept(texts: list[str]) -> list[bool]:
    answer = measure(list(texts))
    signals = pa.table({f"language.{name}": answer[name] for name in Language.columns})
    return LanguageFilter().judge(signals).passed.tolist()


def test_english_stays_with_its_foreign_words() -> None:
    assert [text for text, keep in zip(ENGLISH, kept(ENGLISH), strict=True) if not keep] == []


def test_other_languages_are_dropped_even_when_short() -> None:
    assert [text for text, keep in zip(FOREIGN, kept(FOREIGN), strict=True) if keep] == []


def test_case_does_not_matter_and_rows_do_not_depend_on_each_other() -> None:
    texts = ["A DOG RUNS", "a dog runs", "Ein Hund", ""]
    whole = measure(list(texts)).to_pylist()
    assert whole[0] == whole[1]
    assert [measure([text]).to_pylist()[0] for text in texts] == whole


def test_letters_scripts_and_documents() -> None:
    rows = measure(["a dog\nruns 12!", "Собака a", None, "犬"]).to_pylist()
    assert [row["letters"] for row in rows] == [8, 7, 0, 1]
    assert [row["latin"] for row in rows] == [8, 1, 0, 0]
    long = measure(["The cat sat on the mat. " * 200 + "и " * 10_000]).to_pylist()[0]
    assert long["label"] == "en"
    assert long["letters"] <= 2_000
    assert long["english_share"] == pytest.approx(1 / 3, abs=0.01)


def test_fingerprint_inputs_pin_the_weights() -> None:
    maker = Language(LanguageSettings()).fingerprint_inputs()
    assert maker["model"] == "8f3472cfe8738a7b6099e8e999c3cbfae0dcd15696aac7d7738a8039db603e83"


@pytest.mark.skipif("REELMILL_CORPUS" not in os.environ, reason="REELMILL_CORPUS is not set")
def test_real_captions() -> None:
    text = Path(os.environ["REELMILL_CORPUS"]) / "text"
    rows = [json.loads(line) for line in (text / "captions_multi30k_train2200.jsonl").read_text("utf-8").splitlines()]
    keep = kept([row["text"] for row in rows])
    english = [k for row, k in zip(rows, keep, strict=True) if row["lang"] == "en"]
    foreign = [k for row, k in zip(rows, keep, strict=True) if row["lang"] != "en"]
    assert len(english) >= 2000 and len(foreign) >= 6000
    assert sum(english) / len(english) >= 0.999
    assert sum(foreign) / len(foreign) <= 0.001
