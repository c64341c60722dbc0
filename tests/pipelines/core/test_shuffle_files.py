from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core import shuffle_files

SCHEMA = pa.schema([("map", pa.int64()), ("number", pa.int64())])


@given(st.integers(1, 5).flatmap(lambda n: st.tuples(
    st.just(n), st.lists(st.lists(st.integers(0, n - 1), max_size=8), min_size=1, max_size=4))))  # fmt: skip
def test_each_partition_gets_its_rows_of_every_map_task_in_order(case: tuple[int, list[list[int]]]) -> None:
    count, maps = case
    with tempfile.TemporaryDirectory() as folder:
        names = [f"u{i:06d}" for i in range(len(maps))]
        for number, (name, targets) in enumerate(zip(names, maps, strict=True)):
            table = pa.table({"map": [number] * len(targets), "number": range(len(targets))}, schema=SCHEMA)
            uri = str(Path(folder) / f"{name}.parquet")
            shuffle_files.write(uri, table, np.array(targets, dtype=np.int64), count, "f")
        for partition in range(count):
            table = shuffle_files.read(folder, names, partition, SCHEMA)
            expected = [
                {"map": task, "number": number}
                for task, targets in enumerate(maps)
                for number, target in enumerate(targets)
                if target == partition
            ]
            assert table.to_pylist() == expected and table.schema.equals(SCHEMA)
