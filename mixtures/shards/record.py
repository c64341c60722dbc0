"""KEY.json: the record beside a sample's media in a shard, parsed fast and strictly."""

from __future__ import annotations

import gc
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec


class RecordTurn(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False, rename={"speaker": "from", "text": "value"}
):
    """One turn of a conversation: the speaker (human, gpt) and the text."""

    speaker: str
    text: str


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The fields of KEY.json, all of them required but the last. width, height: stored pixels; duration: seconds;
    sha256: of each medium, [""] where there is none; tokens: text and media; pixel_aspect: width of a pixel by its
    height. Fields that a modality lacks are 0 or ""."""

    id: str
    data_source: str
    data_type: str
    kind: str
    conversations: list[RecordTurn]
    caption: str
    licence: str | None
    origin: str | None
    container: str
    position: str
    sha256: list[str]
    width: int
    height: int
    duration: float
    fps: float
    n_frames: int
    language: str
    ocr_text: str
    tokens: int
    pixel_aspect: float = 0.0  # older shards lack it


_DECODE = msgspec.json.Decoder(Record).decode

#: All fields except the conversations, in order.
FIELDS = tuple(name for name in Record.__struct_fields__ if name != "conversations")


def parse_record(content: bytes | memoryview) -> Record:
    """Parse a record. Raises ValueError that names a missing or unknown field, or one of another type."""
    try:
        return _DECODE(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def parse_records(view: memoryview, spans: Iterable[tuple[int, int]]) -> list[Record] | None:
    """Parse the records at [start, end) of a file's bytes, in order; None where one of them is invalid."""
    # Nothing allocated here is garbage, and the collector would take a fifth of the time.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        return [_DECODE(view[start:end]) for start, end in spans]
    except (msgspec.DecodeError, RecursionError):
        return None
    finally:
        if is_collecting:
            gc.enable()


def build_columns(records: Sequence[Record]) -> dict[str, Sequence[Any]]:
    """Build {field: its values in all records}, and "characters": the total length of each record's turns."""
    table: dict[str, Sequence[Any]] = {name: list(map(operator.attrgetter(name), records)) for name in FIELDS}
    table["characters"] = [
        len(turns[0].text) if len(turns) == 1 else sum([len(turn.text) for turn in turns])
        for turns in map(operator.attrgetter("conversations"), records)
    ]
    return table
