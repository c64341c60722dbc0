"""The store: every signal ever measured, under what made it. A cell that is there is never computed again.

    STORE/cells/ANNOTATOR/MAKER/UNITSET/ROWSET.parquet     columns: id (16 bytes), the annotator's columns, error

UNITSET stands for a unit's ordered content ids, ROWSET for the ids in one part. Parts are immutable; a look-up lists
one folder and unites its parts, so that no index has to be kept right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage, tables
from infra.hashing import digest, rows_fingerprint

ID = pa.binary(16)


@dataclass(frozen=True)
class Cells:
    """The cells of one annotator made in one way (`maker`: a hex fingerprint)."""

    store: str
    annotator: str
    maker: str

    @property
    def folder(self) -> str:
        return storage.join(self.store, "cells", self.annotator, self.maker)

    def read(self, unitset: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """All cells of a unit, in no special order, each id once; None when there are none. `columns` beside the id."""
        folder = storage.join(self.folder, unitset)
        wanted = None if columns is None else ["id", *columns]
        parts = [tables.read(storage.join(folder, name), wanted) for name in storage.list_names(folder)]
        if not parts:
            return None
        cells = pa.concat_tables(parts).combine_chunks()
        return cells if len(parts) == 1 else drop_repeated_ids(cells)  # runs may measure one id twice

    def add(self, unitset: str, cells: pa.Table) -> None:
        """Store new cells as one immutable part; rows with an id that stands twice are stored once."""
        cells = drop_repeated_ids(cells)
        if not cells.num_rows:
            return
        cells = cells.take(pc.sort_indices(cells["id"]))
        name = f"{rows_fingerprint(cells['id'])}.parquet"
        tables.write(storage.join(self.folder, unitset, name), cells)

    def parts(self) -> list[tuple[str, str]]:
        """Every (unitset, part name) of this maker, sorted."""
        found = []
        for unitset in storage.list_folders(self.folder):
            found += [(unitset, name) for name in storage.list_names(storage.join(self.folder, unitset))]
        return found


def drop_repeated_ids(cells: pa.Table) -> pa.Table:
    """The first row of each id."""
    seen = pc.dictionary_encode(cells["id"].combine_chunks()).indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(seen, return_index=True)
    return cells if len(first) == cells.num_rows else cells.take(pa.array(np.sort(first)))


def align(ids: pa.Array, cells: pa.Table | None) -> NDArray[np.int64]:
    """int64 (n,): for each id the row of `cells` that has it, -1 where none has."""
    if cells is None or not cells.num_rows:
        return np.full(len(ids), -1, dtype=np.int64)
    found = pc.index_in(ids, value_set=cells["id"].combine_chunks())
    return np.asarray(pc.fill_null(found, -1), dtype=np.int64)


def text_id(modality: str, text: str | None) -> bytes:
    """16 bytes that stand for a text as its annotators see it."""
    raw = b"" if text is None else text.encode("utf-8", "surrogatepass")
    return digest(b"text", modality.encode(), raw)


def media_id(modality: str, media: list[dict[str, object]]) -> bytes:
    """16 bytes that stand for a sample's media: their bytes and the span looked at, not where they lie."""
    parts = [b"media", modality.encode()]
    for medium in media:
        parts.append(f"{medium['sha256']}|{medium['start_s']!r}|{medium['end_s']!r}".encode())
    return digest(*parts)


def content_ids(samples: pa.Table) -> dict[str, pa.Array]:
    """binary(16) (n,) for "text", "media" and "pair": what an annotator's cells are keyed by."""
    modality = samples["modality"].to_pylist()
    text = [text_id(m, t) for m, t in zip(modality, samples["text"].to_pylist(), strict=True)]
    media = [media_id(m, s or []) for m, s in zip(modality, samples["media"].to_pylist(), strict=True)]
    pair = [digest(t, m) for t, m in zip(text, media, strict=True)]
    return {name: pa.array(values, type=ID) for name, values in (("text", text), ("media", media), ("pair", pair))}
