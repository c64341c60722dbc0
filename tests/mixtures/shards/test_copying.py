from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StageError
from mixtures.shards import copying, shards
from mixtures.shards.copying import SampleSpan, SourceTars, copy_samples, name_copy
from mixtures.shards.unpack import unpack_members, verify_copies
from mixtures.shards.ustar import parse_header, rename_header
from tests.mixtures.runs import Row, sample


def write_samples(path: Path, rows: list[Row]) -> dict[str, shards.WrittenSample]:
    _, written = shards.write_tar(path, [(row.key, sample(row)[0]) for row in rows])
    return {sample_info.key: sample_info for sample_info in written}


def spans_of(tar: Path, written: dict[str, shards.WrittenSample], repeats: int = 1) -> list[SampleSpan]:
    return [
        SampleSpan(sample_info.key, r, str(tar), sample_info.offset, sample_info.size)
        for r in range(repeats)
        for sample_info in written.values()
    ]


def copy_spans(path: Path, spans: list[SampleSpan]) -> tuple[str, int]:
    sources = SourceTars()
    try:
        return copy_samples(path, spans, sources)
    finally:
        sources.close()


ROWS = [Row(i, m, size=3000 * i + 7) for i, m in enumerate(("video", "text", "multi_image", "image", "video", "text"))]


@pytest.mark.parametrize("buffer_bytes", [4 * 2**20, 4096, 512])  # the last two: samples larger than the buffer
def test_a_mixture_s_tar_is_the_spans_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    monkeypatch.setattr(copying, "BUFFER_BYTES", buffer_bytes)
    written = write_samples(tmp_path / "a.tar", ROWS)
    spans = spans_of(tmp_path / "a.tar", written)[::-1]
    digest, size = copy_spans(tmp_path / "mix.tar", spans)
    copy, source = (tmp_path / "mix.tar").read_bytes(), (tmp_path / "a.tar").read_bytes()
    body = b"".join(source[span.offset : span.offset + span.size] for span in spans)
    assert copy == body + bytes(len(copy) - len(body)) and len(copy) - len(body) >= 1024
    assert size == len(copy) and size % tarfile.RECORDSIZE == 0 and digest == hashlib.sha256(copy).hexdigest()


@pytest.mark.parametrize("buffer_bytes", [4 * 2**20, 1024])
def test_a_repeat_has_a_key_of_its_own_and_the_same_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer_bytes: int
) -> None:
    monkeypatch.setattr(copying, "BUFFER_BYTES", buffer_bytes)
    written = write_samples(tmp_path / "a.tar", ROWS)
    spans = spans_of(tmp_path / "a.tar", written, repeats=3)
    copy_spans(tmp_path / "mix.tar", spans)
    with tarfile.open(tmp_path / "mix.tar") as tar, tarfile.open(tmp_path / "a.tar") as source:
        names = tar.getnames()
        assert len(set(names)) == len(names) == 3 * len(source.getnames())
        for info in tar:
            key, _, suffix = info.name.partition(".")
            same = source.extractfile(f"{key.split('-')[0]}.{suffix}")
            assert tar.extractfile(info).read() == same.read()  # type: ignore[union-attr]
    at = 0
    copy = (tmp_path / "mix.tar").read_bytes()
    for span in spans:  # so that offsets are the running sum of sizes
        assert parse_header(copy[at : at + 512])[0].split(".")[0] == span.name == name_copy(span.key, span.repeat)
        at += span.size


@given(st.text("abcdefghijklmnop", min_size=1, max_size=60), st.integers(0, 8**11 - 1))
def test_headers_are_read_and_renamed_as_tarfile_would(name: str, size: int) -> None:
    info = tarfile.TarInfo(f"{name}.json")
    info.size, info.mode = size, 0o644
    block = info.tobuf(tarfile.USTAR_FORMAT)
    assert parse_header(block) == (info.name, size)
    info.name = f"{name}-r7.json"
    assert rename_header(block, info.name) == info.tobuf(tarfile.USTAR_FORMAT)


def test_a_span_without_the_sample_is_an_error(tmp_path: Path) -> None:
    written = write_samples(tmp_path / "a.tar", ROWS)
    first, second = list(written.values())[:2]
    tar = str(tmp_path / "a.tar")
    cases = {
        "found": SampleSpan(second.key, 0, tar, first.offset, first.size),
        "no tar header": SampleSpan(first.key, 0, tar, first.offset + 512, first.size),
        "ends elsewhere": SampleSpan(first.key, 0, tar, first.offset, first.size - 512),
        "ends before byte": SampleSpan(first.key, 0, tar, first.offset, 10**6),
    }
    for words, span in cases.items():
        with pytest.raises(StageError, match=words) as caught:
            copy_spans(tmp_path / "mix.tar", [span])
        assert caught.value.where == tar
    with pytest.raises(StageError, match="a shard is missing"):
        copy_spans(tmp_path / "mix.tar", [SampleSpan(first.key, 0, str(tmp_path / "b.tar"), 0, 512)])


@given(st.integers(0, 2**32))
def test_a_flipped_bit_in_a_header_or_medium_is_found(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    folder = tmp_path_factory.mktemp("flip")
    rng = np.random.default_rng(seed)
    row = Row(int(rng.integers(50)), ("video", "image", "multi_image")[int(rng.integers(3))], size=700)
    (written,) = write_samples(folder / "a.tar", [row]).values()
    content = bytearray((folder / "a.tar").read_bytes())
    inside = []
    for name, offset, size in written.members:
        inside += list(range(offset - 512, offset - 12))  # 12 bytes of a header are padding that its sum covers too
        if name.rsplit(".", 1)[1] not in ("json", "txt"):
            inside += list(range(offset, offset + size))
    content[inside[int(rng.integers(len(inside)))]] ^= 1 << int(rng.integers(7))
    (folder / "a.tar").write_bytes(content)
    span = SampleSpan(row.key, 0, str(folder / "a.tar"), written.offset, written.size)
    with pytest.raises(StageError):
        copy_spans(folder / "mix.tar", [span])
        verify_copies(str(folder / "mix.tar"), [(span, 0)])


def test_sound_media_pass_and_another_samples_record_does_not(tmp_path: Path) -> None:
    written = write_samples(tmp_path / "a.tar", ROWS)
    spans = spans_of(tmp_path / "a.tar", written, repeats=2)
    copy_spans(tmp_path / "mix.tar", spans)
    starts = np.cumsum([0, *(span.size for span in spans)]).tolist()
    verify_copies(str(tmp_path / "mix.tar"), zip(spans, starts, strict=False))
    with pytest.raises(StageError, match="is not here"):
        verify_copies(str(tmp_path / "mix.tar"), [(spans[0], starts[1])])


def test_members_of_a_sample(tmp_path: Path) -> None:
    parts, _ = sample(ROWS[2])
    written = write_samples(tmp_path / "a.tar", [ROWS[2]])[ROWS[2].key]
    block = (tmp_path / "a.tar").read_bytes()[written.offset : written.offset + written.size]
    members = unpack_members(memoryview(block), ROWS[2].key, "a.tar", written.offset)
    assert list(members.items()) == [(member.suffix, member.content) for member in parts]
    with tarfile.open(fileobj=io.BytesIO(block)) as tar:
        assert [name.split(".", 1)[1] for name in tar.getnames()] == list(members)


def test_more_tars_than_may_be_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "MAX_OPEN_TARS", 2)
    spans = []
    for number in range(5):
        written = write_samples(tmp_path / f"{number}.tar", [Row(number, "text")])
        spans += spans_of(tmp_path / f"{number}.tar", written)
    copy_spans(tmp_path / "mix.tar", spans * 2)  # the same key twice is for the caller to see to
    with tarfile.open(tmp_path / "mix.tar") as tar:
        assert [name.split(".")[0] for name in tar.getnames()] == [span.key for span in spans * 2]
