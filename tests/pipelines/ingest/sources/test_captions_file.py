"""Captions files: every row is used, ignored with a reason or failed, and no medium silently loses its caption."""

from __future__ import annotations

import csv
import gzip
import io
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError
from pipelines.ingest.sources.interface import SourceItem
from pipelines.ingest.sources.registry import list_source
from tests.pipelines.ingest.sources.items import make_source

TABLES = ["c.csv", "c.tsv", "c.jsonl", "c.json", "c.parquet", "c.jsonl.gz", "c.csv.gz", "c.txt"]
Rows = list[dict[str, Any]]


def write_table(path: Path, rows: Rows) -> None:
    if ".csv" in path.name or path.suffix in (".tsv", ".txt"):
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        content = buffer.getvalue().encode()
    elif ".jsonl" in path.name:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif path.suffix == ".json":
        content = json.dumps(rows, indent=1).encode()
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
        return
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def listing_of(folder: Path, media: list[str], **options: Any) -> tuple[list[SourceItem], Counter[str], int]:
    """(items, ignored members by reason, members read) of a folder; list_source checks that they add up."""
    for name in media:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    _, listing = list_source(make_source(folder, **options))
    ignored: Counter[str] = Counter()
    for member in listing.ignored:
        ignored[member.reason] += member.members
    return list(listing.items), ignored, listing.read


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("many", ["first", "all", "join", "random"])
def test_several_captions_of_a_medium(tmp_path: Path, table: str, many: str) -> None:
    write_table(tmp_path / table, [{"file": f"{m}.jpg", "text": f"caption {n} of {m}"} for n in range(5) for m in "ab"])
    captions = {"file": table, "many": many}
    items, ignored, read = listing_of(tmp_path, ["a.jpg", "b.jpg"], captions=captions)
    texts = {name: [item.text for item in items if item.container == name] for name in ("a.jpg", "b.jpg")}
    for medium in "ab":
        every = [f"caption {number} of {medium}" for number in range(5)]
        expected = {"first": [every[:1]], "all": [every], "join": [["\n".join(every)]], "random": [[e] for e in every]}
        assert texts[f"{medium}.jpg"] in expected[many]
    assert ignored == ({"further caption of a medium": 8} if many in ("first", "random") else {})
    assert read == 2 + 10 == sum(item.members for item in items) + ignored.total()
    assert len({(item.container, item.position) for item in items}) == len(items)


@pytest.mark.parametrize("table", ["c.jsonl", "c.parquet"])
def test_a_cell_may_be_a_list_of_captions(tmp_path: Path, table: str) -> None:
    write_table(tmp_path / table, [{"file": "a.jpg", "text": ["one", "two"]}, {"file": "b.jpg", "text": ["three"]}])
    for many, texts in (("first", ["one", "three"]), ("all", ["one", "two", "three"]), ("join", ["one\ntwo", "three"])):
        items, _, _ = listing_of(tmp_path, ["a.jpg", "b.jpg"], captions={"file": table, "many": many})
        assert [item.text for item in items] == texts


NAMES = ["a.jpg", "d/b.jpg", "c", "b", "lost.jpg", "out.jpg", "./a.jpg"]
ROWS = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["text", "broken", "no name", "number"])), max_size=9)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(["first", "all", "join", "random"]))
def test_every_row_is_used_ignored_or_failed(tmp_path_factory: Any, rows: Any, many: str) -> None:
    folder = tmp_path_factory.mktemp("source")
    lines = ['{"file": "a.jpg", "text": "sound"}']
    for number, (name, kind) in enumerate(rows):
        lines.append({"text": json.dumps({"file": name, "text": f"{number}"}), "broken": "{",
                      "no name": '{"text": "x"}', "number": json.dumps({"file": name, "text": 3})}[kind])  # fmt: skip
    (folder / "c.jsonl").write_text("\n".join(lines))
    media = ["a.jpg", "d/b.jpg", "c.jpg", "out.jpg"]
    captions = {"file": "c.jsonl", "many": many}
    items, ignored, read = listing_of(folder, media, captions=captions, include=["[abc]*", "d/*"])
    assert read == len(media) - 1 + len(lines) + 1  # out.jpg is ignored as a file
    names = {"a.jpg": ("a.jpg", "./a.jpg"), "d/b.jpg": ("d/b.jpg", "b"), "c.jpg": ("c",)}
    failed = [item for item in items if item.error and not item.text]
    for medium, forms in names.items():
        texts = [str(number) for number, (name, kind) in enumerate(rows) if kind == "text" and name in forms]
        texts = ["sound", *texts] if medium == "a.jpg" else texts
        used = [text for item in items if item.container == medium for text in (item.text or "").split("\n") if text]
        assert used == texts if many in ("all", "join") else len(used) == bool(texts) and set(used) <= set(texts)
    broken = sum(kind in ("broken", "no name") for _, kind in rows)
    assert sum(item.container == "c.jsonl" and "broken row" in str(item.error) for item in failed) == broken
    orphans = sum(name == "lost.jpg" and kind in ("text", "number") for name, kind in rows)
    assert sum((item.error or "").startswith("orphan caption") for item in items) == orphans
    excluded = sum(name == "out.jpg" and kind in ("text", "number") for name, kind in rows)
    assert ignored["caption of a medium that is not in include"] == excluded


def test_a_row_belongs_to_the_medium_that_it_names_most_exactly(tmp_path: Path) -> None:
    write_table(tmp_path / "c.csv", [{"file": name, "text": name} for name in ("1.jpg", "d/1.jpg", "2")])
    items, _, _ = listing_of(tmp_path, ["1.jpg", "d/1.jpg", "2.jpg"], captions="c.csv")
    assert [(item.container, item.text) for item in items] == [
        ("1.jpg", "1.jpg"), ("2.jpg", "2"), ("d/1.jpg", "d/1.jpg")
    ]  # fmt: skip


def test_a_base_name_in_several_folders_names_none_of_the_media(tmp_path: Path) -> None:
    """One split's caption must not become that of another split's picture."""
    rows = [{"file": name, "text": name} for name in ("1.jpg", "2.jpg", "3")]
    media = ["train/1.jpg", "test/1.jpg", "test/2.jpg", "train/3.jpg", "test/3.png"]
    write_table(tmp_path / "c.csv", rows)
    items, _, _ = listing_of(tmp_path, media, captions="c.csv")
    assert {item.container: item.text for item in items if item.media} == {
        **dict.fromkeys(media), "test/2.jpg": "2.jpg",
    }  # fmt: skip
    orphans = {item.position: item.error for item in items if not item.media}
    ambiguous = "orphan caption: media in 2 folders have this name, the path is needed"
    assert orphans == {"1.jpg": ambiguous, "3": ambiguous}


def test_names_may_be_relative_to_the_captions_file(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write_table(tmp_path / "train" / "c.csv", [{"file": name, "text": name} for name in ("1.jpg", "d/2", "test/1.jpg")])
    items, _, _ = listing_of(tmp_path, ["train/1.jpg", "train/d/2.jpg", "test/1.jpg"], captions="train/c.csv")
    assert [(item.container, item.text) for item in items] == [
        ("test/1.jpg", "test/1.jpg"), ("train/1.jpg", "1.jpg"), ("train/d/2.jpg", "d/2")
    ]  # fmt: skip


def test_a_broken_row_fails_with_its_line_and_its_medium_has_no_caption(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text('file,text\na.jpg,"not closed\nb.jpg,fine\nb.jpg\n')
    items, _, _ = listing_of(tmp_path, ["a.jpg", "b.jpg"], captions="c.csv")
    assert {(item.container, item.position): item.error or item.text for item in items} == {
        ("a.jpg", ""): None,
        ("b.jpg", ""): "fine",
        ("c.csv", "row=0"): "broken row: a quote is not closed (line 2)",
        ("c.csv", "row=2"): "broken row: 1 fields where the header has 2 (line 4)",
    }


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("columns", "message", "hint"),
    [
        (
            ("image", "caption"),
            r"no column 'file' \(captions.media_column\) and 'text' .*'image', 'caption'",
            "set capt",
        ),
        (("image", "text"), r"no column 'file' \(captions.media_column\); its", "set captions.media_column of"),
        (("file", "caption"), r"no column 'text' \(captions.text_column\); its", "set captions.text_column of"),
    ],
)
def test_columns_that_are_not_there_are_a_config_error(
    tmp_path: Path, table: str, columns: tuple[str, str], message: str, hint: str
) -> None:
    write_table(tmp_path / table, [dict(zip(columns, ("a.jpg", "A dog, running"), strict=True))])
    with pytest.raises(ConfigError, match=message) as caught:
        listing_of(tmp_path, ["a.jpg"], captions=table)
    assert hint in caught.value.hint
    media_column, text_column = columns
    captions = {"file": table, "media_column": media_column, "text_column": text_column}
    (item,), _, _ = listing_of(tmp_path, ["a.jpg"], captions=captions)
    assert item.text == "A dog, running"


def test_rows_of_which_none_fits_are_a_config_error(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("file,text\nx/9.jpg,nine\n")
    with pytest.raises(ConfigError, match=r"no row .* names a medium: the rows .*'x/9.jpg', .* such as 'a.jpg'"):
        listing_of(tmp_path, ["a.jpg"], captions="c.csv")
    # A captions file may serve several sources.
    items, ignored, _ = listing_of(tmp_path, ["a.jpg", "x/9.jpg"], captions="c.csv", include=["a*"])
    assert [item.container for item in items] == ["a.jpg"]
    assert ignored["caption of a medium that is not in include"] == 1


@pytest.mark.parametrize("table", ["c.parquet", "c.jsonl.gz"])
def test_a_damaged_captions_file_is_an_error_and_never_a_missing_caption(tmp_path: Path, table: str) -> None:
    write_table(tmp_path / table, [{"file": f"{n}.jpg", "text": f"{n * 7919} {n}" * 9} for n in range(20_000)])
    whole = (tmp_path / table).read_bytes()
    (tmp_path / table).write_bytes(whole[: len(whole) // 2])
    media = ["0.jpg", "19999.jpg"]
    if table == "c.parquet":
        with pytest.raises(ConfigError, match=r"captions file c.parquet cannot be used: unreadable table"):
            listing_of(tmp_path, media, captions=table)
        return
    items, _, _ = listing_of(tmp_path, media, captions=table)
    errors = {item.container: item.error for item in items if item.media or item.container == "19999.jpg"}
    assert errors["0.jpg"] is None
    assert str(errors["19999.jpg"]).startswith("unreadable caption: the captions file may have had its row")
    assert any((item.error or "").startswith("unreadable table") for item in items)


def test_names_in_another_unicode_form_or_with_other_separators_are_the_same(tmp_path: Path) -> None:
    rows = [{"file": unicodedata.normalize("NFC", "é.jpg"), "text": "one"}, {"file": ".\\d\\b.jpg", "text": "two"}]
    write_table(tmp_path / "c.jsonl", rows)
    items, _, _ = listing_of(tmp_path, [unicodedata.normalize("NFD", "é.jpg"), "d/b.jpg"], captions="c.jsonl")
    assert sorted(str(item.text) for item in items) == ["one", "two"] and not any(item.error for item in items)


def test_licence_and_origin_come_from_the_row(tmp_path: Path) -> None:
    rows = [{"file": name, "text": "t", "rights": "CC0", "url": "u"} for name in ("a.jpg", "lost.jpg")]
    write_table(tmp_path / "c.csv", rows)
    items, _, _ = listing_of(tmp_path, ["a.jpg"], captions="c.csv", licence_column="rights", origin_column="url")
    assert [(item.licence, item.origin) for item in items] == [("CC0", "u")] * 2
