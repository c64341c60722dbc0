"""Fingerprints of text documents: an exact hash of the normalised words, and a MinHash signature for near duplicates
(Broder 1997; rensa's permutations)."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import Field

from annotators import text as words
from annotators.interface import Annotator, Column
from infra.config import Strict
from infra.media.interface import DecodedMedia

_WORD = re.compile(r"[^\W_]+")


class MinHashSettings(Strict):
    """num_perm: numbers in a signature; ngram: words in a shingle; seed: of the permutations (all ours; 128 and 5 are
    common)."""

    num_perm: int = Field(default=128, ge=8, le=4096)
    ngram: int = Field(default=5, ge=1)
    seed: int = Field(default=1, ge=0, lt=2**64)


class MinHash(Annotator):
    """Hashes of a document. A text shorter than one n-gram is one shingle, so it is similar to its copies only. A text
    without words is hashed unchanged, so that "!!!" and "???" are not duplicates."""

    name = "minhash"
    keyed_by = "text"
    input = "text"
    modalities = frozenset({"text"})
    depends_on = ("clean.text",)
    columns: ClassVar[Mapping[str, Column]] = {
        "exact": Column(
            pa.binary(16),
            "blake2b-128 of the normalised text (NFKC, case-folded, words joined by one blank): equal for texts that "
            "differ in case, punctuation and spacing only",
        ),
        "signature": Column(
            pa.binary(),
            "`num_perm` uint32, little-endian; the share of equal values estimates the Jaccard similarity of the sets "
            "of word n-grams of two texts",
        ),
        "words": Column(pa.int32(), "words of the normalised text"),
    }
    store_only = frozenset({"signature"})
    settings: MinHashSettings

    def fingerprint_inputs(self) -> Mapping[str, object]:
        import rensa

        return {**self.settings.model_dump(), "rensa_algorithm": int(rensa.RMinHash.ALGORITHM_VERSION)}

    def measure(self, chunk: pa.Table, media: Sequence[DecodedMedia | None]) -> pa.Table:
        texts = words.strings(chunk["clean.text"])
        text_words = [normalise_words(text) for text in texts]
        exact = [
            hashlib.blake2b((" ".join(w) if w else t).encode(), digest_size=16).digest()
            for w, t in zip(text_words, texts, strict=True)
        ]
        shingled = [shingles(w, self.settings.ngram) or [t] for w, t in zip(text_words, texts, strict=True)]
        signature = [row.tobytes() for row in self._signatures(shingled)]
        values = {"exact": exact, "signature": signature, "words": [len(w) for w in text_words]}
        return self.table_of(values)

    def _signatures(self, shingled: list[list[str]]) -> np.ndarray[Any, np.dtype[np.uint32]]:
        import rensa

        if not shingled:
            return np.zeros((0, self.settings.num_perm), dtype="<u4")
        matrix = rensa.RMinHash.digest_matrix_from_token_sets(shingled, self.settings.num_perm, self.settings.seed)
        return np.array(matrix.to_rows(), dtype="<u4")


def normalise_words(text: str) -> list[str]:
    """Split `text` into words: runs of letters, digits and marks after NFKC and case folding."""
    return _WORD.findall(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))


def shingles(text_words: list[str], ngram: int) -> list[str]:
    """Return the word n-grams of a text, or all its words as one if it is shorter; [] without words."""
    if not text_words:
        return []
    return [" ".join(text_words[i : i + ngram]) for i in range(max(len(text_words) - ngram + 1, 1))]
