"""A pseudo-random sample of an inventory's items: each is drawn by a hash of the seed and of what it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import storage, tables
from infra.columns import Mask, replace_column, to_strings
from infra.hashing import draw_integers
from infra.media.interface import MODALITIES
from pipelines.ingest.sources.interface import ITEM_SCHEMA

#: At least so many samples of each modality are measured, or all (ours).
LEAST = 50

#: Tables of items, by source.
Inventory = list[list[str]]


class ItemSample:
    """Items of an inventory whose draw is at most their modality's limit.

    totals: items by modality. limits: the draw that `share` comes to, or that of the LEAST-th item.
    """

    def __init__(self, items: Inventory, sources: Sequence[str], seed: int, share: float) -> None:
        self.items, self.sources, self.seed = items, sources, seed
        totals: dict[str, int] = {}
        smallest: dict[str, NDArray[np.uint64]] = {}
        for source, uris in zip(sources, items, strict=True):
            for uri in uris:
                table = tables.read(uri, ["container", "position", "modality"])
                drawn = draw_integers(seed, item_names(table, source), "plan")
                modality = to_strings(table["modality"])
                for kind in sorted(set(modality.tolist())):
                    totals[kind] = totals.get(kind, 0) + int((modality == kind).sum())
                    before = smallest.get(kind, np.zeros(0, np.uint64))
                    smallest[kind] = np.sort(np.concatenate([before, drawn[modality == kind]]))[:LEAST]
        limit = min(int(share * 2.0**64), 2**64 - 1)
        self.totals = {kind: totals[kind] for kind in MODALITIES if kind in totals}
        self.limits = {kind: max(limit, int(smallest_draws[-1])) for kind, smallest_draws in smallest.items()}

    def contains(self, names: list[str], modality: NDArray[Any]) -> Mask:
        """bool (n,): items that are in the sample, by what `item_names` returns and their modality (n,)."""
        drawn = draw_integers(self.seed, names, "plan")
        mask = np.zeros(len(names), dtype=bool)
        for kind, limit in self.limits.items():
            mask |= (modality == kind) & (drawn <= np.uint64(limit))
        return mask

    def copy_items(
        self, folder: str, select: Callable[[list[str], NDArray[Any]], Mask], *, media: bool = True
    ) -> Inventory:
        """Write the selected items into FOLDER/work/inventory, without their media if so asked; return the tables."""
        copies: Inventory = []
        for number, (source, uris) in enumerate(zip(self.sources, self.items, strict=True)):
            targets = []
            for index, uri in enumerate(uris):
                table = tables.read(uri)
                table = table.filter(pa.array(select(item_names(table, source), to_strings(table["modality"]))))
                if not media:
                    type_ = ITEM_SCHEMA.field("media").type
                    table = replace_column(table, "media", pa.array([[]] * table.num_rows, type_))
                target = storage.join(folder, "work", "inventory", f"s{number:03d}-{index:06d}.parquet")
                if table.num_rows:
                    tables.write(target, table.replace_schema_metadata(None))
                    targets.append(target)
            copies.append(targets)
        return copies


def item_names(items: pa.Table, source: str | None = None) -> list[str]:
    """The columns that identify each item: source (a column, unless given), container and position."""
    sources = [source] * items.num_rows if source is not None else items["source"].to_pylist()
    columns = (sources, items["container"].to_pylist(), items["position"].to_pylist())
    return ["\x00".join(names) for names in zip(*columns, strict=True)]
