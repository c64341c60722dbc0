from __future__ import annotations

import errno
import hashlib
import io
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StageError
from mixtures.shards import shards
from mixtures.shards.series import Series

ROWS = st.lists(
    st.tuples(st.integers(0, 500), st.booleans(), st.sampled_from(["image:jpg,json", "image:json,png", "text:json"]))
)


@given(ROWS, st.integers(1, 400), st.integers(1, 6))
def test_every_kept_row_is_in_one_shard_and_limits_hold(
    rows: list[tuple[int, bool, str]], most_bytes: int, most_samples: int
) -> None:
    bytes_ = np.array([row[0] for row in rows], dtype=np.int64)
    kept = np.array([row[1] for row in rows], dtype=bool)
    series = np.array([row[2] for row in rows], dtype=object)
    weight = shards.weigh_rows(bytes_, kept, most_bytes, most_samples)
    full = shards.compute_capacity(most_bytes, most_samples)
    before = {name: np.cumsum(weight[series == name]) - weight[series == name] for name in set(series)}
    used = {name: np.unique(before[name][kept[series == name]] // full).tolist() for name in before}
    layout = shards.build_layout(used, full)
    names = layout.names()
    assert len(set(names)) == len(names)
    for name in used:
        rows_of_series = np.flatnonzero(series == name)
        index = shards.assign_shards(before[name], full, layout.used[name])
        assert (np.diff(index) >= 0).all() and (index >= 0).all() and (index < max(len(used[name]), 1)).all()
        for shard in range(len(used[name])):
            inside = rows_of_series[(index == shard) & kept[rows_of_series]]
            assert 1 <= len(inside) <= most_samples
            # A row begins where there is room; it alone may reach beyond.
            assert bytes_[inside[:-1]].sum() <= most_bytes


def test_shards_are_numbered_through_the_series_of_a_modality() -> None:
    layout = shards.build_layout(
        {"image:json,png": [0, 3], "image:jpg,json": [0, 1, 2], "text:json": [], "video:json,mp4": [0]}, 10
    )
    assert layout.capacity == 10
    assert layout.names() == [
        "video-000000",
        "image-000000",
        "image-000001",
        "image-000002",
        "image-000003",
        "image-000004",
    ]
    assert layout.name("image:json,png", 1) == "image-000004" and layout.used["text:json"] == []


@pytest.mark.parametrize(
    ("path", "form", "suffix"),
    [
        ("a/B.JPEG", None, "jpg"), ("a.b/c", None, "bin"), ("x.MPG", None, "mpeg"), ("x.m4v", None, "mp4"),
        ("x.png", "JPEG", "jpg"), ("x", "MPO", "jpg"), ("x.webm", None, "webm"), ("x.a-b", None, "bin"),
        ("x.", None, "bin"), ("x.png", "unheard of", "png"), ("x.é", None, "bin"),
        ("x.jpg", "JPEG2000", "jp2"), ("x.j2k", "JPEG2000", "jp2"), ("x.jfif", "JPEG", "jpg"), ("x", "QOI", "qoi"),
        ("x.MTS", "mpegts", "ts"), ("x.m2ts", None, "ts"), ("x", "matroska,webm", "mkv"), ("x.mp4", "avi", "avi"),
        ("x.webm", "matroska,webm", "webm"), ("x.mov", "mov,mp4,m4a,3gp,3g2,mj2", "mov"),
    ],
)  # fmt: skip
def test_suffixes_follow_the_content_and_mean_one_format(path: str, form: str | None, suffix: str) -> None:
    assert shards.get_suffix(path, form) == suffix


def test_series_are_named_by_modality_and_suffixes() -> None:
    assert str(Series.of_sample("image", ["jpg"], has_caption=True)) == "image:jpg,json,txt"
    assert str(Series.of_sample("multi_image", ["jpg", "png"], has_caption=False)) == "multi_image:0.jpg,1.png,json"
    assert str(Series.of_sample("text", [], has_caption=False)) == "text:json"
    assert Series.parse("image:jpg,json,txt") == Series("image", ("jpg", "json", "txt"))


def media(content: bytes, suffix: str = "jpg") -> shards.Member:
    return shards.Member(
        suffix,
        blocks=[content[:3], content[3:]],
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        where="x",
    )


@given(st.lists(st.lists(st.binary(max_size=1200), min_size=1, max_size=3), max_size=5))
def test_members_are_read_back_at_the_offsets_returned(samples: list[list[bytes]]) -> None:
    members = [(f"k{i}", [shards.Member(f"{j}.x", content=content) if j % 2 else media(content, f"{j}.x")
                         for j, content in enumerate(parts)]) for i, parts in enumerate(samples)]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        digest, written = shards.write_tar(path, members)
        tar_bytes = path.read_bytes()
        plain = [(key, [shards.Member(f"{j}.x", content=content) for j, content in enumerate(parts)])
                 for (key, _), parts in zip(members, samples, strict=True)]  # fmt: skip
        again, _ = shards.write_tar(Path(folder) / "b.tar", plain)
    assert digest == hashlib.sha256(tar_bytes).hexdigest() == again
    with tarfile.open(fileobj=io.BytesIO(tar_bytes)) as tar:
        read = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    assert read == [(f"k{i}.{j}.x", content) for i, parts in enumerate(samples) for j, content in enumerate(parts)]
    end = 0
    for sample, parts in zip(written, samples, strict=True):
        assert sample.offset == end
        end += sample.size
        assert [tar_bytes[offset : offset + size] for _, offset, size in sample.members] == parts


def test_a_full_disk_is_not_blamed_on_the_source() -> None:
    with pytest.raises(StageError, match="cannot write here: No space left on device") as caught:
        shards.write_tar(Path("/dev/full"), [("k", [media(b"0123456789")])])
    assert caught.value.where == "/dev" and "free some space" in caught.value.hint


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    def read() -> Iterator[bytes]:
        yield b"012"
        raise OSError(errno.ENOSPC, "No space left on device")  # a cache of a remote file system may be full

    member = shards.Member("jpg", blocks=read(), size=10, where="photos/a.jpg")
    with pytest.raises(StageError, match="a medium cannot be read: No space left") as caught:
        shards.write_tar(tmp_path / "a.tar", [("k", [member])])
    assert caught.value.where == "photos/a.jpg"


@pytest.mark.parametrize("now", [b"0123456", b"012345678901", b"0123456788"])
def test_a_medium_that_changed_since_ingest_stops_the_shard(now: bytes, tmp_path: Path) -> None:
    member = media(b"0123456789")
    changed = shards.Member("jpg", blocks=[now], size=member.size, sha256=member.sha256, where="photos/a.jpg")
    with pytest.raises(StageError, match="it was at ingest") as caught:
        shards.write_tar(tmp_path / "a.tar", [("k", [changed])])
    assert caught.value.where == "photos/a.jpg" and "ingest" in caught.value.hint
