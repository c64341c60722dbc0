"""Where each row of a mixture lies, and what the rows of a stretch of an epoch amount to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra.errors import StageError
from mixtures.reading.fetch import ByteRange
from mixtures.reading.order import Order
from mixtures.shards.copying import name_copy
from mixtures.shards.manifest import Mixture


class SampleLocations:
    """Where each row of a mixture lies. files: of its tars, as the rows count them."""

    def __init__(self, mixture: Mixture) -> None:
        rows = mixture.members(["key", "vshard", "group", "shard", "repeat", "offset", "size"])
        value = mixture.manifest
        if rows.num_rows != value["members"]["rows"]:
            raise StageError(
                f"there are {rows.num_rows} rows, {value['members']['rows']} in mixture.json",
                where=mixture.uri,
                hint="make the mixture again with `reelmill mix`",
            )
        self._mixture = mixture
        self._keys = rows["key"].combine_chunks() if rows.num_rows else pa.array([], pa.string())
        vshard = _column(rows, "vshard")
        self.counts: NDArray[np.int64] = np.bincount(vshard, minlength=int(value["vshards"])).astype(np.int64)
        self._group = _column(rows, "group")
        self._size = _column(rows, "size")
        self._repeat: NDArray[np.int64] | None = None  # copies in tars of the mixture's own have names of their own
        if value.get("materialized"):
            self._repeat = _column(rows, "repeat")
            self.files = [mixture.own_tar(v) for v in range(len(value["materialized"]))]
            self._file = vshard
            ends = np.cumsum(self._size)
            first = np.cumsum(self.counts) - self.counts
            before = ends - self._size
            self._offset = before - np.repeat(before[first[self.counts > 0]], self.counts[self.counts > 0])
        else:
            self.files = [mixture.tar(shard) for shard in range(len(value["shards"]))]
            self._file = _column(rows, "shard")
            self._offset = _column(rows, "offset")

    def span(self, row: int, tag: Any) -> ByteRange:
        return ByteRange(
            int(self._file[row]), int(self._offset[row]), int(self._size[row]), self._keys[row].as_py(), tag
        )

    def name(self, row: int, key: str) -> str:
        """What a row's members are called in its tar."""
        return key if self._repeat is None else name_copy(key, int(self._repeat[row]))

    def composition(self, order: Order, epoch: int, stop: int) -> dict[str, Any]:
        value = self._mixture.manifest
        shards, rows = order.whole(epoch, stop)
        whole = np.zeros(len(self.counts), dtype=bool)
        whole[shards] = True
        read = np.repeat(whole, self.counts)
        read[rows] = True
        units = {"samples": np.ones(len(read), dtype=np.int64)}
        table = self._mixture.members(["tokens", "seconds", "bytes"])
        units |= {name: np.nan_to_num(np.asarray(table[name], dtype=np.float64)) for name in table.column_names}
        names = [group["modality"] for group in value["groups"]]
        unit = value["unit"]
        total = float(units[unit][read].sum())
        found: dict[str, Any] = {}
        for modality in sorted(set(names)):
            groups = [i for i, name in enumerate(names) if name == modality]
            mine = read & np.isin(self._group, groups)
            sums = {name: float(column[mine].sum()) for name, column in units.items()}
            found[modality] = {
                "samples": int(sums["samples"]),
                "tokens": int(sums["tokens"]),
                "seconds": round(sums["seconds"], 3),
                "bytes": int(sums["bytes"]),
                "share": round(sums[unit] / total, 6) if total else 0.0,
                "planned": value["achieved"][unit].get(modality, 0.0),
            }
        gaps = [abs(row["share"] - row["planned"]) for row in found.values()] if total else [0.0]
        return {
            "samples": int(read.sum()),
            "of": len(read),
            "unit": unit,
            "modalities": found,
            "largest_gap": round(max(gaps, default=0.0), 6),
        }


def _column(rows: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(rows[name], dtype=np.int64)
