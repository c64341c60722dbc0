from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.ingest.sources.rows import read_rows
from pipelines.ingest.tables import streams

PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True),
    "": lambda raw: raw,
}
TABLES = {
    "a.jsonl": b'{"text": "one"}\n{"text": "two"}\n',
    "a.json": b'[{"text": "one"}, {"text": "two"}]',
    "a.csv": b"text,n\none,1\ntwo,2\n",
    "a.tsv": b"text\tn\none\t1\ntwo\t2\n",
}


def texts(path: Path, **settings: Any) -> list[Any]:
    """The text of each row, or the kind of its error."""
    rows = read_rows(str(path), text_column="text", **settings)
    return [row["text"] if error is None else error.split(":")[0] for _, row, error in rows]


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("suffix", PACKERS)
def test_tables_are_unpacked_by_content(tmp_path: Path, name: str, suffix: str) -> None:
    packed = PACKERS[suffix](TABLES[name])
    for path in (tmp_path / (name + suffix), tmp_path / name, tmp_path / (name + ".zst")):
        path.write_bytes(packed)
        assert texts(path) == ["one", "two"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_damage_of_a_compressed_table_ends_it_with_a_failed_row(tmp_path: Path, suffix: str) -> None:
    raw = b"".join(json.dumps({"text": f"{number * 7919 % 1009}"}).encode() + b"\n" for number in range(50_000))
    packed = PACKERS[suffix](raw)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(packed[: len(packed) // 2])
    assert texts(path)[-1] == "unreadable table"
    path.write_bytes(packed + PACKERS[suffix](b'{"text": "second stream"}\n'))
    assert texts(path)[-1] == "second stream"


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_a_decompression_bomb_is_read_up_to_its_limit(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 2**20)
    monkeypatch.setattr(streams, "MAX_RATIO", 10)
    (tmp_path / "a.jsonl").write_bytes(PACKERS[suffix](b'{"text": "one"}\n' * 2**16 + b"\n" * 2**23))
    rows = texts(tmp_path / "a.jsonl")
    assert set(rows[:-1]) == {"one"} and rows[-1] == "too_large"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", TABLES)
def test_unicode_is_recognised(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_text(TABLES[name].decode().replace("one", "éß🙂"), encoding, newline="")
    assert texts(path) == ["éß🙂", "two"]


@pytest.mark.parametrize("name", TABLES)
def test_other_encodings_fail_unless_they_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(TABLES[name].decode().replace("one", "café"), "cp1252", newline="")
    assert texts(path) == ["broken row", "two"]
    ((_, _, error), _) = read_rows(str(path), text_column="text")
    assert "byte 0xe9" in error and "encoding" in error
    assert texts(path, encoding="cp1252") == ["café", "two"]


def test_an_odd_byte_of_utf_16_is_a_failed_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("text,n\none,1\n".encode("utf-16") + b"x")
    assert texts(tmp_path / "a.csv")[-1] == "unreadable table"


def test_a_storage_error_is_not_blamed_on_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for packed in (TABLES["a.jsonl"], gzip.compress(TABLES["a.jsonl"])):
        (tmp_path / "a.jsonl").write_bytes(packed)
        stream = streams.UnpackedStream(BrokenFile(), "gzip", 100)
        with pytest.raises(OSError, match="away"):
            stream.read(10)


class BrokenFile:
    def read(self, size: int) -> bytes:
        raise OSError(5, "the disk is away")
