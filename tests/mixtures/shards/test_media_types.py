"""Every suffix that ingest accepts has one name in shards, which the loader, cards and column types know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixtures.shards import features
from mixtures.shards.media_types import get_media_type
from mixtures.shards.shards import FORMAT_SUFFIXES, get_suffix
from mixtures.shards.unpack import get_number, list_media
from pipelines.ingest.sources.interface import MEDIA_SUFFIXES


@pytest.mark.parametrize(
    ("modality", "suffix"), [(kind, suffix) for kind in ("video", "image") for suffix in MEDIA_SUFFIXES[kind]]
)
def test_each_suffix_that_ingest_accepts(modality: str, suffix: str) -> None:
    name = get_suffix(f"clips/a{suffix}")
    assert get_suffix(f"clips/A{suffix.upper()}") == name
    assert get_media_type(name).split("/")[0] in (modality, "image"), f"{name} is not in MEDIA_TYPES"
    assert list_media({"json": b"", name: b"", "txt": b""}) == [name]
    assert list_media({f"1.{name}": b"", f"0.{name}": b""}) == [f"0.{name}", f"1.{name}"]
    column = next(column for column in features.build_features([name]) if column["name"] == name)
    assert column["dtype"] != "binary"


@pytest.mark.parametrize("media_format", FORMAT_SUFFIXES)
def test_the_suffixes_of_formats_are_those_of_media(media_format: str) -> None:
    kind = "image" if media_format.isupper() or media_format.startswith("JPEG") or media_format == "gif" else "video"
    assert {get_media_type(name).split("/")[0] for name in FORMAT_SUFFIXES[media_format]} == {kind}


@given(st.text(max_size=120))
def test_no_file_name_gives_a_suffix_that_a_tar_or_the_loader_cannot_name(name: str) -> None:
    suffix = get_suffix(f"folder/{name}")
    assert suffix.isascii() and suffix.isalnum() and len(suffix) <= 16 and suffix not in ("json", "txt")
    assert list_media({suffix: b"", "json": b"", "txt": b""}) == [suffix] and get_number(suffix) == 0
