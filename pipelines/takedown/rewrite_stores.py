"""The store without the content of what was taken down: vectors, clean texts, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from infra import storage, tables
from infra.store import ID, Cells


def look(uri: str, ids: Sequence[str]) -> dict[str, Any]:
    """How many cells of a store have these content ids (hex); nothing is written. See `erase`."""
    return erase(uri, ids, {}, dry_run=True)


def erase(uri: str, ids: Sequence[str], sets: Mapping[str, str], *, dry_run: bool = False) -> dict[str, Any]:
    """Remove the cells with these content ids (hex) from a store, whoever measured them, in whichever unit.

    sets: {unitset before: unitset after}: the other cells of a unit that changed are found under its new name too, so
    that a run with other thresholds need not measure them again. Doing it twice is doing it once.
    Returns what was done: cells that went, and parts that were written anew; `reached` false where there is no store.
    """
    gone = parts = 0
    wanted = pa.array([bytes.fromhex(value) for value in ids], ID)
    for annotator in storage.list_folders(storage.join(uri, "cells")):
        for maker in storage.list_folders(storage.join(uri, "cells", annotator)):
            cells = Cells(uri, annotator, maker)
            for unitset, name in cells.parts():
                place = storage.join(cells.folder, unitset, name)
                hit = pc.is_in(tables.read(place, ["id"])["id"], value_set=wanted)
                count = int(pc.sum(hit).as_py() or 0)
                target = sets.get(unitset, unitset)
                gone, parts = gone + count, parts + (count > 0)
                if dry_run or (not count and target == unitset):
                    continue
                stay = tables.read(place).filter(pc.invert(hit))
                if target != unitset:
                    cells.add(target, stay)
                if count:
                    cells.add(unitset, stay)
                    storage.remove(place)  # its name stands for ids that it no longer has
    reached = storage.exists(storage.join(uri, "cells"))
    return {"store": uri, "reached": reached, "cells": gone, "parts": parts}
