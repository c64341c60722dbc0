from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from infra import storage
from infra.errors import ConfigError
from pipelines.core.run import Run
from pipelines.core.sample_media import media_refs, media_root
from pipelines.ingest import ingest
from tests import corpus
from tests.tiny import read_json_of, rows


def folder(root: Path, count: int = 12) -> list[dict[str, str]]:
    (root / "in").mkdir()
    for number in range(count):
        (root / "in" / f"{number:02d}.jpg").write_bytes(f"image {number}".encode())
        (root / "in" / f"{number:02d}.txt").write_text(corpus.caption(number))
    return [{"name": "photos", "path": str(root / "in"), "modality": "image"}]


def test_keys_are_unique_and_do_not_depend_on_where_the_source_lies(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    sources = folder(tmp_path)
    run = make_run(sources, units={"target_rows": 2})
    assert len(ingest.run(run).units) > 2
    keys = [row["key"] for row in rows(run, "samples")]
    assert len(set(keys)) == 12
    (tmp_path / "in").rename(tmp_path / "moved")
    sources[0]["path"] = str(tmp_path / "moved")
    moved = make_run(sources, "moved-run", units={"target_rows": 3})
    ingest.run(moved)
    assert [row["key"] for row in rows(moved, "samples")] == keys
    sources[0]["name"] = "other"
    renamed = make_run(sources, "other-run")
    ingest.run(renamed)
    assert not {row["key"] for row in rows(renamed, "samples")} & set(keys)


def test_only_units_with_changed_files_are_ingested_again(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(folder(tmp_path), units={"target_rows": 2})
    count = len(ingest.run(run).units)
    before = rows(run, "samples")
    assert read_json_of(run, "work/ingest.counters.json")["units_made"] == count
    ingest.run(run)
    assert read_json_of(run, "work/ingest.counters.json") == {"units_kept": count}
    # The same bytes with another time stamp are read again and give the same samples; other bytes give another one.
    os.utime(tmp_path / "in" / "05.jpg", (1, 1))
    manifest = ingest.run(run)
    assert read_json_of(run, "work/ingest.counters.json")["units_made"] == 1
    assert rows(run, "samples") == before
    (tmp_path / "in" / "05.jpg").write_bytes(b"another")
    assert ingest.run(run).fingerprint != manifest.fingerprint
    changed = [a["container"] for a, b in zip(before, rows(run, "samples"), strict=True) if a != b]
    assert changed == ["05.jpg"]


def test_a_caption_that_changed_is_read_again(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(folder(tmp_path))
    ingest.run(run)
    (tmp_path / "in" / "03.txt").write_text("Quite another caption.")
    ingest.run(run)
    assert next(row["text"] for row in rows(run, "samples") if row["container"] == "03.jpg") == "Quite another caption."


def test_a_medium_that_cannot_be_read_is_a_failed_row(
    tmp_path: Path, make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    from infra import storage

    run = make_run(folder(tmp_path, 2))
    read_blocks = storage.read_blocks

    def refuse_one(uri: str, *rest: int) -> object:
        if uri.endswith("01.jpg"):
            raise PermissionError(13, "Permission denied")
        return read_blocks(uri, *rest)

    monkeypatch.setattr(storage, "read_blocks", refuse_one)
    ingest.run(run)
    good, bad = rows(run, "samples")
    assert good["error"] is None and bad["error"] == "unavailable medium: Permission denied"
    assert bad["media"][0]["sha256"] == "" and bad["text"] == corpus.caption(1)


def test_a_medium_beyond_the_limit_is_not_read(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    """A sparse file of a terabyte: hashing it would take an hour."""
    sources = folder(tmp_path, 2)
    with open(tmp_path / "in" / "01.jpg", "ab") as file:
        file.truncate(2**40)
    run = make_run(sources)
    ingest.run(run)
    good, bad = rows(run, "samples")
    assert good["error"] is None and good["media"][0]["sha256"]
    assert bad["error"].startswith("too_large: 1,099,511,627,776 bytes") and bad["media"][0]["sha256"] == ""
    run = make_run(sources, measure={"max_bytes": 5})
    ingest.run(run)
    assert {row["error"].split(":")[0] for row in rows(run, "samples")} == {"too_large"}


def test_a_source_that_is_not_there_stops_before_anything_is_written(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    run = make_run([{"name": "a", "path": str(tmp_path / "nowhere"), "modality": "image"}])
    with pytest.raises(ConfigError, match="nothing at"):
        ingest.run(run)
    assert not Path(run.at("samples")).exists()


def test_a_medium_named_by_a_table_that_changed_is_hashed_again(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"one")
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    (tmp_path / "in" / "rows.json").write_text(json.dumps([{"id": 1, "image": "a.jpg", "conversations": turns}]))
    run = make_run([{"name": "a", "path": str(tmp_path / "in"), "modality": "image", "format": "llava"}])
    ingest.run(run)
    before = rows(run, "samples")
    (tmp_path / "in" / "a.jpg").write_bytes(b"two")
    ingest.run(run)
    assert rows(run, "samples")[0]["media"][0]["sha256"] != before[0]["media"][0]["sha256"]


def test_licence_and_origin_come_from_the_row_before_the_config(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    (tmp_path / "in").mkdir()
    for name, sidecar in (("a", '{"caption": "A kite.", "rights": "CC0"}'), ("b", '{"caption": "A kite."}')):
        (tmp_path / "in" / f"{name}.jpg").write_bytes(b"x")
        (tmp_path / "in" / f"{name}.json").write_text(sidecar)
    run = make_run([{"name": "a", "path": str(tmp_path / "in"), "modality": "image", "licence": "unclear",
                     "licence_column": "rights", "origin": "https://example.org"}])  # fmt: skip
    ingest.run(run)
    samples = rows(run, "samples")
    assert [row["licence"] for row in samples] == ["CC0", "unclear"]
    assert {row["origin"] for row in samples} == {"https://example.org"} and {row["source"] for row in samples} == {"a"}


def test_media_of_compressed_tars_are_ranges_of_an_expanded_one_that_is_made_again_when_lost(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    (tmp_path / "in").mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        corpus.add_member(archive, "1.jpg", b"one")
        corpus.add_member(archive, "1.txt", b"a caption")
    (tmp_path / "in" / "a.tar.gz").write_bytes(gzip.compress(buffer.getvalue()))
    sources = [{"name": "tars", "path": str(tmp_path / "in"), "modality": "image"}]
    run = make_run(sources)
    ingest.run(run)
    before = rows(run, "samples")
    assert before[0]["media"][0]["sha256"] == hashlib.sha256(b"one").hexdigest()
    (ref,) = media_refs(before[0], media_root(run, run.config.sources[0]))
    assert storage.read_bytes(ref.uri, ref.offset, ref.length) == b"one"
    storage.remove(run.work())
    ingest.run(run)
    assert rows(run, "samples") == before and storage.read_bytes(ref.uri, ref.offset, ref.length) == b"one"
    os.utime(tmp_path / "in" / "a.tar.gz", (1, 1))
    (tmp_path / "in").rename(tmp_path / "moved")
    moved = make_run([{**sources[0], "path": str(tmp_path / "moved")}], "moved-run")
    ingest.run(moved)
    assert rows(moved, "samples") == before


def test_a_source_whose_tars_have_no_input_is_an_error(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        corpus.add_member(archive, "1.npy", b"x")
        corpus.add_member(archive, "1.mp4", b"x")
    run = make_run([{"name": "tars", "path": str(tmp_path / "in"), "modality": "image"}])
    with pytest.raises(ConfigError, match=r"1 × no known format, such as a\.tar: 1\.npy") as error:
        ingest.run(run)
    assert "`modality: video` reads .mp4" in str(error.value.hint)


@pytest.mark.parametrize(("many", "texts", "unused"), [("first", ["a"], 2), ("all", ["a", "b", "c"], 0)])
@pytest.mark.parametrize("is_tar", [False, True])
def test_a_list_of_captions_in_a_json_is_used_as_configured_and_the_rest_is_counted(
    tmp_path: Path, make_run: Callable[..., Run], many: str, texts: list[str], unused: int, is_tar: bool
) -> None:
    (tmp_path / "in").mkdir()
    contents = {"1.jpg": b"\xff\xd8\xff", "1.json": b'{"caption": ["a", "b", "c"]}'}
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        for name, content in contents.items():
            if is_tar:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                (tmp_path / "in" / name).write_bytes(content)
    if not is_tar:
        (tmp_path / "in" / "a.tar").unlink()
    captions = {"many": many}
    run = make_run([{"name": "s", "path": str(tmp_path / "in"), "modality": "image", "captions": captions}])
    for _ in range(2):  # the second keeps the unit
        ingest.run(run)
        samples = rows(run, "samples")
        assert sorted(row["text"] for row in samples) == texts
        account = run.read_members()["s"]
        assert (account["inputs"], account["unused_captions"]) == (len(texts), unused)
        assert run.count_unused_captions() == ({"image": unused} if unused else {})
