from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra import store, tables


def ids(*numbers: int) -> pa.Array:
    return pa.array([bytes([n]) * 16 for n in numbers], store.ID)


def cells(*numbers: int) -> pa.Table:
    return pa.table({"id": ids(*numbers), "value": [float(n) for n in numbers]})


def test_parts_are_added_and_united(tmp_path: Path) -> None:
    cell_store = store.Cells(str(tmp_path), "facts", "m" * 32)
    assert cell_store.read("unit") is None and cell_store.parts() == []
    cell_store.add("unit", cells(3, 1, 3))
    cell_store.add("unit", cells(2))
    cell_store.add("unit", cells())
    cell_store.add("unit", cells(1, 3))  # the same ids again: the same part
    read = cell_store.read("unit")
    assert read is not None and sorted(read["value"].to_pylist()) == [1.0, 2.0, 3.0]
    assert len(cell_store.parts()) == 2
    assert {unit for unit, _ in cell_store.parts()} == {"unit"}


def test_cells_of_another_fingerprint_are_not_read(tmp_path: Path) -> None:
    store.Cells(str(tmp_path), "facts", "one").add("unit", cells(1))
    assert store.Cells(str(tmp_path), "facts", "two").read("unit") is None
    assert store.Cells(str(tmp_path), "clean", "one").read("unit") is None


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)))
def test_align_looks_up_rows_by_id(asked: list[int], stored: list[int]) -> None:
    table = cells(*dict.fromkeys(stored))
    values = list(dict.fromkeys(stored))
    expected = [values.index(n) if n in values else -1 for n in asked]
    assert store.align(ids(*asked), table).tolist() == expected
    assert store.align(ids(*asked), None).tolist() == [-1] * len(asked)


@given(st.lists(st.integers(0, 9)))
def test_the_first_row_of_each_id_is_kept(numbers: list[int]) -> None:
    table = cells(*numbers).append_column("at", pa.array(np.arange(len(numbers))))
    kept = store.drop_repeated_ids(table)
    assert kept["at"].to_pylist() == [numbers.index(n) for n in dict.fromkeys(numbers)]


def test_content_ids_depend_on_what_annotators_read_and_not_on_location() -> None:
    medium = {"uri": "a.jpg", "offset": 0, "length": -1, "start_s": 0.0, "end_s": -1.0, "sha256": "aa"}
    base = {"key": "k", "modality": "image", "media": [medium], "text": "words"}
    changed = {
        "moved": {**base, "key": "q", "media": [{**medium, "uri": "b.jpg", "offset": 7, "length": 9}]},
        "span": {**base, "media": [{**medium, "end_s": 1.0}]},
        "bytes": {**base, "media": [{**medium, "sha256": "bb"}]},
        "twice": {**base, "media": [medium, medium]},
        "text": {**base, "text": "other words"},
        "modality": {**base, "modality": "video"},
    }
    samples = pa.Table.from_pylist([base, *changed.values()], schema=tables.SAMPLES)
    ids = {name: column.to_pylist() for name, column in store.content_ids(samples).items()}
    same = {
        of: {name for name, changed_id in zip(changed, values[1:], strict=True) if changed_id == values[0]}
        for of, values in ids.items()
    }
    assert same == {"text": {"moved", "span", "bytes", "twice"}, "media": {"moved", "text"}, "pair": {"moved"}}


def test_a_damaged_part_is_renamed_and_its_cells_are_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cell_store = store.Cells(str(tmp_path), "facts", "m" * 32)
    cell_store.add("unit", cells(1, 2))
    cell_store.add("unit", cells(3))
    ((_, first), (_, second)) = cell_store.parts()
    path = Path(cell_store.folder) / "unit" / first
    sound = path.read_bytes()
    expected = cell_store.read("unit")
    assert expected is not None
    for position in range(0, len(sound), 7):
        for damaged in (sound[:position], sound[:position] + bytes([sound[position] ^ 4]) + sound[position + 1 :]):
            path.write_bytes(damaged)
            rest = cell_store.read("unit")
            assert rest is not None and rest.num_rows == expected.num_rows - tables.parse(sound).num_rows
            assert cell_store.parts() == [("unit", second)]
            assert path.with_name(f"{first}.damaged").read_bytes() == damaged
            assert first in capsys.readouterr().err
    path.write_bytes(sound)
    assert cell_store.read("unit").equals(expected)  # type: ignore[union-attr]
    (Path(cell_store.folder) / "unit" / second).unlink()
    assert cell_store.read("unit", ["value"]).num_rows == tables.parse(sound).num_rows  # type: ignore[union-attr]
