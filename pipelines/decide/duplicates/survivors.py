"""Choose the survivor of each group: the longest, then the best aligned, then the largest, then the smallest key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.dedup.components import choose_survivors
from infra import tables
from infra.columns import to_floats
from infra.commit import unit_index
from infra.hashing import mix64
from pipelines.core import shuffle_files
from pipelines.core.resolve import Resolved, ordered, resolve
from pipelines.decide.duplicates.search import DuplicateSearch, Ids, first_row_id, unit_indexes, unit_rows

#: Members of groups. vectors, frames: fingerprints and their number; for texts, signature and number of words.
RANKS = pa.schema(
    [
        ("row", pa.uint64()),
        ("root", pa.uint64()),
        ("key", pa.string()),
        ("ranks", pa.list_(pa.float64())),
        ("vectors", pa.binary()),
        ("frames", pa.int32()),
    ]
)


def write_ranks(search: DuplicateSearch, unit: str) -> Mapping[str, int]:
    """Task: write a unit's rows that have a duplicate, with their ranks, to the partitions of their groups."""
    uri = search.at("ranks", f"{unit}.parquet")
    if tables.is_intact(uri, search.inputs):
        return {}
    components = tables.read(search.at("components.parquet"))
    first = first_row_id(unit)
    ids = components["row"].to_numpy()
    start, end = np.searchsorted(ids, [first, first + np.uint64(2**32)])
    rows, roots = ids[start:end], components["root"].to_numpy()[start:end]
    if not len(rows):
        search.write_shuffled(uri, tables.empty(RANKS), np.zeros(0, np.uint64))
        return {}
    positions = pa.array(unit_rows(rows))
    signals = search.run.read("signals", unit).take(positions)
    ranks = np.stack([_rank(signals, name) for name in _rank_columns(resolve(search.run), search.modality)], axis=1)
    is_text = search.modality == "text"
    cells = search.read_cells(unit, "minhash" if is_text else "fingerprint", rows)
    vectors = cells["signature" if is_text else "vectors"].to_pylist()
    table = pa.table(
        {
            "row": rows,
            "root": roots,
            "key": search.run.read("samples", unit, ["key"])["key"].take(positions),
            "ranks": list(ranks),
            "vectors": [bytes(vector or b"") for vector in vectors],
            "frames": cells["words" if is_text else "frames"].cast(pa.int32()),
        },
        schema=RANKS,
    )
    search.write_shuffled(uri, table, mix64(roots))
    return {"members": len(rows)}


def _rank_columns(resolved: Resolved, modality: str) -> list[str]:
    if modality == "text":
        return ["minhash.words"]
    measured = ordered(resolved.steps)  # those of `measure.late` are not measured yet
    alignment = [f"{name}.score" for name in ("video_alignment", "alignment") if name in measured]
    return [*(["facts.duration"] if modality == "video" else []), *alignment, "facts.area"]


def _rank(signals: pa.Table, column: str) -> NDArray[np.float64]:
    if column == "facts.area":
        return _rank(signals, "facts.width") * _rank(signals, "facts.height")
    ranks = to_floats(signals[column], null=float("-inf"))
    # Containers state durations to the frame or to the millisecond: copies differ in the last digits.
    return np.round(ranks, 1) if column == "facts.duration" else ranks


def write_survivors(search: DuplicateSearch, name: str) -> Mapping[str, int]:
    """Task: write the survivor of each group of a partition, and each member's similarity to its closest match."""
    uri = search.run.at("duplicates", f"{search.modality}-{name}.parquet")
    if tables.is_done(uri, search.inputs):
        return {}
    members = shuffle_files.read(search.at("ranks"), search.units, int(name[1:]), RANKS)
    members = members.take(pc.sort_indices(members["row"]))
    rows, roots = members["row"].to_numpy(), members["root"].to_numpy()
    keys = members["key"].to_pylist()
    ranks = np.array(members["ranks"].to_pylist(), dtype=np.float64)
    survivors = choose_survivors(rows, roots, list(ranks.T), keys)
    positions = np.searchsorted(rows, survivors)
    if search.modality in ("video", "multi_image"):
        matches = _strongest_edges(search, rows)
    else:
        matches = _compare_with_survivors(search.modality, members, positions)
    table = pa.Table.from_pylist(
        [
            {
                **match,
                "key": key,
                "row": row,
                "survivor": keys[position],
                "component": root,
                "match": None if match["match"] is None else keys[match["match"]],
            }
            for key, row, root, position, match in zip(
                keys, rows.tolist(), roots.tolist(), positions.tolist(), matches, strict=True
            )
        ],
        schema=tables.DUPLICATES,
    )
    # The same rows grouped by unit: the verdicts of a unit need only its own.
    unit = np.searchsorted([unit_index(name) for name in search.units], unit_indexes(rows))
    shuffle_files.write(search.at("by-unit", f"{name}.parquet"), table, unit, len(search.units), search.inputs)
    tables.write(uri, table, fingerprint=search.inputs)
    return {"groups": len(np.unique(roots)), "duplicates": int((survivors != rows).sum())}


def _compare_with_survivors(modality: str, members: pa.Table, survivors: NDArray[np.int64]) -> list[dict[str, Any]]:
    """For each member, its survivor's position and the similarity of both; None for survivors.

    similarity: cosine of the closest vectors; for texts, the share of equal positions of their signatures. In a chain
    of copies it can be below the threshold: the members between them connect the group.
    """
    blobs, frames = members["vectors"].to_pylist(), members["frames"].to_pylist()
    matches: list[dict[str, Any]] = []
    for member, survivor in enumerate(survivors.tolist()):
        if member == survivor:
            matches.append({"similarity": None, "match": None})
            continue
        if modality == "text":
            a, b = (np.frombuffer(blobs[i], dtype="<u4") for i in (member, survivor))
            similarity = float((a == b).mean())
        else:
            dim = len(blobs[member]) // np.dtype(np.float16).itemsize // max(1, frames[member])
            a, b = (np.frombuffer(blobs[i], np.float16).astype(np.float64).reshape(-1, dim) for i in (member, survivor))
            similarity = float((a @ b.T).max())
        matches.append({"similarity": round(similarity, 6), "match": survivor})
    return matches


def _strongest_edges(search: DuplicateSearch, rows: Ids) -> list[dict[str, Any]]:
    """For each row, its edge with the largest matched share; of equal ones, the one to the first row."""
    edges = [tables.read(search.at("edges", f"{name}.parquet")) for name in search.partition_names]
    position = {row: i for i, row in enumerate(rows.tolist())}
    strongest: dict[int, dict[str, Any]] = {}
    for edge in pa.concat_tables([table.replace_schema_metadata(None) for table in edges]).to_pylist():
        for end, partner in (("a", "b"), ("b", "a")):
            row = edge[end]
            if row not in position:
                continue
            match = {
                "similarity": edge["share"],
                "match": position[edge[partner]],
                "start_s": edge[f"{end}_start"],
                "end_s": edge[f"{end}_end"],
                "match_start_s": edge[f"{partner}_start"],
                "match_end_s": edge[f"{partner}_end"],
            }
            best = strongest.setdefault(row, match)
            if (-match["similarity"], match["match"]) < (-best["similarity"], best["match"]):
                strongest[row] = match
    return [strongest[row] for row in rows.tolist()]
