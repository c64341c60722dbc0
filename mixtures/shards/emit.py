"""A mixture for other readers: Energon's index beside materialized tars, and LLaVA's JSON with media as files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml

from infra import storage
from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json
from mixtures.reading.conversations import PLACEHOLDER
from mixtures.shards.copying import EXPORT_AGAIN, SampleSpan, SourceTars, name_copy
from mixtures.shards.manifest import Mixture
from mixtures.shards.unpack import extract_record, list_media, unpack_members

#: Formats that can be written beside a mixture.
FORMATS = ("energon", "llava")

#: LLaVA-NeXT's field for a sample's media. Videos have the placeholder of images, too.
_FIELD = {"video": "video", "image": "image", "multi_image": "image"}


# -- Energon ----------------------------------------------------------------------------------------------------


def write_energon(mixture: Mixture) -> list[str]:
    """Write MIX/.nv-meta and an index beside each tar, as `energon prepare` would; returns the files' paths.

    Samples are crude, dicts of members by suffix, since modalities mix: the trainer's cooker interprets them.
    All tars belong to the split `train`. Raises ConfigError where the mixture has no tars.
    """
    tars = mixture.manifest["materialized"]
    if tars is None:
        raise ConfigError("Energon reads tars, and this mixture has none", where=mixture.uri, hint="add --materialize")
    table = mixture.members(["vshard", "size"])
    sizes = np.asarray(table["size"], dtype=np.int64)
    starts = np.searchsorted(np.asarray(table["vshard"]), np.arange(len(tars) + 1))
    written = []
    for vshard, tar in enumerate(tars):
        offsets = np.cumsum([0, *sizes[starts[vshard] : starts[vshard + 1]]]).astype("<u8")
        uri = storage.join(mixture.uri, "shards", f"{tar['name']}.tar.idx")
        storage.write_bytes(uri, offsets.tobytes())
        written.append(uri)
    counts = {f"shards/{tar['name']}.tar": tar["samples"] for tar in tars}
    files = {
        ".info.json": canonical_json({"energon_version": "7.4.1", "shard_counts": counts}),
        "split.yaml": _to_yaml({"split_parts": {"train": list(counts), "val": [], "test": []}, "exclude": []}),
        "dataset.yaml": _to_yaml({"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}),
    }
    for name, content in files.items():
        uri = storage.join(mixture.uri, ".nv-meta", name)
        storage.write_bytes(uri, content)
        written.append(uri)
    return written


def _to_yaml(document: Any) -> bytes:
    return yaml.safe_dump(document, sort_keys=True, default_flow_style=False).encode()


# -- LLaVA ------------------------------------------------------------------------------------------------------


def write_llava(mixture: Mixture) -> list[str]:
    """Write MIX/llava/{media/…, mixture.json, mixture.yaml}, LLaVA-NeXT's data files; returns both files' paths.

    Media are written as files, since that format names files; a repeat is another entry with the same file.
    Documents are omitted: they have no human turn, which that trainer requires.
    Raises StageError for a sample that differs from its run's index, or turns that the trainer cannot process.
    """
    lines = []
    for row in _read_samples(mixture):
        line = build_llava_entry(row["record"], name_copy(row["key"], row["repeat"]), list(row["media"]), row["where"])
        if line is None:
            continue
        if not row["repeat"]:
            for name, content in row["media"].items():
                storage.write_bytes(storage.join(mixture.uri, "llava", name), content)
        lines.append(line)
    entries = storage.join(mixture.uri, "llava", "mixture.json")
    storage.write_bytes(entries, canonical_json(lines))
    config = storage.join(mixture.uri, "llava", "mixture.yaml")
    storage.write_bytes(config, _to_yaml({"datasets": [{"json_path": "mixture.json", "sampling_strategy": "all"}]}))
    return [entries, config]


def build_llava_entry(record: dict[str, Any], name: str, media: list[str], where: str) -> dict[str, Any] | None:
    """Build one entry of a LLaVA JSON; None for a document or for media without a conversation.

    Raises StageError unless human and gpt alternate, no turn is empty, and the human's turns have a placeholder per
    medium.
    """
    turns = record["conversations"]
    if len(turns) < 2:
        return None
    speakers = [turn["from"] for turn in turns]
    expected = {"video": 1, "text": 0}.get(record["data_type"], len(media))
    counts = [turn["value"].count(PLACEHOLDER) for turn in turns]
    if speakers != ["human", "gpt"] * (len(turns) // 2) or not all(turn["value"].strip() for turn in turns):
        raise StageError(
            f"the turns of {record['id']} do not alternate, or one is empty", where=where, hint=EXPORT_AGAIN
        )
    if sum(counts[::2]) != expected or (expected and sum(counts) != expected):
        raise StageError(f"{record['id']} does not have one placeholder per medium", where=where, hint=EXPORT_AGAIN)
    line = {"id": name, "data_source": record["data_source"], "conversations": turns}
    if media:
        line[_FIELD[record["data_type"]]] = media[0] if record["data_type"] != "multi_image" else media
    return line


def _read_samples(mixture: Mixture) -> Iterator[dict[str, Any]]:
    """Yield each sample in the mixture's order: key, repeat, record, and its media by their path in MIX/llava."""
    table = mixture.members(["key", "repeat", "shard", "offset", "size"])
    tars = [mixture.tar(i) for i in range(len(mixture.manifest["shards"]))]
    sources = SourceTars()
    try:
        for batch in table.to_batches(max_chunksize=1_000):
            for row in batch.to_pylist():
                span = SampleSpan(row["key"], row["repeat"], tars[row["shard"]], row["offset"], row["size"])
                content = bytearray(span.size)
                sources.read_into(span.tar, span.offset, memoryview(content))
                members = unpack_members(memoryview(content), span.key, span.tar, span.offset)
                media = {f"media/{span.key}.{suffix}": members[suffix] for suffix in list_media(members)}
                yield {"key": span.key, "repeat": span.repeat, "where": span.tar, "media": media,
                       "record": extract_record(members, span.key, span.tar, span.offset)}  # fmt: skip
    finally:
        sources.close()
