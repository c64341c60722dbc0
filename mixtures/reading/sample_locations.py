"""Locations of a mixture's rows in their tars, and the composition of an epoch's first samples."""

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
    """Tar, offset and size of each row. files: the mixture's tars. counts: int64 (V,), rows per virtual shard."""

    def __init__(self, mixture: Mixture) -> None:
        rows = mixture.members(["key", "vshard", "group", "shard", "repeat", "offset", "size"])
        manifest = mixture.manifest
        if rows.num_rows != manifest["members"]["rows"]:
            raise StageError(
                f"there are {rows.num_rows} rows, {manifest['members']['rows']} in mixture.json",
                where=mixture.uri,
                hint="make the mixture again with `reelmill mix`",
            )
        self._mixture = mixture
        self._keys = rows["key"].combine_chunks() if rows.num_rows else pa.array([], pa.string())
        vshard = _read_column(rows, "vshard")
        self.counts: NDArray[np.int64] = np.bincount(vshard, minlength=int(manifest["vshards"])).astype(np.int64)
        self._group = _read_column(rows, "group")
        self._size = _read_column(rows, "size")
        self._repeat: NDArray[np.int64] | None = None  # copies are renamed in materialized tars only
        if manifest.get("materialized"):
            self._repeat = _read_column(rows, "repeat")
            self.files = [mixture.own_tar(v) for v in range(len(manifest["materialized"]))]
            self._file = vshard
            before = np.cumsum(self._size) - self._size
            first = np.cumsum(self.counts) - self.counts
            counts = self.counts[self.counts > 0]
            self._offset = before - np.repeat(before[first[self.counts > 0]], counts)
        else:
            self.files = [mixture.tar(shard) for shard in range(len(manifest["shards"]))]
            self._file = _read_column(rows, "shard")
            self._offset = _read_column(rows, "offset")

    def byte_range(self, row: int, tag: Any) -> ByteRange:
        """The bytes of a row's sample; `tag` is passed through."""
        file, offset, size = (int(column[row]) for column in (self._file, self._offset, self._size))
        return ByteRange(file, offset, size, self._keys[row].as_py(), tag)

    def name(self, row: int, key: str) -> str:
        """The name of a row's members in its tar."""
        return key if self._repeat is None else name_copy(key, int(self._repeat[row]))

    def composition(self, order: Order, epoch: int, stop: int) -> dict[str, Any]:
        """Compare the first `stop` samples of an epoch with the plan: see `Loader.composition`."""
        manifest = self._mixture.manifest
        is_read = self._mark_read(order, epoch, stop)
        units = {"samples": np.ones(len(is_read), dtype=np.int64)}
        table = self._mixture.members(["tokens", "seconds", "bytes"])
        units |= {name: np.nan_to_num(np.asarray(table[name], dtype=np.float64)) for name in table.column_names}
        group_modalities = [group["modality"] for group in manifest["groups"]]
        unit = manifest["unit"]
        total = float(units[unit][is_read].sum())
        modalities: dict[str, Any] = {}
        for modality in sorted(set(group_modalities)):
            groups = [i for i, name in enumerate(group_modalities) if name == modality]
            selected = is_read & np.isin(self._group, groups)
            sums = {name: float(column[selected].sum()) for name, column in units.items()}
            modalities[modality] = {
                "samples": int(sums["samples"]),
                "tokens": int(sums["tokens"]),
                "seconds": round(sums["seconds"], 3),
                "bytes": int(sums["bytes"]),
                "share": round(sums[unit] / total, 6) if total else 0.0,
                "planned": manifest["achieved"][unit].get(modality, 0.0),
            }
        gaps = [abs(row["share"] - row["planned"]) for row in modalities.values()] if total else [0.0]
        return {
            "samples": int(is_read.sum()),
            "of": len(is_read),
            "unit": unit,
            "modalities": modalities,
            "largest_gap": round(max(gaps, default=0.0), 6),
        }

    def _mark_read(self, order: Order, epoch: int, stop: int) -> NDArray[np.bool_]:
        """bool (rows,): whether a row is among the first `stop` of an epoch."""
        shards, rows = order.split_prefix(epoch, stop)
        is_whole = np.zeros(len(self.counts), dtype=bool)
        is_whole[shards] = True
        is_read = np.repeat(is_whole, self.counts)
        is_read[rows] = True
        return is_read


def _read_column(rows: pa.Table, name: str) -> NDArray[np.int64]:
    return np.asarray(rows[name], dtype=np.int64)
