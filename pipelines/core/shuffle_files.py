"""File-based shuffle: map tasks write one row group per partition, reduce task p reads row group p of every map file.

Memory is bounded by one partition, and both sides resume by task.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import storage, tables


def write(uri: str, table: pa.Table, partition: NDArray[np.int64], count: int, fingerprint: str) -> None:
    """Write the rows grouped by partition (int64 (n,) in [0, count)), in their order within each."""
    order = np.argsort(partition, kind="stable")
    groups = np.bincount(partition, minlength=count).tolist()
    tables.write(uri, table.take(pa.array(order)), fingerprint=fingerprint, groups=groups)


def read(folder: str, names: Sequence[str], partition: int, schema: pa.Schema) -> pa.Table:
    """Everything that the map tasks `names` wrote for one partition, in their order."""
    groups = [tables.read_group(storage.join(folder, f"{name}.parquet"), partition) for name in names]
    groups = [group.replace_schema_metadata(None) for group in groups if group.num_rows]
    return pa.concat_tables(groups).combine_chunks() if groups else tables.empty(schema)
