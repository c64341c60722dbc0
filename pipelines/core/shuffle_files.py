"""How bigger things meet: through files. A map task writes one table with one row group a partition; reduce task p
reads row group p of every map file, in order. Memory is that of a partition, and each side resumes by task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import storage, tables


def write(uri: str, table: pa.Table, partition: NDArray[np.int64], count: int, fingerprint: str) -> None:
    """Write rows grouped by partition (int64 (n,) in [0, count)), keeping their order within one."""
    order = np.argsort(partition, kind="stable")
    groups = np.bincount(partition, minlength=count).tolist()
    tables.write(uri, table.take(pa.array(order)), fingerprint=fingerprint, groups=groups)


def read(folder: str, names: Sequence[str], partition: int, schema: pa.Schema) -> pa.Table:
    """Everything that the map tasks `names` wrote for one partition."""
    parts = [tables.read_group(storage.join(folder, f"{name}.parquet"), partition) for name in names]
    parts = [part.replace_schema_metadata(None) for part in parts if part.num_rows]
    return pa.concat_tables(parts).combine_chunks() if parts else tables.empty(schema)
