"""Compare videos and samples of several images: find similar frames, then pairs with enough of them in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.dedup import vectors as dedup
from filters.dedup.videos import match_videos
from infra import tables
from infra.commit import unit_name
from infra.hashing import mix64
from pipelines.core import shuffle_files
from pipelines.decide.duplicates.equal_bytes import link_equal_media
from pipelines.decide.duplicates.search import DuplicateSearch, Ids, unit_indexes
from pipelines.decide.duplicates.vectors import FRAME_BITS, MIRRORED, read_partition

#: Frame i of the video with row id a is similar to frame j of video b.
HITS = pa.schema([("a", pa.uint64()), ("b", pa.uint64()), ("i", pa.int32()), ("j", pa.int32())])
EDGES = pa.schema(
    [
        ("a", pa.uint64()),
        ("b", pa.uint64()),
        ("share", pa.float64()),
        ("a_start", pa.float64()),
        ("a_end", pa.float64()),
        ("b_start", pa.float64()),
        ("b_end", pa.float64()),
    ]
)


def write_hits(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: find similar frames in one partition, and write them to the partition of their pair of videos."""
    uri = search.at("hits", f"{name}.parquet")
    if tables.is_intact(uri, search.inputs):
        return {}
    vectors = read_partition(search, name)
    blocks = list(dedup.search_cells(vectors.base, vectors.queries, search.threshold, shift=FRAME_BITS))
    a = np.concatenate([np.zeros(0, np.uint64), *(edges.a for edges in blocks)])
    b = np.concatenate([np.zeros(0, np.uint64), *(edges.b for edges in blocks)])
    frame = np.uint64(MIRRORED - 1)
    rows_a, rows_b = vectors.to_rows(a), vectors.to_rows(b)
    table = pa.table(
        {"a": rows_a, "b": rows_b, "i": (a & frame).astype(np.int32), "j": (b & frame).astype(np.int32)}, schema=HITS
    )
    search.write_shuffled(uri, table, mix64(rows_a) ^ mix64(mix64(rows_b)))
    return {"hits": len(a)}


def match_partition(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: find the pairs of one partition that share enough frames in order, and those of equal bytes."""
    uri = search.at("edges", f"{name}.parquet")
    if tables.is_intact(uri, search.inputs):
        return {}
    hits = shuffle_files.read(search.at("hits"), search.partition_names, int(name[1:]), HITS)
    edges = [*_match_pairs(search, hits), *_pair_equal_media(search, name)]
    tables.write(uri, pa.Table.from_pylist(edges, schema=EDGES), fingerprint=search.inputs)
    return {"edges": len(edges)}


def _match_pairs(search: DuplicateSearch, hits: pa.Table) -> Iterator[dict[str, object]]:
    rows, number = np.unique(np.concatenate([hits["a"].to_numpy(), hits["b"].to_numpy()]), return_inverse=True)
    frames = np.concatenate([hits["i"].to_numpy(), hits["j"].to_numpy()]).astype(np.uint64)
    ids = (number.astype(np.uint64) << np.uint64(FRAME_BITS)) | frames
    times = _read_times(search, rows)
    a, b = ids[: hits.num_rows], ids[hits.num_rows :]
    min_share = search.settings.min_share(search.modality)
    for i, j, match in match_videos(a, b, dict(enumerate(times)), shift=FRAME_BITS, min_share=min_share):
        first, last = match.spans[0], match.spans[-1]
        yield {
            "a": int(rows[i]),
            "b": int(rows[j]),
            "share": match.share,
            "a_start": first.a_start,
            "a_end": last.a_end,
            "b_start": first.b_start,
            "b_end": last.b_end,
        }


def _pair_equal_media(search: DuplicateSearch, name: str) -> Iterator[dict[str, object]]:
    heads, copies = link_equal_media(search, name)
    for a, b, seconds in zip(heads.tolist(), copies.tolist(), _read_times(search, copies), strict=True):
        start, end = (float(seconds[0]), float(seconds[-1])) if len(seconds) else (None, None)
        yield {"a": a, "b": b, "share": 1.0, "a_start": start, "a_end": end, "b_start": start, "b_end": end}


def _read_times(search: DuplicateSearch, rows: Ids) -> list[NDArray[np.float64]]:
    """For each row, the times of its frames in seconds."""
    times: dict[int, NDArray[np.float64]] = {}
    row_set = pa.array(rows, pa.uint64())
    for index in np.unique(unit_indexes(rows)).tolist():
        table = tables.read(search.at("times", f"{unit_name(index)}.parquet"))
        table = table.filter(pc.is_in(table["row"], value_set=row_set))
        for row, seconds in zip(table["row"].to_pylist(), table["times"].to_pylist(), strict=True):
            times[row] = np.asarray(seconds, dtype=np.float64)
    return [times[row] for row in rows.tolist()]
