"""A tar against its index: what write_tar writes passes, and whatever is changed in it is found."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import tables
from mixtures.shards.shards import Member, write_tar
from mixtures.shards.ustar import build_header
from pipelines.audit.audit_tar import HEAD, TarIndex, build_heads, check_tar
from pipelines.audit.findings import AuditFindings

NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0/", exclude_categories=("Cs",)), max_size=40)


def write_samples(folder: Path, sizes: list[tuple[int, int]]) -> tuple[bytes, pa.Table]:
    """A tar of samples with two members of these sizes, and its index."""
    random_ = random.Random(0)
    samples = [
        (f"key{i:023d}", [Member("jpg", content=random_.randbytes(a)), Member("json", content=random_.randbytes(b))])
        for i, (a, b) in enumerate(sizes)
    ]
    path = folder / "a.tar"
    _, written = write_tar(path, samples)
    rows = [{"key": w.key, "shard": "a", "offset": w.offset, "size": w.size,
             "members": [{"name": n, "offset": o, "size": s} for n, o, s in w.members]} for w in written]  # fmt: skip
    return path.read_bytes(), pa.Table.from_pylist(rows, schema=tables.MEMBERS)


def find_fields(tar: bytes, members: pa.Table) -> set[str]:
    """Fields of what is found."""
    findings = AuditFindings()
    index = TarIndex.from_members(members)
    assert len(check_tar(memoryview(tar), index, ["jpg", "json"], "a.tar", findings)) == len(index.names)
    return {finding.field for finding in findings.sorted()}


@given(st.lists(st.tuples(NAME, st.one_of(st.integers(0, 8**11 - 1), st.integers(8**11, 2**45))), max_size=20))
def test_headers_are_those_that_export_writes(members: list[tuple[str, int]]) -> None:
    members = [(name, size) for name, size in members if len(name.encode()) <= 100]
    names = pa.array([name for name, _ in members], pa.string())
    sizes = np.array([size for _, size in members], dtype=np.int64)
    rows = build_heads(names, sizes)
    for (name, size), row in zip(members, rows, strict=True):
        assert row.tobytes() == build_header(name, size)[:HEAD]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 1600), st.integers(1, 600)), max_size=8))
def test_what_export_writes_is_sound(tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]]) -> None:
    assert find_fields(*write_samples(tmp_path_factory.mktemp("tar"), sizes)) == set()


def test_any_byte_outside_of_contents_is_found(tmp_path: Path) -> None:
    tar, members = write_samples(tmp_path, [(700, 20), (0, 512), (513, 1)])
    inside = np.zeros(len(tar), dtype=bool)
    for row in members.to_pylist():
        for member in row["members"]:
            inside[member["offset"] : member["offset"] + member["size"]] = True
    outside = np.flatnonzero(~inside)
    random_ = np.random.default_rng(0)
    for offset in random_.choice(outside, 400, replace=False):
        changed = bytearray(tar)
        changed[offset] ^= 1 << int(random_.integers(8))
        assert find_fields(bytes(changed), members), f"byte {offset}"


def test_lengths_of_members_are_checked_and_contents_are_not(tmp_path: Path) -> None:
    tar, members = write_samples(tmp_path, [(700, 20), (5, 5)])
    offset = members["members"][0][0]["offset"].as_py()
    assert find_fields(tar[:offset] + b"x" + tar[offset + 1 :], members) == set()
    assert "bytes" in find_fields(tar[:-512], members)
    assert "bytes" in find_fields(tar + bytes(512), members)
    assert {"bytes", "members.offset"} <= find_fields(tar[:1024], members)
    assert find_fields(b"", members)


@pytest.mark.parametrize("column", ["offset", "size"])
def test_a_wrong_number_in_the_index_is_named(tmp_path: Path, column: str) -> None:
    tar, members = write_samples(tmp_path, [(700, 20), (5, 5), (9, 9)])
    rows = members.to_pylist()
    rows[1][column] += 512
    assert find_fields(tar, pa.Table.from_pylist(rows, schema=tables.MEMBERS)) == {column}


def _rename(rows: list[dict[str, Any]]) -> None:
    rows[1]["members"][0]["name"] = "other.jpg"


def _shift(rows: list[dict[str, Any]]) -> None:
    rows[1]["members"][0]["offset"] += 512


def _grow(rows: list[dict[str, Any]]) -> None:
    rows[1]["members"][0]["size"] += 1


def _swap(rows: list[dict[str, Any]]) -> None:
    rows[0], rows[1] = rows[1], rows[0]


def _lose(rows: list[dict[str, Any]]) -> None:
    del rows[1]["members"][1]


def _far(rows: list[dict[str, Any]]) -> None:
    rows[1]["members"][0]["offset"] = 2**62


def _negative(rows: list[dict[str, Any]]) -> None:
    rows[1]["members"][0]["size"] = -1


def _overflow(rows: list[dict[str, Any]]) -> None:
    rows[1]["members"][0]["offset"] = 2**63 - 512


@pytest.mark.parametrize("change", [_rename, _shift, _grow, _swap, _lose, _far, _negative, _overflow])
def test_an_index_of_another_tar_is_found(tmp_path: Path, change: Any) -> None:
    tar, members = write_samples(tmp_path, [(700, 20), (5, 5), (9, 9)])
    rows = members.to_pylist()
    change(rows)
    assert find_fields(tar, pa.Table.from_pylist(rows, schema=tables.MEMBERS))


def test_a_foreign_tar_with_the_same_names_is_named_field_by_field(tmp_path: Path) -> None:
    tar, members = write_samples(tmp_path, [(7, 7)])
    sink = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(tar)) as own, tarfile.open(fileobj=sink, mode="w", format=0) as foreign:
        for info in own:
            content = own.extractfile(info)
            info.mtime, info.mode, info.uname = 1, 0o600, "somebody"
            foreign.addfile(info, content)
    assert {"header.mtime", "header.mode", "header.uname"} <= find_fields(sink.getvalue(), members)
