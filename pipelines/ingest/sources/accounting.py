"""Account for the members of a source: those in items and those ignored, by reason, are all that were read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.errors import StageError
from pipelines.ingest.sources.interface import IgnoredMember, Listing, MembersRead, ReaderRecord, SourceItem

#: Ignored members that an account names per reason (ours).
MAX_EXAMPLES = 5


@dataclass
class IgnoredCount:
    """Members ignored for one reason, with the first of them by name."""

    members: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, members: int, examples: Sequence[str]) -> None:
        self.members += members
        self.examples += examples[: MAX_EXAMPLES - len(self.examples)]


@dataclass
class MemberAccount:
    """The members of a source, or of one of its containers. inputs: items. members: those that the items account for.
    ignored: by reason. unused_captions: of media with several, those that `captions.many` leaves out."""

    inputs: int = 0
    members: int = 0
    ignored: dict[str, IgnoredCount] = field(default_factory=dict)
    unused_captions: int = 0

    def count(self, records: Iterable[SourceItem | IgnoredMember]) -> Iterator[SourceItem]:
        """Yield the items of `records` and count them and the ignored members."""
        for record in records:
            if isinstance(record, SourceItem):
                self.inputs += 1
                self.members += record.members
                self.unused_captions += record.unused_captions
                yield record
            else:
                name = record.position if not record.container else f"{record.container}: {record.position}"
                self.ignored.setdefault(record.reason, IgnoredCount()).add(record.members, [name])

    def add(self, account: Mapping[str, Any]) -> None:
        """Add the account of a container, as JSON."""
        self.inputs += account["inputs"]
        self.members += account["members"]
        self.unused_captions += account["unused_captions"]
        for reason, count in account["ignored"].items():
            self.ignored.setdefault(reason, IgnoredCount()).add(count["members"], count["examples"])

    @property
    def ignored_members(self) -> int:
        return sum(count.members for count in self.ignored.values())

    def to_json(self) -> dict[str, Any]:
        """The account as in samples/_members.json, without the source's modality."""
        ignored = {reason: vars(count) for reason, count in self.ignored.items()}
        return {
            "inputs": self.inputs,
            "members": self.members,
            "ignored": ignored,
            "unused_captions": self.unused_captions,
        }


def check_records(records: Iterable[ReaderRecord], where: str) -> Iterator[SourceItem | IgnoredMember]:
    """Yield the items and ignored members that a reader yields, and compare their members with the number that it says
    to have read; readers that say none are not checked. Raises StageError for another number, which is a bug."""
    counted, read = 0, None
    for record in records:
        if isinstance(record, MembersRead):
            read = (read or 0) + record.members
        else:
            counted += record.members
            yield record
    if read is not None:
        _compare(read, counted, where)


def check_listing(listing: Listing, where: str) -> None:
    """Raise StageError, for a bug of the reader, if a listing does not account for every file."""
    items = sum(item.members for item in listing.items)
    ignored = sum(entry.members for entry in listing.ignored)
    _compare(listing.read, items + len(listing.containers) + ignored, where)


def _compare(read: int, counted: int, where: str) -> None:
    if read != counted:
        raise StageError(
            f"the reader has read {read} members, but its items and the members that it ignores are {counted}",
            where=where,
            hint="this is a bug of the reader: please report it",
        )
