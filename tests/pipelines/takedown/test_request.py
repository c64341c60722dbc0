from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import tables
from infra.errors import ConfigError
from pipelines.takedown.request import COLUMNS, TakedownRequest, build_request, normalise_url


@pytest.mark.parametrize(
    ("url", "variant"),
    [
        ("https://Example.org/a", "http://example.org:80/a/"),
        (" http://example.org/a#part ", "https://example.org:443/a"),
        ("./clips/a.mp4", "clips/a.mp4"),
        ("/data/raw/", "/data/raw"),
    ],
)
def test_equivalent_urls_have_one_form(url: str, variant: str) -> None:
    assert normalise_url(url) == normalise_url(variant)


@pytest.mark.parametrize(
    ("url", "different"),
    [
        ("http://example.org/a", "http://example.org/A"),
        ("http://example.org/a", "http://example.org/a?page=2"),
        ("http://example.org/a", "http://example.org:8080/a"),
        ("http://example.org/a", "ftp://example.org/a"),
        ("http://example.org/a", "http://www.example.org/a"),
        ("clips/a.mp4", "a.mp4"),
    ],
)
def test_different_urls_have_different_forms(url: str, different: str) -> None:
    assert normalise_url(url) != normalise_url(different)


@given(st.text(max_size=40))
def test_any_text_has_one_form(text: str) -> None:
    once = normalise_url(text)
    assert normalise_url(f"  {text}  ") == once
    assert isinstance(once, str)


def row(
    key: str, source: str, licence: str | None, container: str, uris: list[str], origin: str | None
) -> dict[str, object]:
    media = [{"uri": u, "offset": 0, "length": -1, "start_s": 0.0, "end_s": -1.0, "sha256": ""} for u in uris]
    return {"key": key, "source": source, "licence": licence, "container": container, "media": media, "origin": origin}


ROWS = [
    row("a", "s", "by", "x.tar", ["x.tar"], None),
    row("b", "s", None, "1.jpg", ["1.jpg", "2.jpg"], "https://e.org/1"),
    row("c", "t", "by", "t.jsonl", [], "http://E.org/2/"),
    row("d", "t", "zero", "t.jsonl", [], ""),
]
TABLE = pa.Table.from_pylist(ROWS, schema=pa.schema([tables.SAMPLES.field(name) for name in COLUMNS]))


@pytest.mark.parametrize(
    ("asked", "matches"),
    [
        ({"keys": ["a", "zz"]}, ["key", None, None, None]),
        ({"sources": ["s"], "keys": ["a"]}, ["key", "source=s", None, None]),
        ({"licences": ["by"], "sources": ["t"]}, ["licence=by", None, "source=t", "source=t"]),
        ({"licences": ["unknown"]}, [None] * 4),
    ],
)
def test_the_first_reason_counts(asked: dict[str, list[str]], matches: list[str | None]) -> None:
    assert build_request(**asked).match(TABLE, {}).tolist() == matches


@pytest.mark.parametrize(
    ("url", "matches"),
    [
        ("http://e.org/1", [1]),
        ("https://e.org/2", [2]),
        ("2.jpg", [1]),
        ("x.tar", [0]),
        ("/raw/s/2.jpg", [1]),
        ("/raw/t/2.jpg", []),
        ("/raw/t/t.jsonl", [2, 3]),
        ("", []),
    ],
)
def test_a_url_is_looked_for_in_origin_container_and_media(url: str, matches: list[int]) -> None:
    asked = TakedownRequest(urls=frozenset([normalise_url(url)]))
    why = asked.match(TABLE, {"s": "/raw/s", "t": "/raw/t"})
    assert [i for i, reason in enumerate(why) if reason == "url"] == matches


def test_a_malformed_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no samples to take down"):
        build_request()
    with pytest.raises(ConfigError, match="no such list"):
        build_request(url_lists=[str(tmp_path / "nowhere")])
    (tmp_path / "empty").write_text("# nothing\n\n")
    with pytest.raises(ConfigError, match="no URL"):
        build_request(url_lists=[str(tmp_path / "empty")])
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        build_request(url_lists=[str(tmp_path / "binary")])
