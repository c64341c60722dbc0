"""Link media of equal bytes: slides, dark and plain pictures have no fingerprint, and their copies are copies too."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from infra import tables
from infra.store import content_ids
from pipelines.core import shuffle_files
from pipelines.decide.duplicates.search import DuplicateSearch, Ids, unit_rows

#: id: of a sample's media, from the sha256 of their bytes; see infra.store.content_ids.
MEDIA = pa.schema([("id", pa.binary()), ("row", pa.uint64())])


def write_media_ids(search: DuplicateSearch, unit: str) -> None:
    """Write a unit's rows to the partitions of their media's ids."""
    uri = search.at("equal", f"{unit}.parquet")
    if tables.is_intact(uri, search.inputs):
        return
    rows = search.read_row_ids(unit)
    samples = search.run.read("samples", unit, ["modality", "text", "media"]).take(pa.array(unit_rows(rows)))
    ids = content_ids(samples)["media"].to_pylist()
    hashes = np.array([int.from_bytes(media_id[:8], "little") for media_id in ids], dtype=np.uint64)
    search.write_shuffled(uri, pa.table({"id": ids, "row": rows}, schema=MEDIA), hashes)


def link_equal_media(search: DuplicateSearch, name: str) -> tuple[Ids, Ids]:
    """uint64 (m,) twice: in one partition, the first row of each group of equal media, and each other row of it."""
    table = shuffle_files.read(search.at("equal"), search.units, int(name[1:]), MEDIA).sort_by("row")
    rows = table["row"].to_numpy()
    first: dict[bytes, int] = {}
    heads = [first.setdefault(media_id, i) for i, media_id in enumerate(table["id"].to_pylist())]
    copies = np.flatnonzero(np.array(heads, dtype=np.int64) != np.arange(len(rows)))
    return rows[np.array(heads, dtype=np.int64)[copies]], rows[copies]
