"""Captions: in rows, in JSON objects beside media, in conversations; one or several of a medium."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra import storage
from infra.config import Source
from infra.hashing import digest
from mixtures.reading import conversations
from pipelines.ingest.sources.interface import MAX_TEXT_BYTES
from pipelines.ingest.sources.storable import decode_text

#: Keys of the caption in a JSON object beside a medium, in order of precedence; `captions.text_column` comes before
#: them where the config sets it.
CAPTION_KEYS = ("caption", "text", "description", "title")


@dataclass(frozen=True)
class CaptionFiles:
    """The captions in the files of a sample. texts: those to use; unused: number of the others; fields: of its JSON."""

    texts: Sequence[str] = ()
    unused: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


def read_cell(fields: Mapping[str, Any], column: str) -> tuple[list[str], str | None]:
    """(texts, error) of a cell: a text, a list of texts of which blank ones do not count, or nothing."""
    cell = fields.get(column)
    texts = [text for text in (cell if isinstance(cell, list) else [cell]) if text is not None]
    if all(isinstance(text, str) for text in texts):
        return [text for text in texts if text.strip()] or texts[:1], None
    return [], f"broken row: the column {column!r} has something that is no text"


def read_texts(
    fields: Mapping[str, Any], columns: Sequence[str], modality: str, media: int = 1
) -> tuple[list[str], str | None]:
    """(texts, error) of a row or JSON object: of the first of `columns` that has any, otherwise of its conversation.

    media: how many the sample has, each of which needs a placeholder.
    """
    problem = None
    for column in columns:
        texts, fault = read_cell(fields, column)
        if texts:
            return texts, None
        problem = problem or fault
    turns = conversations.find_turns(fields)
    return ([], problem) if turns is None else read_conversation(turns, modality, media)


def read_conversation(turns: Sequence[Any], modality: str, media: int) -> tuple[list[str], str | None]:
    """([text], None) of the turns that will be trained on, ([], error) where none are sound."""
    sound, reason = conversations.read_turns(turns, modality, media)
    return ([conversations.join_turns(sound)], None) if sound else ([], f"broken conversation: {reason}")


def select_captions(source: Source, texts: Sequence[str], name: str) -> tuple[list[str], int]:
    """(captions of a medium to use, number of those that are not used), by `captions.many`; several only for `all`.
    name: of the medium."""
    if len(texts) < 2 or source.captions.many == "all":
        return list(texts), 0
    if source.captions.many == "join":
        return ["\n".join(texts)], 0
    number = draw_caption(source, len(texts), name) if source.captions.many == "random" else 0
    return [texts[number]], len(texts) - 1


def draw_caption(source: Source, count: int, name: str) -> int:
    """A number below `count`, drawn by a hash of seed, source and medium."""
    words = (str(source.captions.seed), source.name, name, "caption")
    return int.from_bytes(digest(*(word.encode() for word in words), size=8), "little") % count


def caption_columns(source: Source) -> tuple[str, ...]:
    """The keys of a JSON object beside a medium that may have its caption."""
    is_set = source.captions.text_column != "text"
    return (source.captions.text_column, *CAPTION_KEYS) if is_set else CAPTION_KEYS


def has_caption(fields: Mapping[str, Any]) -> bool:
    """Whether a JSON object has anything under a usual key of captions or conversations."""
    return any(fields.get(key) for key in (*CAPTION_KEYS, "captions", "conversations", "messages"))


def parse_object(raw: bytes) -> dict[str, Any] | None:
    """A JSON object; None if the bytes are anything else."""
    try:
        parsed = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def describe_read_error(fault: str, error: OSError) -> str:
    """The error of a sample of which a file cannot be read. fault: "unreadable WHAT", if it is one of the file itself;
    one of the environment, which the next run tries again, begins with "unavailable WHAT"."""
    if storage.is_environment_error(error):
        fault = fault.replace("unreadable", "unavailable")
    return f"{fault} {error.strerror or error}"


def read_sidecars(source: Source, root: str, name: str, paths: Sequence[str]) -> CaptionFiles:
    """The caption files of a medium or the file of a text. name: of the medium."""
    contents = []
    for path in paths:
        try:
            read = functools.partial(storage.read_bytes, storage.join(root, path), 0, MAX_TEXT_BYTES + 1)
            contents.append((path, storage.retry(read)))
        except OSError as error:
            return CaptionFiles(error=describe_read_error("unreadable caption:", error))
    return combine_captions(source, name, contents, caption_columns(source))


def combine_captions(
    source: Source, name: str, contents: Sequence[tuple[str, bytes]], columns: Sequence[str], media: int = 1
) -> CaptionFiles:
    """The captions in files of a sample; text takes precedence over JSON, which has further fields.

    name: of the medium. contents: (name, up to MAX_TEXT_BYTES + 1 bytes) of each file. columns: keys of the caption in
    JSON. media: how many the sample has.
    """
    texts: list[str] = []
    unused = 0
    fields: dict[str, Any] = {}
    for path, raw in sorted(contents, key=lambda file: (not file[0].lower().endswith(".json"), file[0])):
        if len(raw) > MAX_TEXT_BYTES:
            return CaptionFiles(fields=fields, error=f"too_large: {path} has over {MAX_TEXT_BYTES} bytes")
        if not path.lower().endswith(".json"):
            text, problem = decode_text(raw, source.encoding)
            if text is None:
                return CaptionFiles(fields=fields, error=problem)
            texts, unused = [text], 0
            continue
        parsed = parse_object(raw)
        if parsed is None:
            return CaptionFiles(error=f"unreadable caption: {path} is not a JSON object")
        fields = parsed
        every, problem = read_texts(fields, columns, source.modality, media)
        if problem and len(contents) == 1:
            return CaptionFiles(fields=fields, error=problem)
        texts, unused = select_captions(source, every, name)
    return CaptionFiles(texts, unused, fields)
