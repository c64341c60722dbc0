"""KEY.json: what stands beside a sample's media in a shard, read fast and strictly."""

from __future__ import annotations

import msgspec


class Turn(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False, rename={"who": "from"}):
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
    conversations: list[Turn]
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

    @property
    def characters(self) -> int:
        """Characters that its turns hold: what text tokens are estimated from."""
        return sum(len(turn.value) for turn in self.conversations)


_DECODER = msgspec.json.Decoder(Record)


def read(data: bytes | memoryview) -> Record:
    """A record from its bytes.

    Raises ValueError saying which field is missing, unknown, or of another type.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
