"""N-gram vocabularies: the file, and the one rule that splits entries and captions into words.

The file is MetaCLIP's: a JSON list of strings. An entry's id is its position in the list.

The rule. A space is put on both sides of each of , . ; : ? ! ` and the text is split at white space; with case "lower"
the words are then lower-cased. An entry occurs in a caption when its words appear there in a row. That is the same as
`entry in caption` after both have been written as their words with single spaces, and one space at each end. Splitting
at these signs, the spaces at the ends and document counts are MetaCLIP's (arXiv 2309.16671, its substring matching).
Ours: runs of any Unicode white space count as one space, so that a double space cannot hide "new  york"; entries go
through the same rule as captions, so that "U.S." can match at all; and case "lower" is the default, because a
shouted or a sentence-initial word is the same word. case "keep" is MetaCLIP's rule. Scripts written without spaces are
not segmented.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from infra import storage
from infra.errors import ConfigError

Case = Literal["lower", "keep"]

#: Signs that are words of their own.
SEPARATE = ",.;:?!`"

#: Ends each text in `split_texts`. A lone surrogate: no valid UTF-8 text contains it.
BREAK = "\ud800"

_SHAPE = 'a vocabulary is a JSON list of strings, for example ["dog", "new york"]; `reelmill vocab` makes one'


@dataclass(frozen=True)
class Vocabulary:
    """entries: as in the file; sha256: of the file's bytes, as hex."""

    entries: tuple[str, ...]
    sha256: str


def split_texts(texts: Iterable[str | None], case: Case) -> list[str]:
    """The words of all texts in a row, with BREAK after each text. None has no words.

    One pass of string methods over everything joined: the cost per text is a fraction of a microsecond.
    """
    joined = "".join([text + _END if text else _END for text in texts])
    for sign in SEPARATE:
        joined = joined.replace(sign, f" {sign} ")
    # Lower-casing comes last: a Greek sigma's form depends on its neighbours, which must be those within its word.
    return (joined.lower() if case == "lower" else joined).split()


_END = f" {BREAK} "


def split_words(text: str, case: Case) -> list[str]:
    """The words of one text."""
    return split_texts([text], case)[:-1]


def pad_words(text: str, case: Case) -> str:
    """`text` as its words with single spaces between them and one at each end.

    An entry that has words matches a caption when `pad_words(entry) in pad_words(caption)`.
    """
    return f" {' '.join(split_words(text, case))} "


def load(path: str | Path) -> Vocabulary:
    """Read and check a vocabulary: a JSON list, or a .txt file with one entry per line.

    Raises ConfigError, naming the file and the entry, when it cannot be read, is not a JSON list of strings, is empty,
    or contains an entry that is blank or cannot be written as UTF-8.
    """
    where = str(path)
    try:
        content = storage.read_bytes(where)
    except FileNotFoundError:
        raise ConfigError("no such vocabulary file", where=where, hint=_SHAPE) from None
    except OSError as error:
        raise ConfigError(f"cannot read the vocabulary: {error.strerror}", where=where) from None
    try:
        text = content.decode("utf-8-sig")
        lines = [line.strip() for line in text.splitlines()]
        entries = [line for line in lines if line] if where.endswith(".txt") else json.loads(text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"the vocabulary is not UTF-8 text: {error}", where=where, hint=_SHAPE) from None
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"the vocabulary is not JSON: {error.msg}", where=f"{where}:{error.lineno}", hint=_SHAPE
        ) from None
    except RecursionError:
        raise ConfigError("the vocabulary is nested too deeply", where=where, hint=_SHAPE) from None
    return Vocabulary(check(entries, where), hashlib.sha256(content).hexdigest())


def save(path: str | Path, entries: Sequence[str]) -> Vocabulary:
    """Write a vocabulary, one entry per line so that versions can be compared; equal entries give equal bytes.

    Raises ConfigError as `load` does, before anything is written. The file appears whole or not at all.
    """
    checked = check(list(entries), str(path))
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in checked)
    content = f"[\n{lines}\n]\n".encode()
    storage.write_bytes(str(path), content)
    return Vocabulary(checked, hashlib.sha256(content).hexdigest())


def check(entries: object, where: str) -> tuple[str, ...]:
    """`entries` as a tuple, if they are a usable vocabulary; ConfigError otherwise. Repeated entries are allowed:
    published lists contain some; of those with the same words the first matches."""
    if not isinstance(entries, list):
        raise ConfigError(
            f"the vocabulary must be a list, but is a JSON {_json_kind(entries)}", where=where, hint=_SHAPE
        )
    if not entries:
        raise ConfigError("the vocabulary is empty", where=where, hint=_SHAPE)
    for position, entry in enumerate(entries):
        if not isinstance(entry, str):
            raise ConfigError(f"entry {position} is a JSON {_json_kind(entry)}, not a string", where=where, hint=_SHAPE)
        if not entry or entry.isspace():
            raise ConfigError(f"entry {position} is blank", where=where, hint="remove it: it would be in every caption")
        if not entry.isascii() and any("\ud800" <= letter <= "\udfff" for letter in entry):
            raise ConfigError(f"entry {position} contains half a surrogate pair: {entry!a}", where=where)
    return tuple(entries)


def _json_kind(content: object) -> str:
    kinds = {type(None): "null", bool: "boolean", dict: "object", list: "list", str: "string"}
    return kinds.get(type(content), "number")
