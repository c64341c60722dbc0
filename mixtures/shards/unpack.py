"""A sample out of the bytes that it has in a tar: header blocks are checked, nothing is guessed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from infra import storage
from infra.errors import StageError
from mixtures.shards.copying import BLOCK, SampleSpan, parse_header

_JSON = msgspec.json.Decoder()
_AUDIT = "the shard is not the one the mixture was made from: `reelmill audit` says where it differs"


def unpack_members(data: memoryview, key: str, where: str, offset: int, name: str = "") -> dict[str, bytes]:
    """Members by suffix, in the order of the tar.

    data: from the sample's first header to the end of its last padding. key: whose these bytes must be. name: what its
    members are called, where that is not its key (see copying.copy_key).
    Raises StageError that names shard, byte and key where they are not whole ustar members of that sample.
    """
    found: dict[str, bytes] = {}
    at, end = 0, len(data)
    try:
        while at < end:
            member, size = parse_header(bytes(data[at : at + BLOCK]))
            stem, dot, suffix = member.partition(".")
            if stem != (name or key) or not dot:
                raise ValueError(f"a member called {member!r} lies there")
            if at + BLOCK + size > end:
                raise ValueError(f"{member!r} reaches beyond the sample")
            found[suffix] = bytes(data[at + BLOCK : at + BLOCK + size])
            at += BLOCK + size + -size % BLOCK
        if at != end or not found:
            raise ValueError(f"it ends at byte {offset + at:,}, not {offset + end:,}")
    except ValueError as error:
        raise StageError(
            f"sample {key} does not lie here: {error}", where=f"{where}, byte {offset + at}", hint=_AUDIT
        ) from None
    return found


def extract_record(members: Mapping[str, bytes], key: str, where: str, offset: int) -> dict[str, Any]:
    """The sample's JSON, parsed. Raises StageError where it is not the sample's."""
    place = f"{where}, byte {offset}"
    if "json" not in members:
        raise StageError(f"sample {key} has no JSON", where=place, hint=_AUDIT)
    try:
        record = _JSON.decode(members["json"])
    except (msgspec.DecodeError, RecursionError) as error:
        raise StageError(f"the JSON of sample {key} cannot be read ({error})", where=place, hint=_AUDIT) from None
    if not isinstance(record, dict) or record.get("id") != key:
        raise StageError(f"the JSON of sample {key} is another sample's", where=place, hint=_AUDIT)
    return record


def list_media(members: Mapping[str, bytes]) -> list[str]:
    """Suffixes of a sample's media, in their order: "mp4", or "0.jpg", "1.png", …."""
    names = [name for name in members if name not in ("json", "txt") and not name.startswith("__")]
    return sorted(names, key=lambda name: (int(name.split(".")[0]) if name[:1].isdigit() else 0, name))


def verify_media(members: Mapping[str, bytes], record: Mapping[str, Any], key: str, where: str, offset: int) -> None:
    """Hold the media against the sha256 in the sample's JSON. Raises StageError where they differ."""
    names = list_media(members)
    wanted = [value for value in record.get("sha256", ()) if value]
    found = [hashlib.sha256(members[name]).hexdigest() for name in names]
    if found != wanted:
        odd = next((name for name, a, b in zip(names, found, wanted, strict=False) if a != b), "their number")
        raise StageError(
            f"the media of sample {key} are not what its JSON says ({odd})",
            where=f"{where}, byte {offset}",
            hint=_AUDIT,
        )


def verify_copies(tar: str, spans: Iterable[tuple[SampleSpan, int]]) -> None:
    """Hold each medium of samples in a finished tar against the sha256 in its record, and the record against its key.

    spans: with the offset of each in this tar. For samples of tars of which so little is taken that those are not
    hashed whole; what the words of a record say is then held against nothing.
    Raises StageError for the first that differs, with its place in the tar that it was copied from.
    """
    with storage.open_read(tar) as file:
        for span, start in spans:
            file.seek(start)
            members = unpack_members(memoryview(file.read(span.size)), span.key, span.tar, span.offset, span.name)
            verify_media(
                members, extract_record(members, span.key, span.tar, span.offset), span.key, span.tar, span.offset
            )
