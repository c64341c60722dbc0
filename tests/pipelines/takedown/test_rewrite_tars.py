from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import storage, tables
from infra.errors import StageError
from mixtures.shards import shards
from pipelines.takedown import rewrite_tars

BYTES = st.binary(max_size=1200)
SAMPLES = st.lists(st.tuples(BYTES, BYTES), min_size=1, max_size=12)


def members(written: list[shards.WrittenSample]) -> pa.Table:
    rows = [
        {"key": w.key, "shard": "s", "offset": w.offset, "size": w.size,
         "members": [{"name": n, "offset": o, "size": s} for n, o, s in w.members]}
        for w in written
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=tables.MEMBERS)


def write(folder: Path, name: str, samples: list[tuple[str, tuple[bytes, bytes]]]) -> tuple[Path, pa.Table, str]:
    path = folder / name
    contents = [
        (key, [shards.Member("jpg", content=jpg), shards.Member("json", content=json)]) for key, (jpg, json) in samples
    ]
    sha256, written = shards.write_tar(path, contents)
    return path, members(written), sha256


@given(SAMPLES, st.data())
def test_removing_samples_gives_the_tar_of_the_others(
    tmp_path_factory: pytest.TempPathFactory, samples: list[tuple[bytes, bytes]], draws: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("tar")
    named = [(f"k{i:025d}", sample) for i, sample in enumerate(samples)]
    removed = draws.draw(st.sets(st.sampled_from([key for key, _ in named])))
    path, index, _ = write(folder, "old.tar", named)
    rest, expected, sha256 = write(folder, "wanted.tar", [(k, s) for k, s in named if k not in removed])
    rewrite_tars.check_offsets(str(path), index)
    new, spans = rewrite_tars.remove_members(index, sorted(removed))
    assert rewrite_tars.copy_spans(str(path), spans, folder / "new.tar") == sha256 == storage.sha256(str(rest))
    assert (folder / "new.tar").read_bytes() == rest.read_bytes()
    assert new.to_pylist() == expected.to_pylist()
    with tarfile.open(fileobj=io.BytesIO(rest.read_bytes())) as tar:
        assert len(tar.getnames()) == 2 * new.num_rows


def test_an_index_that_does_not_fit_stops_it(tmp_path: Path) -> None:
    path, index, _ = write(tmp_path, "a.tar", [("a" * 26, (b"1", b"2")), ("b" * 26, (b"3", b"4"))])
    _, other_index, _ = write(tmp_path, "b.tar", [("a" * 26, (b"1" * 600, b"2")), ("b" * 26, (b"3", b"4"))])
    rewrite_tars.check_offsets(str(path), index)
    with pytest.raises(StageError, match="is not where"):
        rewrite_tars.check_offsets(str(path), other_index)
    path.write_bytes(path.read_bytes()[:1024])
    with pytest.raises(StageError, match="shorter"):
        rewrite_tars.copy_spans(str(path), [(0, 4096)], tmp_path / "c.tar")


@given(st.lists(st.integers(0, 5), max_size=12))
def test_ranges_are_joined_without_loss(sizes: list[int]) -> None:
    offsets = [sum(sizes[:i]) + (i // 3) * 7 for i in range(len(sizes))]
    joined = rewrite_tars.merge_spans(offsets, sizes)
    assert [b for o, s in joined for b in range(o, o + s)] == [
        b for o, s in zip(offsets, sizes, strict=True) for b in range(o, o + s)
    ]
