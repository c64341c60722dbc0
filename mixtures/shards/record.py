"""KEY.json: what stands beside a sample's media in a shard, read fast and strictly."""

from __future__ import annotations

import gc
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec


class RecordTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False, rename={"who": "from"}):
    """One turn of a conversation: who speaks (human, gpt), and what is said."""

    who: str
    value: str


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """The fields of KEY.json, all of them always there. width, height: pixels; duration: seconds; sha256: of each
    medium, [""] where there is none; tokens: text and media. Zero and "" stand for what a modality does not have."""

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


_DECODE = msgspec.json.Decoder(Record).decode

#: All fields but the conversations, in order.
FIELDS = tuple(name for name in Record.__struct_fields__ if name != "conversations")


def parse_record(data: bytes | memoryview) -> Record:
    """A record from its bytes.

    Raises ValueError saying which field is missing, unknown, or of another type.
    """
    try:
        return _DECODE(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None


def parse_records(view: memoryview, spans: Iterable[tuple[int, int]]) -> list[Record] | None:
    """Records that lie at [start, end) of a file's bytes, in order; None where one of them is not sound."""
    # Nothing that is made here is garbage, and looking for some takes a fifth of the time.
    collects = gc.isenabled()
    gc.disable()
    try:
        return [_DECODE(view[start:end]) for start, end in spans]
    except (msgspec.DecodeError, RecursionError):
        return None
    finally:
        if collects:
            gc.enable()


def build_columns(records: Sequence[Record]) -> dict[str, Sequence[Any]]:
    """Field -> its values in all records, and "characters": how long all turns of each are together."""
    found: dict[str, Sequence[Any]] = {name: list(map(operator.attrgetter(name), records)) for name in FIELDS}
    found["characters"] = [
        len(turns[0].value) if len(turns) == 1 else sum([len(turn.value) for turn in turns])
        for turns in map(operator.attrgetter("conversations"), records)
    ]
    return found
