"""Remove the content of samples that are taken down from a store: vectors, clean texts, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra import storage
from infra.store import ID, Cells


def erase(uri: str, ids: Sequence[str], sets: Mapping[str, str], *, dry_run: bool = False) -> dict[str, Any]:
    """Remove the cells with these content ids (hex) from a store, of all annotators and units; safe to repeat.

    sets: {unitset before: unitset after}: the other cells of a rewritten unit are also stored under its new name, so
    that a run with other thresholds need not measure them again.
    Returns the number of cells removed and of files rewritten; reached: whether there is a store.
    """
    removed = parts = 0
    erased = pa.array([bytes.fromhex(id_) for id_ in ids], ID)
    for annotator in storage.list_folders(storage.join(uri, "cells")):
        for fingerprint in storage.list_folders(storage.join(uri, "cells", annotator)):
            cells = Cells(uri, annotator, fingerprint)
            for unitset, name in cells.parts():
                path = storage.join(cells.folder, unitset, name)
                part = cells.read_part(unitset, name)
                if part is None:  # set aside, and removed below
                    continue
                hit = pc.is_in(part["id"], value_set=erased)
                count = int(pc.sum(hit).as_py() or 0)
                target = sets.get(unitset, unitset)
                removed, parts = removed + count, parts + (count > 0)
                if dry_run or (not count and target == unitset):
                    continue
                remaining = part.filter(pc.invert(hit))
                if target != unitset:
                    cells.add(target, remaining)
                if count:
                    cells.add(unitset, remaining)
                    storage.remove(path)  # its name is a hash of all its former ids
            if not dry_run:
                _remove_damaged(cells)
    reached = storage.exists(storage.join(uri, "cells"))
    return {"store": uri, "reached": reached, "cells": removed, "parts": parts}


def _remove_damaged(cells: Cells) -> None:
    """Remove parts that were set aside: nobody can tell whether they contain what is taken down."""
    for unitset in storage.list_folders(cells.folder):
        for name in storage.list_names(storage.join(cells.folder, unitset)):
            if name.endswith(storage.DAMAGED_SUFFIX):
                storage.remove(storage.join(cells.folder, unitset, name))
