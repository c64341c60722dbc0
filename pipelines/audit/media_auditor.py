"""The expensive checks of `audit --deep`: hash and decode every medium again, recompute every key."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from annotators.facts import Facts
from infra import tables
from infra.columns import Mask
from infra.errors import is_environment_error
from infra.hashing import sample_key
from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, FramePlan, MediaRef
from infra.media.pixels import Limits, machine_memory
from mixtures.shards.unpack import get_number
from pipelines.audit.audit_tar import TarIndex
from pipelines.audit.audit_units import FACTS, AuditUnits
from pipelines.audit.files import AuditFiles
from pipelines.core.tombstones import is_marked

#: Above the limits of any run, so that what a run could decode, its audit can (ours).
LIMITS = Limits(max_bytes=64 * 2**30, max_pixels=2**28, max_frames=1_000_000, max_packets=10_000_000,
                max_seconds=24 * 3600.0, watchdog_s=600.0, memory=machine_memory())  # fmt: skip

#: One small frame; to find the middle one the whole video is decoded.
PLAN = FramePlan("middle", size=32, fit="short")

#: Field of a sample's JSON -> column of the annotator `facts`.
DECODED_FACTS = {field: signal.removeprefix("facts.") for field, signal in FACTS.items() if signal.startswith("facts.")}


class MediaAuditor:
    """Decodes the media of tars, one after another, in a child process. Close it after use."""

    def __init__(self, files: AuditFiles) -> None:
        self._files = files
        self._decoder = Decoder(LIMITS)
        self.media = 0

    def close(self) -> None:
        """Stop the child process."""
        self._decoder.close()

    def check(self, view: memoryview, index: TarIndex, good: Mask, records: pa.Table, tar: str) -> None:
        """Compare the media of a tar with its samples' JSON: sha256, and facts if they were measured."""
        names, starts, sizes = index.names.to_pylist(), index.starts.tolist(), index.sizes.tolist()
        rows = records.select(["key", "modality", "sha256", *DECODED_FACTS]).to_pylist()
        for row, first, count in zip(rows, index.first.tolist(), index.counts.tolist(), strict=True):
            media = [m for m in range(first, first + count) if good[m] and not names[m].endswith((".json", ".txt"))]
            media.sort(key=lambda m: _parse_number(names[m]))
            self._check_sample(view, row, [(starts[m], sizes[m]) for m in media], tar)

    def _check_sample(self, view: memoryview, row: dict[str, Any], spans: list[tuple[int, int]], tar: str) -> None:
        findings, key = self._files.findings, row["key"]
        hashes = [hashlib.sha256(view[start : start + size]).hexdigest() for start, size in spans]
        findings.compare(tar, "media.sha256", row["sha256"], ",".join(hashes), key)
        if not spans:
            return
        self.media += len(spans)
        kind: Literal["video", "image"] = "video" if row["modality"] == "video" else "image"
        refs = [MediaRef(self._files.at(tar), start, size, kind=kind) for start, size in spans]
        media = [self._decoder.decode(ref, {"audit": PLAN}, {}) for ref in refs]
        error = next((medium.error for medium in media if medium.error is not None), None)
        if is_environment_error(error):
            findings.add(tar, "media", "enough memory and time on this machine to verify it", str(error), key)
        elif error is not None:
            findings.add(tar, "media", "a medium that decodes", error, key)
        elif row["width"]:  # 0: the run did not measure facts
            self._check_facts(row, media[0], tar)

    def _check_facts(self, row: dict[str, Any], medium: DecodedMedia, tar: str) -> None:
        facts = Facts().measure(pa.table({"key": [row["key"]]}), [medium]).to_pylist()[0]
        for field, column in DECODED_FACTS.items():
            self._files.findings.compare_numbers(tar, f"media.{field}", facts[column] or 0, row[field], row["key"])


def _parse_number(name: str) -> int:
    """Position of a medium within its sample: 3 for KEY.3.jpg, 0 without a number."""
    return get_number(name.partition(".")[2])


def check_keys(files: AuditFiles, units: AuditUnits) -> None:
    """Recompute the key of every sample from its source, position, media and text. Samples that were taken down are
    skipped, since that content is erased."""
    columns = ("key", "source", "container", "position", "media", "text", "error")
    for unit in units.names:
        path = f"samples/{unit}.parquet"
        if path not in files.sizes or unit not in units.accounts:
            continue
        table = files.read_table(path, tables.SAMPLES, columns)
        if table is None:
            continue
        rows = table.to_pylist()
        keys = [
            sample_key(row["source"], row["container"], row["position"],
                       "".join(medium["sha256"] for medium in row["media"] or ()), row["text"] or "")
            for row in rows
        ]  # fmt: skip
        wrong = np.array([row["key"] != key for row, key in zip(rows, keys, strict=True)], dtype=bool)
        files.findings.add_rows(path, "key", table["key"], wrong & ~is_marked(table["error"]), keys, table["key"])
