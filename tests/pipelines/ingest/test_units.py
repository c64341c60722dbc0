from __future__ import annotations

import itertools
from collections.abc import Sequence

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from infra.config import Source
from infra.hashing import digest
from pipelines.ingest.units import UnitCutter

SOURCE = Source(name="s", path="x", modality="image")


def make_cutter(target_bytes: int = 2**40, target_rows: int = 4) -> UnitCutter:
    return UnitCutter.for_source(SOURCE, target_bytes, target_rows)


SCHEMA = pa.schema([("container", pa.string()), ("position", pa.string()), ("size", pa.int64())])


def table(sizes: Sequence[tuple[str, int]]) -> pa.Table:
    return pa.Table.from_pylist([{"container": n, "position": "", "size": s} for n, s in sizes], schema=SCHEMA)


def cut_units(items: Sequence[tuple[str, int]], unit_cutter: UnitCutter) -> list[tuple[tuple[str, int], ...]]:
    ends = unit_cutter.find_ends(table(items))
    edges = [0, *ends, *([len(items)] if not ends or ends[-1] < len(items) else [])]
    return [tuple(items[a:b]) for a, b in itertools.pairwise(edges) if a < b]


ITEMS = st.lists(
    st.tuples(st.text("abcdefgh", min_size=1, max_size=6), st.integers(0, 100)), max_size=60, unique_by=lambda i: i[0]
)


@given(ITEMS, ITEMS)
def test_later_items_move_no_boundary(items: list[tuple[str, int]], more: list[tuple[str, int]]) -> None:
    short = make_cutter().find_ends(table(items))
    assert make_cutter().find_ends(table([*items, *more]))[: len(short)] == short


@given(ITEMS, st.integers(0, 60))
def test_units_do_not_depend_on_how_the_listing_is_split(items: list[tuple[str, int]], cut: int) -> None:
    whole, split = make_cutter(), make_cutter()
    cut = min(cut, len(items))
    first, second = split.find_ends(table(items[:cut])), split.find_ends(table(items[cut:]))
    assert whole.find_ends(table(items)) == [*first, *(cut + end for end in second)]


@given(ITEMS, st.integers(0, 60), st.integers(0, 100))
def test_a_new_item_disturbs_nothing_beyond_the_next_boundary_by_hash(
    items: list[tuple[str, int]], at: int, size: int
) -> None:
    modulus = make_cutter().modulus
    at = min(at, len(items))
    new = ("new", size)
    before, after = cut_units(items, make_cutter()), cut_units([*items[:at], new, *items[at:]], make_cutter())

    def ends_by_hash(item: tuple[str, int]) -> bool:
        name = digest(b"s", item[0].encode(), b"", size=8)
        return int.from_bytes(name, "little") % modulus == 0

    # The stretch between two boundaries by hash in which the item lies; forced cuts move only in there.
    start = max((i + 1 for i in range(at) if ends_by_hash(items[i])), default=0)
    end = next((i + 1 for i in range(at, len(items)) if ends_by_hash(items[i])), len(items))
    inside = set(items[start:end])
    assert [u for u in before if not set(u) & inside] == [u for u in after if not set(u) & (inside | {new})]


@given(ITEMS, st.integers(1, 200), st.integers(1, 6))
def test_units_are_bounded(items: list[tuple[str, int]], target_bytes: int, target_rows: int) -> None:
    for unit in cut_units(items, make_cutter(target_bytes, target_rows)):
        assert len(unit) <= 4 * target_rows
        assert sum(size for _, size in unit[:-1]) < 4 * target_bytes
    assert [item for unit in cut_units(items, make_cutter(target_bytes, target_rows)) for item in unit] == items


def test_modulus_comes_from_the_config() -> None:
    assert UnitCutter.for_source(SOURCE, 2**30, 50_000).modulus == 4096  # 1 GiB / 256 KiB
    assert UnitCutter.for_source(SOURCE.model_copy(update={"mean_bytes": 2**20 + 1}), 2**30, 50_000).modulus == 1024
    assert UnitCutter.for_source(SOURCE, 1, 1).modulus == 1
