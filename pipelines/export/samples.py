"""Build the samples of a shard: text, JSON record and tar members."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from infra import storage
from infra.hashing import canonical_json
from mixtures.reading.contract import RELEASED, estimate_text_tokens
from mixtures.reading.conversations import build_conversation, build_llava_turns, find_turns, strip_control_tokens
from mixtures.shards.series import number_media
from mixtures.shards.shards import Member, get_suffix
from pipelines.core.run import Run
from pipelines.core.sample_media import media_root
from pipelines.core.signals import read_signals


@dataclass(frozen=True)
class ExportRow:
    """A row to export.

    sample, signals, dialogue: its rows of these tables (no dialogue: None). caption: the text to train on.
    """

    sample: Mapping[str, Any]
    signals: Mapping[str, Any]
    caption: str
    dialogue: Mapping[str, Any] | None = None

    @property
    def media(self) -> Sequence[Mapping[str, Any]]:
        return self.sample["media"] or ()

    @property
    def seconds(self) -> float:
        return float(self.signals.get("facts.duration") or 0.0)

    @property
    def images(self) -> int:
        return len(self.media) if self.sample["modality"] in ("image", "multi_image") else 0


@dataclass(frozen=True)
class ShardSample:
    """A sample of a shard. record: KEY.json; members: all files; text_tokens: tokens of the text alone."""

    row: ExportRow
    record: Mapping[str, Any]
    members: Sequence[Member]
    text_tokens: int

    @property
    def bytes(self) -> int:
        """Total size of the members in bytes."""
        return sum(member.size if member.content is None else len(member.content) for member in self.members)


def build_captions(run: Run, signals: pa.Table) -> list[str]:
    """Training text of each sample: the cleaned caption, joined with the text in the picture as configured."""
    captions = [strip_control_tokens(text or "") for text in signals["clean.text"].to_pylist()]
    ocr = run.config.export.ocr
    if not ocr.join or "overlay.text" not in signals.schema.names:
        return captions
    overlays = [strip_control_tokens(text or "").split() for text in signals["overlay.text"].to_pylist()]
    return [
        ocr.template.format(caption=caption, text=" ".join(words)) if len(words) >= ocr.min_words else caption
        for caption, words in zip(captions, overlays, strict=True)
    ]


def list_suffixes(sample: Mapping[str, Any], media_format: str | None) -> list[str]:
    """File suffixes of a sample's media. media_format: the decoder's name of it, used for single media only."""
    media = sample["media"] or ()
    if len(media) != 1:
        media_format = None
    return [get_suffix(medium["uri"] if medium["length"] < 0 else sample["position"], media_format) for medium in media]


def build_sample(run: Run, row: ExportRow) -> ShardSample:
    """Build a sample's members: media, JSON record, and the caption as a text file if configured."""
    turns, kind = _build_turns(row)
    text_tokens = estimate_text_tokens("".join(turn["value"] for turn in turns))
    modality = np.array([row.sample["modality"]], object)
    media_tokens = RELEASED.media_tokens(modality, np.array([row.seconds]), np.array([row.images]))
    record = build_record(row, turns, kind, text_tokens + int(media_tokens[0]))
    members = [*_media_members(run, row), Member("json", content=canonical_json(record))]
    if row.caption and run.config.export.captions_txt:
        members.append(Member("txt", content=row.caption.encode()))
    return ShardSample(row, record, sorted(members, key=lambda member: member.suffix), text_tokens)


def _build_turns(row: ExportRow) -> tuple[list[dict[str, str]], str]:
    """(turns, kind) of the accepted dialogue, else of the source's conversation, else of the caption."""
    modality, media = row.sample["modality"], len(row.media)
    dialogue = row.dialogue
    if dialogue is not None and dialogue["outcome"] == "accepted":
        turns, kind = build_conversation(modality, row.caption, media, build_llava_turns(dialogue["turns"]))
        return turns, dialogue["kind"] if kind == "conversation" else kind
    extra = json.loads(row.sample["extra"] or "{}")
    return build_conversation(modality, row.caption, media, find_turns(extra) or ())


def build_record(row: ExportRow, turns: Sequence[Mapping[str, str]], kind: str, tokens: int) -> dict[str, Any]:
    """Build KEY.json. tokens: of text and media together."""
    sample, signals = row.sample, row.signals
    return {
        "id": sample["key"],
        "data_source": sample["source"],
        "data_type": sample["modality"],
        "kind": kind,
        "conversations": turns,
        "caption": row.caption,
        "licence": sample["licence"],
        "origin": sample["origin"],
        "container": sample["container"],
        "position": sample["position"],
        "sha256": [medium["sha256"] for medium in row.media] or [""],
        "width": int(signals.get("facts.width") or 0),
        "height": int(signals.get("facts.height") or 0),
        "pixel_aspect": float(signals.get("facts.pixel_aspect") or 0.0),
        "duration": row.seconds,
        "fps": float(signals.get("facts.fps") or 0.0),
        "n_frames": int(signals.get("facts.frames") or 0),
        "language": str(signals.get("language.label") or ""),
        "ocr_text": strip_control_tokens(signals.get("overlay.text") or ""),
        "tokens": tokens,
    }


def _media_members(run: Run, row: ExportRow) -> Iterator[Member]:
    """Yield the members of a sample's media; their bytes are read when the tar is written."""
    source = next(source for source in run.config.sources if source.name == row.sample["source"])
    suffixes = number_media(row.sample["modality"], list_suffixes(row.sample, row.signals.get("facts.container")))
    for medium, suffix in zip(row.media, suffixes, strict=True):
        uri = media_root(run, source).locate(medium["uri"])
        size = medium["length"] if medium["length"] >= 0 else _file_size(uri)
        blocks = storage.read_blocks(uri, medium["offset"], medium["length"])
        yield Member(suffix, blocks=blocks, size=size, sha256=medium["sha256"], where=uri)


def _file_size(uri: str) -> int:
    if storage.is_local(uri):
        path = storage.local_path(uri)
        return path.stat().st_size if path.is_file() else 0
    return storage.file_size(uri)


def preview_samples(run: Run, unit: str, rows: Sequence[int]) -> list[tuple[int, int]]:
    """(bytes, tokens) that rows of a unit would have in shards, computed without reading media."""
    positions = pa.array(list(rows), pa.int64())
    signals = read_signals(run, unit).take(positions)
    samples = run.read("samples", unit).take(positions).to_pylist()
    columns = (samples, signals.to_pylist(), build_captions(run, signals))
    previews = [build_sample(run, ExportRow(*row)) for row in zip(*columns, strict=True)]
    return [(preview.bytes, int(preview.record["tokens"])) for preview in previews]
