"""Read the samples of a tar from its bytes: the columns of members and what JSON says of the media."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.columns import Mask, to_mask
from mixtures.reading.contract import CHARS_PER_TOKEN, RELEASED
from mixtures.shards.record import build_columns, parse_record, parse_records
from pipelines.audit.audit_tar import TarIndex
from pipelines.audit.findings import AuditFindings

#: Column of `check_records` -> field of a sample's JSON.
_COLUMNS = {"key": "id", "modality": "data_type", "source": "data_source", "licence": "licence", "kind": "kind",
            "language": "language", "origin": "origin", "container": "container", "position": "position"}  # fmt: skip


def check_records(view: memoryview, index: TarIndex, good: Mask, file: str, findings: AuditFindings) -> pa.Table | None:
    """Read the JSON of every sample of a tar; None, with a finding, if that of one cannot be read.

    Returns n rows: key, modality, source, licence, kind, language, tokens, text_tokens, images, seconds, bytes as in
    members; recorded_tokens, origin, container, position, sha256 (joined by commas), width, height, fps, frames.
    """
    members = _find_members(index, good, ".json")
    n = len(index.keys)
    if not np.array_equal(index.owners()[members], np.arange(n)):
        findings.add(file, "json", f"one readable .json in each of {n} samples", f"{len(members)} of them")
        return None
    spans = _get_spans(index, members)
    records = parse_records(view, spans)
    if records is None:
        for row, (start, end) in enumerate(spans):
            try:
                parse_record(view[start:end])
            except ValueError as error:
                findings.add(file, "json", "a record with all fields of KEY.json", str(error), index.keys[row].as_py())
        return None
    fields = build_columns(records)
    _check_captions(view, index, good, fields["caption"], file, findings)
    return _build_table(index, fields)


def _find_members(index: TarIndex, good: Mask, suffix: str) -> Any:
    """int64: the readable members whose names end with `suffix`."""
    return np.flatnonzero(to_mask(pc.ends_with(index.names, suffix)) & good)


def _get_spans(index: TarIndex, members: Any) -> list[tuple[int, int]]:
    """(start, end) of the contents of some members."""
    starts, ends = index.starts[members], index.starts[members] + index.sizes[members]
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _check_captions(
    view: memoryview, index: TarIndex, good: Mask, captions: Sequence[str], file: str, findings: AuditFindings
) -> None:
    """The .txt of a sample must be the caption in its JSON."""
    members = _find_members(index, good, ".txt")
    for row, (start, end) in zip(index.owners()[members].tolist(), _get_spans(index, members), strict=True):
        text = view[start:end].tobytes()  # as bytes: two memoryviews are compared item by item
        if text != captions[row].encode():
            findings.add(file, "txt", captions[row], text, index.keys[row].as_py())


def _build_table(index: TarIndex, fields: Mapping[str, Sequence[Any]]) -> pa.Table:
    modality = np.array(fields["data_type"], dtype=object)
    media = np.array([len(hashes) for hashes in fields["sha256"]], dtype=np.int64)
    images = np.where((modality == "image") | (modality == "multi_image"), media, 0)
    seconds = np.array(fields["duration"], dtype=np.float64)
    text_tokens = np.ceil(np.array(fields["characters"], dtype=np.float64) / CHARS_PER_TOKEN).astype(np.int64)
    return pa.table(
        {
            **{column: pa.array(fields[field], pa.string()) for column, field in _COLUMNS.items()},
            "tokens": text_tokens + RELEASED.media_tokens(modality, seconds, images),
            "recorded_tokens": pa.array(fields["tokens"], pa.int64()),
            "text_tokens": text_tokens,
            "images": pa.array(images, pa.int32()),
            "seconds": seconds,
            "bytes": np.add.reduceat(index.sizes, index.first) if len(media) else np.zeros(0, np.int64),
            "sha256": pa.array([",".join(hashes) for hashes in fields["sha256"]], pa.string()),
            "width": pa.array(fields["width"], pa.int64()),
            "height": pa.array(fields["height"], pa.int64()),
            "pixel_aspect": pa.array(fields["pixel_aspect"], pa.float64()),
            "fps": pa.array(fields["fps"], pa.float64()),
            "frames": pa.array(fields["n_frames"], pa.int64()),
        }
    )
