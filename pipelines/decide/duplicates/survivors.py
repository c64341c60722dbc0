"""Choose the survivor of each group.

Texts: the longest, then the smallest key. Media: the one with a caption, the longest video, the best aligned, the one
of most pixels (plain edges do not count), in colour, the least compressed, without letterbox, with the least text in
the picture; then the smallest key. Measurements of copies differ a little, so members that are about as good as the
best one of their group go on to the next criterion: otherwise noise would decide. A member that the environment kept
from being read fails for this run and ranks below all others.
"""

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
from pipelines.decide.duplicates.picture_text import read_text_area, read_unread
from pipelines.decide.duplicates.search import DuplicateSearch, Ids, first_row_id, unit_indexes, unit_rows

#: A picture with less chroma is grey: JPEG's noise (ours).
MIN_CHROMA = 0.02

#: Criteria of media in order of importance, and how far below the best of its group a member counts as equal (ours).
#: duration: seconds; containers state it to the frame. alignment: cosines of copies differ less than this. pixels:
#: log2, 9 %. density: log2 of bytes per pixel and second, 41 %. border, text: shares of the picture.
TOLERANCES: Mapping[str, float] = {
    "caption": 0.0,
    "duration": 0.1,
    "video_alignment": 0.05,
    "alignment": 0.05,
    "pixels": 1 / 8,
    "colour": MIN_CHROMA,
    "density": 0.5,
    "border": 0.02,
    "text": 0.01,
}

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
    is_text = search.modality == "text"
    signals = signals if is_text else read_text_area(search, unit, rows, signals)
    samples = search.run.read("samples", unit, ["key", "text"]).take(positions)
    columns = [to_floats(signals["minhash.words"])] if is_text else [*rank_media(signals, samples["text"]).values()]
    ranks = np.stack(columns, axis=1)
    ranks[np.isin(unit_rows(rows), [*read_unread(search, unit)])] = -np.inf
    cells = search.read_cells(unit, "minhash" if is_text else "fingerprint", rows)
    vectors = cells["signature" if is_text else "vectors"].to_pylist()
    table = pa.table(
        {
            "row": rows,
            "root": roots,
            "key": samples["key"],
            "ranks": list(ranks),
            "vectors": [bytes(vector or b"") for vector in vectors],
            "frames": cells["words" if is_text else "frames"].cast(pa.int32()),
        },
        schema=RANKS,
    )
    search.write_shuffled(uri, table, mix64(roots))
    return {"members": len(rows)}


def rank_media(signals: pa.Table, texts: pa.ChunkedArray) -> dict[str, NDArray[np.float64]]:
    """float64 (n,) per criterion of TOLERANCES; higher is better, -inf where nothing was measured.

    texts: raw captions, null where there is none."""

    def read(column: str) -> NDArray[np.float64]:
        known = column in signals.column_names
        return to_floats(signals[column]) if known else np.full(signals.num_rows, np.nan)

    caption = to_floats(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(texts, "")))) > 0
    duration, border = read("facts.duration"), np.nan_to_num(read("fingerprint.border"))
    pixels = read("facts.width") * read("facts.height") * (1 - border)
    with np.errstate(divide="ignore", invalid="ignore"):
        ranks = {
            "caption": caption.astype(np.float64),
            "duration": duration,
            "video_alignment": read("video_alignment.score"),
            "alignment": read("alignment.score"),
            "pixels": np.log2(pixels),
            # More than a little colour is not better.
            "colour": np.minimum(read("fingerprint.chroma"), 3 * MIN_CHROMA),
            "density": np.log2(read("facts.bytes") / (pixels * np.nan_to_num(duration, nan=1.0))),
            "border": -border,
            # Text of the scene is in every copy: what one has more was put over it.
            "text": -read("overlay.text_area"),
        }
    return {name: np.where(np.isfinite(ranks[name]), ranks[name], -np.inf) for name in TOLERANCES}


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
    tolerances = [0.0] if search.modality == "text" else [*TOLERANCES.values()]
    survivors = choose_survivors(rows, roots, list(ranks.reshape(-1, len(tolerances)).T), tolerances, keys)
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
        if not (blobs[member] and blobs[survivor]):  # nothing to compare: only equal bytes link such media
            similarity = 1.0
        elif modality == "text":
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
