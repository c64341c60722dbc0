"""Every member that a reader reads is in an item or ignored with a reason, whatever it is."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, StageError
from pipelines.ingest.sources.accounting import MAX_EXAMPLES, MemberAccount, check_listing, check_records
from pipelines.ingest.sources.interface import IgnoredMember, Listing, MembersRead, SourceItem
from pipelines.ingest.sources.registry import list_source, scan
from tests.pipelines.ingest.sources.items import make_source
from tests.pipelines.ingest.sources.table_inputs import (
    COMPRESSIONS,
    ROWS,
    TABLE_NAMES,
    build_rows,
    encode,
    encode_parquet,
)

TAR_NAMES = [f"a.tar{packed}" for packed in COMPRESSIONS]
MANY = st.sampled_from(["first", "all", "join", "random"])

JPEG = b"\xff\xd8\xff\xe0"
MODALITIES = st.sampled_from(["image", "video", "text", "multi_image"])

#: Names that collide, that share stems, that are hidden, and that have no suffix or an odd one.
NAMES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "d/", "d.e/", ".h/", "./"]),
    st.sampled_from(["a", "a.1", "b", ".b", "__m__", "é", "e\u0301", "a::b", "x y"]),
    st.sampled_from(["", ".jpg", ".JPG", ".jfif", ".mp4", ".txt", ".json", ".0.jpg", ".1.jpg", ".cls", ".md", ".tar"]),
)
CONTENTS = st.sampled_from([b"", JPEG, b"text", b'{"caption": "c", "text": "t"}', b"[1]", b"{"])
KINDS = (tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"Z")
MEMBERS = st.lists(st.tuples(NAMES, st.sampled_from((tarfile.REGTYPE,) * 8 + KINDS), CONTENTS), max_size=12)


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
    assert (account.inputs, account.members, account.ignored_members) == (
        1,
        3,
        MAX_EXAMPLES + 6,
    )
    assert account.ignored["folder"].examples == ["a.tar: d"]
    assert len(account.ignored["no known suffix"].examples) == MAX_EXAMPLES


def account_for_source(
    folder: Path, modality: str, **settings: Any
) -> tuple[MemberAccount, Counter[str], list[SourceItem]]:
    """The account of a source, the number of times that each container is named by an item or ignored member, and the
    items."""
    source = make_source(folder, modality, **settings)
    try:
        reader, listing = list_source(source)
    except ConfigError:  # nothing is recognised, and the message names everything
        return MemberAccount(), Counter(), []
    total = MemberAccount()
    containers: Counter[str] = Counter({entry.path: 1 for entry in listing.containers})
    items = list(total.count([*listing.items, *listing.ignored]))
    containers.update(member.container for member in listing.ignored if member.container)
    total.members += len(listing.containers)
    for container in listing.containers:
        records = list(scan(source, reader, container, str(folder.parent / "scratch")))
        containers[container.path] += sum(record.members for record in records)
        items += total.count(records)
    return total, containers, items


@settings(max_examples=60, deadline=None)
@given(st.lists(MEMBERS, min_size=1, max_size=3), MODALITIES, st.sampled_from(TAR_NAMES))
def test_every_member_of_a_tar_is_in_an_item_or_ignored(archives: list[list[tuple[str, bytes, bytes]]], modality: str,
                                                        name: str) -> None:  # fmt: skip
    content, count = b"", 0
    for members in archives:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for member_name, kind, member_content in members:
                info = tarfile.TarInfo(member_name)
                info.type, info.linkname, info.size = (
                    kind,
                    "target",
                    len(member_content) if kind == tarfile.REGTYPE else 0,
                )
                archive.addfile(info, io.BytesIO(member_content))
        buffer.seek(0)
        with tarfile.open(fileobj=buffer) as archive:
            count += len(archive.getmembers())
        content += buffer.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        (Path(folder) / "in" / name).write_bytes(COMPRESSIONS[name.removeprefix("a.tar")](content))
        total, containers, _ = account_for_source(Path(folder) / "in", modality)
    assert containers[name] == 1 + count
    assert total.members + total.ignored_members == 1 + count


@settings(max_examples=60, deadline=None)
@given(MEMBERS, MODALITIES)
def test_every_file_of_a_folder_is_in_an_item_or_ignored(
    members: list[tuple[str, bytes, bytes]], modality: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "in"
        root.mkdir()
        for name, kind, content in members:
            path = root / name.replace(".tar", ".bin")
            path.parent.mkdir(exist_ok=True)
            if os.path.lexists(path):
                continue
            if kind == tarfile.SYMTYPE:
                path.symlink_to(root)
            elif kind == tarfile.LNKTYPE:
                path.symlink_to("/etc/passwd")
            elif kind == tarfile.FIFOTYPE:
                os.mkfifo(path)
            else:
                path.write_bytes(content)
        names = [path for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
        hidden = {path for path in names if path.relative_to(root).parts[0] == ".h"}
        total, _, _ = account_for_source(root, modality, format="folder")
        expected = len(names) - len(hidden) + (root / ".h").exists()  # a hidden folder is one member
    if total.inputs:
        assert total.members + total.ignored_members == expected


def count_captions(items: Sequence[SourceItem]) -> int:
    """The number of captions in the texts of items, each of which stands in one of them only."""
    captions = [caption for item in items for caption in (item.text or "").split("\n") if caption]
    assert len(captions) == len(set(captions))
    return len(captions)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(TABLE_NAMES), ROWS, MANY)
def test_every_row_of_a_table_is_in_an_item_or_ignored(name: str, drawn: Any, many: str) -> None:
    rows = build_rows([("a", 1, 99), *drawn], name, "id")
    content, count = encode(name, rows, [99, *(choice for _, _, choice in drawn)])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "in").mkdir()
        (Path(folder) / "in" / name).write_bytes(content)
        total, containers, items = account_for_source(
            Path(folder) / "in", "text", format="table", captions={"many": many}
        )
    assert containers[name] == 1 + count
    assert total.members + total.ignored_members == 1 + count
    check_captions(rows, items, total)


def account_beside_media(name: str, content: bytes, **how: Any) -> Any:
    """The account of a folder of a table and the media a.jpg, b.jpg and c.jpg."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "in"
        root.mkdir()
        (root / name).write_bytes(content)
        for medium in "abc":
            (root / f"{medium}.jpg").write_bytes(JPEG)
        return account_for_source(root, "image", **how)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(TABLE_NAMES), ROWS, MANY)
def test_every_row_of_a_captions_file_is_in_an_item_or_ignored(name: str, drawn: Any, many: str) -> None:
    """Of four names in rows three are media; a row that is repeated has a medium of several captions."""
    rows = build_rows([("a", 1, 99), *drawn], name, "file")
    content, count = encode(name, rows, [99, *(choice for _, _, choice in drawn)])
    total, _, items = account_beside_media(name, content, captions={"file": name, "many": many})
    assert total.members + total.ignored_members == 3 + count
    media = [row for row in rows if row["file"] != "d.jpg"]
    check_captions(media, [item for item in items if item.container != name], total)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from([name for name in TABLE_NAMES if name.startswith("t.json")]), ROWS, MANY)
def test_every_row_of_llava_is_in_an_item_or_ignored(name: str, drawn: Any, many: str) -> None:
    rows = build_rows([("a", 1, 99), *drawn], name, "image")
    content, count = encode(name, rows, [99, *(choice for _, _, choice in drawn)])
    total, containers, items = account_beside_media(name, content, format="llava", captions={"many": many})
    assert containers[name] == 1 + count
    assert total.members + total.ignored_members == 1 + count
    media = [row for row in rows if row["image"] != "d.jpg"]
    check_captions(media, [item for item in items if item.media], total)


@settings(max_examples=12, deadline=None)
@given(ROWS, MANY)
def test_every_row_with_embedded_media_is_in_an_item_or_ignored(drawn: Any, many: str) -> None:
    rows = build_rows([("a", 1, 99), *drawn], "t.parquet", "id")
    rows = [{**row, "image": {"bytes": JPEG if row["id"] != "d.jpg" else None, "path": row["id"]}} for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "in"
        root.mkdir()
        (root / "t.parquet").write_bytes(encode_parquet(rows))
        (Path(folder) / "scratch").mkdir()
        total, containers, items = account_for_source(root, "image", format="table", captions={"many": many})
    assert containers["t.parquet"] == 1 + len(rows) == total.members + total.ignored_members
    check_captions([row for row in rows if row["id"] != "d.jpg"], [item for item in items if item.media], total)


def check_captions(rows: Sequence[Mapping[str, Any]], items: Sequence[SourceItem], total: MemberAccount) -> None:
    """Every caption of sound rows is used or counted."""
    count = sum(len([text for text in row["text"] if text]) if isinstance(row["text"], list) else bool(row["text"])
                for row in rows)  # fmt: skip
    assert count_captions(items) + total.unused_captions == count
