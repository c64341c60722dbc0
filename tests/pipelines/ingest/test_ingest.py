from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.config import Source
from infra.errors import ConfigError
from infra.hashing import digest
from pipelines.core.run import Run
from pipelines.ingest import ingest
from pipelines.ingest.ingest import Cutter
from tests import corpus
from tests.tiny import rows, told

SOURCE = Source(name="s", path="x", modality="image")


def cutter(target_bytes: int = 2**40, target_rows: int = 4) -> Cutter:
    return Cutter.of(SOURCE, target_bytes, target_rows)


SCHEMA = pa.schema([("container", pa.string()), ("position", pa.string()), ("size", pa.int64())])


def table(sizes: Sequence[tuple[str, int]]) -> pa.Table:
    return pa.Table.from_pylist([{"container": n, "position": "", "size": s} for n, s in sizes], schema=SCHEMA)


def units(items: Sequence[tuple[str, int]], made: Cutter) -> list[tuple[tuple[str, int], ...]]:
    ends = made.boundaries(table(items))
    edges = [0, *ends, *([len(items)] if not ends or ends[-1] < len(items) else [])]
    return [tuple(items[a:b]) for a, b in itertools.pairwise(edges) if a < b]


ITEMS = st.lists(
    st.tuples(st.text("abcdefgh", min_size=1, max_size=6), st.integers(0, 100)), max_size=60, unique_by=lambda i: i[0]
)


@given(ITEMS, ITEMS)
def test_what_comes_later_moves_no_boundary(items: list[tuple[str, int]], more: list[tuple[str, int]]) -> None:
    short = cutter().boundaries(table(items))
    assert cutter().boundaries(table([*items, *more]))[: len(short)] == short


@given(ITEMS, st.integers(0, 60))
def test_parts_may_be_cut_anywhere(items: list[tuple[str, int]], cut: int) -> None:
    one, two = cutter(), cutter()
    cut = min(cut, len(items))
    first, second = two.boundaries(table(items[:cut])), two.boundaries(table(items[cut:]))
    assert one.boundaries(table(items)) == [*first, *(cut + end for end in second)]


@given(ITEMS, st.integers(0, 60), st.integers(0, 100))
def test_a_new_item_disturbs_nothing_beyond_the_next_boundary_by_hash(
    items: list[tuple[str, int]], at: int, size: int
) -> None:
    made = cutter()
    at = min(at, len(items))
    new = ("new", size)
    before, after = units(items, cutter()), units([*items[:at], new, *items[at:]], cutter())

    def ends_by_hash(item: tuple[str, int]) -> bool:
        name = digest(b"s", item[0].encode(), b"", size=8)
        return int.from_bytes(name, "little") % made.modulus == 0

    # The stretch between two boundaries by hash in which the item lies; forced cuts move only in there.
    start = max((i + 1 for i in range(at) if ends_by_hash(items[i])), default=0)
    end = next((i + 1 for i in range(at, len(items)) if ends_by_hash(items[i])), len(items))
    inside = set(items[start:end])
    assert [u for u in before if not set(u) & inside] == [u for u in after if not set(u) & (inside | {new})]


@given(ITEMS, st.integers(1, 200), st.integers(1, 6))
def test_units_are_bounded(items: list[tuple[str, int]], target_bytes: int, target_rows: int) -> None:
    for unit in units(items, cutter(target_bytes, target_rows)):
        assert len(unit) <= 4 * target_rows
        assert sum(size for _, size in unit[:-1]) < 4 * target_bytes
    assert [item for unit in units(items, cutter(target_bytes, target_rows)) for item in unit] == items


def test_modulus_comes_from_the_config() -> None:
    assert Cutter.of(SOURCE, 2**30, 50_000).modulus == 4096  # 1 GiB / 256 KiB
    assert Cutter.of(SOURCE.model_copy(update={"mean_bytes": 2**20 + 1}), 2**30, 50_000).modulus == 1024
    assert Cutter.of(SOURCE, 1, 1).modulus == 1


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
    other = make_run(sources, "other-run")
    ingest.run(other)
    assert not {row["key"] for row in rows(other, "samples")} & set(keys)


def test_only_units_whose_files_changed_are_made_again(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    run = make_run(folder(tmp_path), units={"target_rows": 2})
    count = len(ingest.run(run).units)
    before = rows(run, "samples")
    assert told(run, "work/ingest.counters.json")["units_made"] == count
    ingest.run(run)
    assert told(run, "work/ingest.counters.json") == {"units_kept": count}
    # The same bytes at another time are looked at and stay what they were; other bytes are another sample.
    os.utime(tmp_path / "in" / "05.jpg", (1, 1))
    manifest = ingest.run(run)
    assert told(run, "work/ingest.counters.json")["units_made"] == 1
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
    blocks = storage.blocks

    def refused(uri: str, *rest: int) -> object:
        if uri.endswith("01.jpg"):
            raise PermissionError(13, "Permission denied")
        return blocks(uri, *rest)

    monkeypatch.setattr(storage, "blocks", refused)
    ingest.run(run)
    good, bad = rows(run, "samples")
    assert good["error"] is None and bad["error"] == "unreadable medium: Permission denied"
    assert bad["media"][0]["sha256"] == "" and bad["text"] == corpus.caption(1)


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
    found = rows(run, "samples")
    assert [row["licence"] for row in found] == ["CC0", "unclear"]
    assert {row["origin"] for row in found} == {"https://example.org"} and {row["source"] for row in found} == {"a"}
