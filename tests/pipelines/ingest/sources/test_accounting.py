"""Every member that a reader reads is in an item or ignored with a reason, whatever it is."""

from __future__ import annotations

import pytest

from infra.errors import StageError
from pipelines.ingest.sources.accounting import MAX_EXAMPLES, MemberAccount, check_listing, check_records
from pipelines.ingest.sources.interface import IgnoredMember, Listing, MembersRead, SourceItem


def test_a_reader_that_loses_a_member_is_a_bug_that_stops_the_job() -> None:
    item, ignored = SourceItem("a.tar", "1.jpg", "image", members=2), IgnoredMember("a.tar", "x", "hidden")
    assert list(check_records([MembersRead(3), item, ignored], "a.tar")) == [item, ignored]
    assert list(check_records([item], "a.tar")) == [item]
    for records in ([MembersRead(4), item, ignored], [item, MembersRead(2), ignored], [MembersRead(1)]):
        with pytest.raises(StageError, match="bug of the reader"):
            list(check_records(records, "a.tar"))
    check_listing(Listing([item], [], [ignored], 3), "s")
    with pytest.raises(StageError, match=r"has read 4 members.* are 3"):
        check_listing(Listing([item], [], [ignored], 4), "s")


def test_an_account_adds_up_containers_and_names_some_of_what_is_ignored() -> None:
    account, container = MemberAccount(), MemberAccount()
    list(account.count([IgnoredMember("", f"{n}.doc", "no known suffix") for n in range(MAX_EXAMPLES + 2)]))
    records = [SourceItem("a.tar", "1.jpg", "image", members=3), IgnoredMember("a.tar", "d", "folder", 4)]
    assert list(container.count(records)) == records[:1]
    account.add(container.to_json())
    assert (account.inputs, account.members, account.ignored_members) == (1, 3, MAX_EXAMPLES + 6)
    assert account.ignored["folder"].examples == ["a.tar: d"]
    assert len(account.ignored["no known suffix"].examples) == MAX_EXAMPLES
