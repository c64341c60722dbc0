"""Cut the inventory into units. Boundaries depend on the inventory and the config only, so a changed file moves few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from infra import tables
from infra.commit import unit_name
from infra.config import Source
from infra.hashing import digest
from pipelines.core.run import Run

#: Expected bytes of an item where the config gives none (ours).
MEAN_BYTES = {"video": 8 * 2**20, "image": 256 * 2**10, "multi_image": 2**20, "text": 4 * 2**10}


def cut_units(run: Run, parts: Sequence[Sequence[str]]) -> dict[str, list[list[object]]]:
    """Unit name -> [[source number], [part, first row, number of rows], …], from the parts of each source."""
    units: dict[str, list[list[object]]] = {}
    for number, (source, uris) in enumerate(zip(run.config.sources, parts, strict=True)):
        cutter = UnitCutter.for_source(source, run.config.units.target_bytes, run.config.units.target_rows)
        slices: list[list[object]] = []
        for uri in uris:
            items = tables.read(uri, ["container", "position", "size"])
            start = 0
            for end in cutter.find_ends(items):
                units[unit_name(len(units))] = [[number], *slices, [uri, start, end - start]]
                slices, start = [], end
            if start < items.num_rows:
                slices.append([uri, start, items.num_rows - start])
        if slices:
            units[unit_name(len(units))] = [[number], *slices]
    return units


@dataclass
class UnitCutter:
    """Ends a unit after each item whose 64-bit hash is 0 modulo `modulus`, and always at 4 × target.

    bytes, rows: those of the unit that is still open.
    """

    source: str
    target_bytes: int
    target_rows: int
    modulus: int
    bytes: int = 0
    rows: int = 0

    @classmethod
    def for_source(cls, source: Source, target_bytes: int, target_rows: int) -> UnitCutter:
        mean_bytes = source.mean_bytes or MEAN_BYTES[source.modality]
        items = max(1, min(target_bytes // mean_bytes, target_rows))
        return cls(source.name, target_bytes, target_rows, 2 ** math.ceil(math.log2(items)))

    def find_ends(self, items: pa.Table) -> list[int]:
        """The rows of `items`, which continue those of the last call, before which a unit ends."""
        ends = []
        columns = (items[name].to_pylist() for name in ("container", "position", "size"))
        for row, (container, position, size) in enumerate(zip(*columns, strict=True)):
            self.bytes += size
            self.rows += 1
            item_hash = int.from_bytes(
                digest(self.source.encode(), container.encode(), position.encode(), size=8), "little"
            )
            is_full = self.bytes >= 4 * self.target_bytes or self.rows >= 4 * self.target_rows
            if is_full or item_hash % self.modulus == 0:
                ends.append(row + 1)
                self.bytes = self.rows = 0
        return ends
