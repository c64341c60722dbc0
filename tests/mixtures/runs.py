"""Finished runs written by hand, as export leaves them: tars, members, cards, checksums. No pipeline runs for them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from infra import tables
from infra.commit import Unit, write_manifest
from infra.hashing import canonical_json, sample_key
from mixtures.reading.contract import RELEASED, estimate_text_tokens
from mixtures.reading.conversations import build_conversation
from mixtures.shards import shards

#: Suffixes of a sample's media by modality.
MEDIA = {"video": ("mp4",), "image": ("jpg",), "multi_image": ("0.jpg", "1.png"), "text": ()}


@dataclass(frozen=True)
class Row:
    """One kept sample. size: bytes of each medium that is no image."""

    number: int
    modality: str
    source: str = "a"
    licence: str = "CC0-1.0"
    language: str = "en"
    seconds: float = 0.0
    words: int = 6
    size: int = 900
    turns: Sequence[dict[str, str]] = field(default=())

    @property
    def key(self) -> str:
        return sample_key("hand", self.source, f"{self.modality}-{self.number}", "", "")


def picture(number: int, form: str = "JPEG") -> bytes:
    rng = np.random.default_rng(number)
    colours = rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(colours).resize((24, 18)).save(sink, form)
    return sink.getvalue()


def sample(row: Row) -> tuple[list[shards.Member], dict[str, Any]]:
    """A sample's members, and its record."""
    rng = np.random.default_rng([row.number, row.size])
    media = []
    for suffix in MEDIA[row.modality]:
        form = {"jpg": "JPEG", "png": "PNG"}.get(suffix.rsplit(".", 1)[-1])
        media.append((suffix, picture(row.number, form) if form else rng.bytes(row.size)))
    text = " ".join(["word"] * row.words)
    turns, kind = build_conversation(row.modality, text, len(media), row.turns)
    words = estimate_text_tokens("".join(turn["value"] for turn in turns))
    record = {
        "id": row.key, "data_source": row.source, "data_type": row.modality, "kind": kind, "conversations": turns,
        "caption": text, "licence": row.licence, "origin": "", "container": "hand", "position": str(row.number),
        "sha256": [hashlib.sha256(content).hexdigest() for _, content in media] or [""], "width": 0, "height": 0,
        "duration": row.seconds, "fps": 8.0 if row.seconds else 0.0, "pixel_aspect": 0.0,
        "n_frames": int(8 * row.seconds), "language": row.language, "ocr_text": "", "tokens": words,
    }  # fmt: skip
    members = [shards.Member(suffix, content=content) for suffix, content in media]
    members.append(shards.Member("json", content=canonical_json(record)))
    if row.modality != "text":
        members.append(shards.Member("txt", content=text.encode()))
    return sorted(members, key=lambda member: member.suffix), record


def write_run(folder: Path, rows: Iterable[Row], *, name: str = "hand", per_shard: int = 50) -> Path:
    """A finished run of these samples in `folder`."""
    units: list[Unit] = []
    checksums: dict[str, str] = {}
    (folder / "shards").mkdir(parents=True)
    rows = list(rows)
    for modality in MEDIA:
        kept = [row for row in rows if row.modality == modality]
        for number, start in enumerate(range(0, len(kept), per_shard)):
            shard = f"{modality}-{number:06d}"
            shard_rows = sorted(kept[start : start + per_shard], key=lambda row: row.key)
            units.append(_write_shard(folder, shard, shard_rows, checksums))
    write_manifest(str(folder / "members"), "members", "0" * 32, units)
    (folder / "checksums.json").write_bytes(canonical_json(checksums))
    (folder / "run.json").write_bytes(canonical_json({"config": {"name": name}}))
    return folder


def _write_shard(folder: Path, shard: str, rows: list[Row], checksums: dict[str, str]) -> Unit:
    samples = [sample(row) for row in rows]
    tar = folder / "shards" / f"{shard}.tar"
    digest, written = shards.write_tar(
        tar, [(row.key, members) for row, (members, _) in zip(rows, samples, strict=True)]
    )
    values = []
    for row, (_, record), location in zip(rows, samples, written, strict=True):
        images = len(MEDIA[row.modality]) if row.modality in ("image", "multi_image") else 0
        seen = RELEASED.media_tokens(np.array([row.modality], object), np.array([row.seconds]), np.array([images]))
        values.append(
            {"key": row.key, "shard": shard, "offset": location.offset, "size": location.size,
             "members": [{"name": n, "offset": o, "size": s} for n, o, s in location.members], "modality": row.modality,
             "source": row.source, "licence": row.licence, "kind": record["kind"], "language": row.language,
             "tokens": record["tokens"] + int(seen[0]), "text_tokens": record["tokens"], "images": images,
             "seconds": row.seconds, "bytes": sum(size for _, _, size in location.members)}
        )  # fmt: skip
    uri = folder / "members" / f"{shard}.parquet"
    tables.write(str(uri), pa.Table.from_pylist(values, schema=tables.MEMBERS), fingerprint="0" * 32)
    suffixes = sorted({name.split(".", 1)[1] for location in written for name, _, _ in location.members})
    card = {"shard": shard, "modality": rows[0].modality, "suffixes": suffixes, "samples": len(rows),
            "tar": {"bytes": tar.stat().st_size, "sha256": digest}}  # fmt: skip
    (folder / "shards" / f"{shard}.card.json").write_bytes(canonical_json(card))
    checksums[f"shards/{shard}.tar"] = digest
    return Unit(shard, len(rows), hashlib.sha256(uri.read_bytes()).hexdigest())


def rows_of(counts: dict[str, int], *, seed: int = 0, sources: Sequence[str] = ("a", "b"), start: int = 0) -> list[Row]:
    """So many samples of each modality, of skewed lengths, over these sources."""
    rng = np.random.default_rng(seed)
    rows = []
    for modality, count in counts.items():
        for number in range(start, start + count):
            seconds = round(float(rng.lognormal(1.5, 0.8)), 3) if modality == "video" else 0.0
            rows.append(
                Row(number, modality, sources[int(rng.integers(len(sources)))], ("CC0-1.0", "CC-BY-4.0")[number % 2],
                    seconds=seconds, words=int(rng.integers(3, 60)), size=int(rng.lognormal(6.5, 0.8)) + 1)
            )  # fmt: skip
    return rows


def read_manifest(folder: Path) -> dict[str, Any]:
    """A folder's mixture.json."""
    return dict(json.loads((folder / "mixture.json").read_bytes()))
