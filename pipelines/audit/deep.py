"""The dear half of an audit: every medium is hashed and decoded again, every key told again from what it stands for."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotators.facts import Facts
from infra import tables
from infra.hashing import sample_key
from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, FramePlan, MediaRef
from infra.media.pixels import Limits
from pipelines.audit.audit_tar import TarIndex
from pipelines.audit.audit_units import AuditUnits
from pipelines.audit.files import AuditFiles

#: Higher than any run's own limits are likely to be: what a run could open, its audit can (ours).
LIMITS = Limits(max_bytes=64 * 2**30, max_pixels=2**28, max_frames=1_000_000, max_packets=10_000_000,
                max_seconds=24 * 3600.0, watchdog_s=600.0)  # fmt: skip

#: One small frame: the whole video is decoded to find it.
PLAN = FramePlan("middle", size=32, fit="short")

#: Fact as a sample's JSON names it -> column of the annotator `facts`.
FACTS = {"width": "width", "height": "height", "seconds": "duration", "fps": "fps", "frames": "frames"}


class MediaAuditor:
    """Decodes media of a run's tars, one after another, in a child process. To be closed."""

    def __init__(self, files: AuditFiles) -> None:
        self._files = files
        self._decoder = Decoder(LIMITS)
        self.media = 0

    def close(self) -> None:
        """End the child."""
        self._decoder.close()

    def check(self, view: memoryview, index: TarIndex, good: Any, told: pa.Table, tar: str) -> None:
        """Hold the media of a tar against what JSON says of them: sha256, and the facts where they were measured."""
        names = index.names.to_pylist()
        data, sizes = index.data.tolist(), index.sizes.tolist()
        rows = told.select(["key", "modality", "sha256", *FACTS]).to_pylist()
        for row, first, count in zip(rows, index.first.tolist(), index.counts.tolist(), strict=True):
            media = [m for m in range(first, first + count) if good[m] and not names[m].endswith((".json", ".txt"))]
            media.sort(key=lambda m: _number(names[m]))
            self._sample(view, row, [(data[m], sizes[m]) for m in media], tar)

    def _sample(self, view: memoryview, row: dict[str, Any], spans: list[tuple[int, int]], tar: str) -> None:
        findings, key = self._files.findings, row["key"]
        found = [hashlib.sha256(view[start : start + size]).hexdigest() for start, size in spans]
        findings.same(tar, "media.sha256", row["sha256"], ",".join(found), key)
        if not spans:
            return
        self.media += len(spans)
        kind: Literal["video", "image"] = "video" if row["modality"] == "video" else "image"
        refs = [MediaRef(self._files.at(tar), start, size, kind=kind) for start, size in spans]
        opened = [self._decoder.decode(ref, {"audit": PLAN}, {}) for ref in refs]
        for one in opened:
            if one.error is not None:
                findings.add(tar, "media", "a medium that decodes", one.error, key)
                return
        if row["width"]:  # 0: facts were not asked for by this run
            self._facts(row, opened[0], tar)

    def _facts(self, row: dict[str, Any], medium: DecodedMedia, tar: str) -> None:
        facts = Facts().measure(pa.table({"key": [row["key"]]}), [medium]).to_pylist()[0]
        for ours, theirs in FACTS.items():
            self._files.findings.number(tar, f"media.{ours}", facts[theirs] or 0, row[ours], row["key"])


def _number(name: str) -> int:
    """The place of a medium in its sample: KEY.3.jpg is the fourth."""
    parts = name.split(".")
    return int(parts[1]) if len(parts) > 2 and parts[1].isdigit() else 0


def check_keys(files: AuditFiles, units: AuditUnits) -> None:
    """A key is a function of source, place, media and text; those of samples that were taken down are let be, since
    what they stood for is gone."""
    columns = ("key", "source", "container", "position", "media", "text", "error")
    for unit in units.names:
        path = f"samples/{unit}.parquet"
        if path not in files.sizes or unit not in units.accounts:
            continue
        table = files.table(path, tables.SAMPLES, columns)
        if table is None:
            continue
        rows = table.to_pylist()
        keys = [
            sample_key(row["source"], row["container"], row["position"],
                       "".join(medium["sha256"] for medium in row["media"] or ()), row["text"] or "")
            for row in rows
        ]  # fmt: skip
        gone = np.asarray(pc.fill_null(pc.starts_with(table["error"], "takedown: "), False), dtype=bool)
        wrong = np.array([row["key"] != key for row, key in zip(rows, keys, strict=True)], dtype=bool) & ~gone
        if wrong.any():
            files.findings.where(path, "key", table["key"], pa.array(wrong), keys, table["key"])
