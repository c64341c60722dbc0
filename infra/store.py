"""The store: every signal ever measured, by annotator and its fingerprint. No stored cell is computed again.

    STORE/cells/ANNOTATOR/MAKER/UNITSET/ROWSET-CHECKSUM.parquet   columns: id (16 bytes), the annotator's columns, error

UNITSET identifies a unit's ordered content ids, ROWSET the ids in one part, CHECKSUM its bytes. Parts are immutable; a
look-up lists one folder and unites its parts, so that no index needs to be kept consistent. A damaged part is renamed
and missing from then on.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage, tables
from infra.columns import to_ints
from infra.hashing import digest, rows_fingerprint

ID = pa.binary(16)

#: Suffix of parts; files with another one, such as parts set aside, are not read.
PART = ".parquet"


@dataclass(frozen=True)
class Cells:
    """The cells of one annotator with one fingerprint (`maker`, in hex)."""

    store: str
    annotator: str
    maker: str

    @property
    def folder(self) -> str:
        return storage.join(self.store, "cells", self.annotator, self.maker)

    def read(self, unitset: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """All cells of a unit, in no particular order, each id once; None if there are none. columns: beside the id."""
        names = storage.list_names(storage.join(self.folder, unitset))
        parts = [self.read_part(unitset, name, columns) for name in names if name.endswith(PART)]
        parts = [part for part in parts if part is not None]
        if not parts:
            return None
        cells = pa.concat_tables(parts).combine_chunks()
        return cells if len(parts) == 1 else drop_repeated_ids(cells)  # runs may measure one id twice

    def read_part(self, unitset: str, name: str, columns: Sequence[str] | None = None) -> pa.Table | None:
        """The cells of one part; None if it is lost, or damaged: then it is set aside, and its cells are missing."""
        uri = storage.join(self.folder, unitset, name)
        checksum = name.removesuffix(PART).partition("-")[2]
        for _ in range(2):  # the fault may be the reader's
            try:
                content = storage.retry(functools.partial(storage.read_bytes, uri))
            except FileNotFoundError:
                return None
            if checksum in ("", checksum_bytes(content)):  # parts of older versions have none
                with suppress(*tables.DAMAGE):
                    return tables.parse(content, None if columns is None else ["id", *columns])
        storage.set_aside(uri, "its cells are measured again")
        return None

    def add(self, unitset: str, cells: pa.Table) -> None:
        """Store new cells as one immutable part; of rows with the same id the first is stored."""
        cells = drop_repeated_ids(cells)
        if not cells.num_rows:
            return
        cells = cells.take(pc.sort_indices(cells["id"]))
        content = tables.to_bytes(cells)
        name = f"{rows_fingerprint(cells['id'])}-{checksum_bytes(content)}{PART}"
        storage.write_bytes(storage.join(self.folder, unitset, name), content)

    def parts(self) -> list[tuple[str, str]]:
        """Every (unitset, part name) of this maker, sorted."""
        return [
            (unitset, name)
            for unitset in storage.list_folders(self.folder)
            for name in storage.list_names(storage.join(self.folder, unitset))
            if name.endswith(PART)
        ]


def checksum_bytes(content: bytes) -> str:
    """16 hex digits of the sha256 of a part's bytes, a part of its name."""
    return hashlib.sha256(content).hexdigest()[:16]


def drop_repeated_ids(cells: pa.Table) -> pa.Table:
    """The first row of each id."""
    codes = pc.dictionary_encode(cells["id"].combine_chunks()).indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(codes, return_index=True)
    return cells if len(first) == cells.num_rows else cells.take(pa.array(np.sort(first)))


def align(ids: pa.Array, cells: pa.Table | None) -> NDArray[np.int64]:
    """int64 (n,): for each id its row in `cells`, -1 where there is none."""
    if cells is None or not cells.num_rows:
        return np.full(len(ids), -1, dtype=np.int64)
    return to_ints(pc.index_in(ids, value_set=cells["id"].combine_chunks()))


def text_id(modality: str, text: str | None) -> bytes:
    """16 bytes that identify a text as its annotators see it."""
    raw = b"" if text is None else text.encode("utf-8", "surrogatepass")
    return digest(b"text", modality.encode(), raw)


def media_id(modality: str, media: list[dict[str, object]]) -> bytes:
    """16 bytes that identify a sample's media: their bytes and span, not their location."""
    parts = [b"media", modality.encode()]
    for medium in media:
        parts.append(f"{medium['sha256']}|{medium['start_s']!r}|{medium['end_s']!r}".encode())
    return digest(*parts)


def content_ids(samples: pa.Table) -> dict[str, pa.Array]:
    """binary(16) (n,) for "text", "media" and "pair": the keys of annotators' cells."""
    modality = samples["modality"].to_pylist()
    text = [text_id(m, t) for m, t in zip(modality, samples["text"].to_pylist(), strict=True)]
    media = [media_id(m, s or []) for m, s in zip(modality, samples["media"].to_pylist(), strict=True)]
    pair = [digest(t, m) for t, m in zip(text, media, strict=True)]
    return {name: pa.array(values, type=ID) for name, values in (("text", text), ("media", media), ("pair", pair))}
