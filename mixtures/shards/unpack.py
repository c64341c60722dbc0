"""Unpack a sample from its bytes in a tar, checking every header."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from infra import storage
from infra.errors import StageError
from mixtures.shards.copying import SampleSpan
from mixtures.shards.ustar import BLOCK, count_padding, parse_header

_JSON = msgspec.json.Decoder()
_AUDIT = "the shard is not the one the mixture was made from: `reelmill audit` reports where it differs"


def unpack_members(content: memoryview, key: str, where: str, offset: int, name: str = "") -> dict[str, bytes]:
    """Unpack members by suffix, in the order of the tar.

    content: from the sample's first header to the end of its last padding. key: of the sample. name: of its members
    where that differs from the key (see copying.name_copy).
    Raises StageError that names shard, byte and key where they are not whole ustar members of that sample.
    """
    members: dict[str, bytes] = {}
    header, end = 0, len(content)
    try:
        while header < end:
            member, size = parse_header(bytes(content[header : header + BLOCK]))
            stem, dot, suffix = member.partition(".")
            if stem != (name or key) or not dot:
                raise ValueError(f"found a member called {member!r}")
            start = header + BLOCK
            if start + size > end:
                raise ValueError(f"{member!r} extends beyond the sample")
            members[suffix] = bytes(content[start : start + size])
            header = start + size + count_padding(size)
        if header != end or not members:
            raise ValueError(f"it ends at byte {offset + header:,}, not {offset + end:,}")
    except ValueError as error:
        raise StageError(
            f"sample {key} is not here: {error}", where=f"{where}, byte {offset + header}", hint=_AUDIT
        ) from None
    return members


def extract_record(members: Mapping[str, bytes], key: str, where: str, offset: int) -> dict[str, Any]:
    """Parse the sample's JSON. Raises StageError where it is not the sample's."""
    location = f"{where}, byte {offset}"
    if "json" not in members:
        raise StageError(f"sample {key} has no JSON", where=location, hint=_AUDIT)
    try:
        record = _JSON.decode(members["json"])
    except (msgspec.DecodeError, RecursionError) as error:
        raise StageError(f"the JSON of sample {key} cannot be read ({error})", where=location, hint=_AUDIT) from None
    if not isinstance(record, dict) or record.get("id") != key:
        raise StageError(f"the JSON of sample {key} belongs to another sample", where=location, hint=_AUDIT)
    return record


def list_media(members: Mapping[str, bytes]) -> list[str]:
    """List the suffixes of a sample's media in order: "mp4", or "0.jpg", "1.png", …."""
    names = [name for name in members if name not in ("json", "txt") and not name.startswith("__")]
    return sorted(names, key=lambda name: (get_number(name), name))


def get_number(name: str) -> int:
    """Position of a medium within its sample, from the suffix of its member: 3 for "3.jpg", 0 for "jpg" and "3gp"."""
    number, dot, _ = name.partition(".")
    return int(number) if dot and number.isascii() and number.isdigit() else 0


def verify_media(members: Mapping[str, bytes], record: Mapping[str, Any], key: str, where: str, offset: int) -> None:
    """Verify media against the sha256 in the sample's JSON. Raises StageError where they differ."""
    names = list_media(members)
    expected = [sha256 for sha256 in record.get("sha256", ()) if sha256]
    actual = [hashlib.sha256(members[name]).hexdigest() for name in names]
    if actual != expected:
        difference = next((name for name, a, b in zip(names, actual, expected, strict=False) if a != b), "their number")
        raise StageError(
            f"the media of sample {key} differ from the sha256 in its JSON ({difference})",
            where=f"{where}, byte {offset}",
            hint=_AUDIT,
        )


def verify_copies(tar: str, spans: Iterable[tuple[SampleSpan, int]]) -> None:
    """Verify the media of copied samples against the sha256 in their records, and the records against their keys.

    spans: with the offset of each in this tar: samples of tars of which too little is taken to hash them whole. The
    other fields of a record are not verified here.
    Raises StageError for the first that differs, with its location in the tar that it was copied from.
    """
    with storage.open_read(tar) as file:
        for span, start in spans:
            file.seek(start)
            members = unpack_members(memoryview(file.read(span.size)), span.key, span.tar, span.offset, span.name)
            verify_media(
                members, extract_record(members, span.key, span.tar, span.offset), span.key, span.tar, span.offset
            )
