"""A mixture for other readers: what Energon wants beside materialized tars, and LLaVA's JSON with media as files."""

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

#: What can be written beside a mixture.
FORMATS = ("energon", "llava")

#: LLaVA-NeXT's name of a sample's media; its placeholder is that of images, also for a video.
_FIELD = {"video": "video", "image": "image", "multi_image": "image"}


# -- Energon ----------------------------------------------------------------------------------------------------


def write_energon(mixture: Mixture) -> list[str]:
    """Write MIX/.nv-meta and an index beside each tar, as `energon prepare` would; returns the files' paths.

    Samples are crude: a dict of members by suffix, for a cooker of the trainer's to take apart, since modalities mix.
    All tars are the split `train`. Raises ConfigError where the mixture has no tars.
    """
    made = mixture.manifest["materialized"]
    if made is None:
        raise ConfigError("Energon reads tars, and this mixture has none", where=mixture.uri, hint="add --materialize")
    table = mixture.members(["vshard", "size"])
    sizes = np.asarray(table["size"], dtype=np.int64)
    starts = np.searchsorted(np.asarray(table["vshard"]), np.arange(len(made) + 1))
    written = []
    for vshard, one in enumerate(made):
        offsets = np.cumsum([0, *sizes[starts[vshard] : starts[vshard + 1]]]).astype("<u8")
        uri = storage.join(mixture.uri, "shards", f"{one['name']}.tar.idx")
        storage.write_bytes(uri, offsets.tobytes())
        written.append(uri)
    paths = [f"shards/{one['name']}.tar" for one in made]
    counts = {path: one["samples"] for path, one in zip(paths, made, strict=True)}
    files = {
        ".info.json": canonical_json({"energon_version": "7.4.1", "shard_counts": counts}),
        "split.yaml": _yaml({"split_parts": {"train": paths, "val": [], "test": []}, "exclude": []}),
        "dataset.yaml": _yaml({"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}),
    }
    for name, data in files.items():
        uri = storage.join(mixture.uri, ".nv-meta", name)
        storage.write_bytes(uri, data)
        written.append(uri)
    return written


def _yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, sort_keys=True, default_flow_style=False).encode()


# -- LLaVA ------------------------------------------------------------------------------------------------------


def write_llava(mixture: Mixture) -> list[str]:
    """Write MIX/llava/{media/…, mixture.json, mixture.yaml}: LLaVA-NeXT's data file; returns both files' paths.

    Media are written as files, since that format names files; a repeat is a line of its own with the same file.
    Documents, which have no human turn, are left out: that trainer has no place for them.
    Raises StageError for a sample that is not what its run says, or turns that such a trainer would choke on.
    """
    lines = []
    for row in _records(mixture):
        line = build_llava_entry(row["record"], name_copy(row["key"], row["repeat"]), list(row["media"]), row["where"])
        if line is None:
            continue
        if not row["repeat"]:
            for name, content in row["media"].items():
                storage.write_bytes(storage.join(mixture.uri, "llava", name), content)
        lines.append(line)
    data = storage.join(mixture.uri, "llava", "mixture.json")
    storage.write_bytes(data, canonical_json(lines))
    config = storage.join(mixture.uri, "llava", "mixture.yaml")
    storage.write_bytes(config, _yaml({"datasets": [{"json_path": "mixture.json", "sampling_strategy": "all"}]}))
    return [data, config]


def build_llava_entry(record: dict[str, Any], name: str, media: list[str], where: str) -> dict[str, Any] | None:
    """One entry of a LLaVA JSON; None for a document or for media that nothing is said about.

    Raises StageError unless human and gpt alternate, no turn is empty, and the first turn has one placeholder a medium.
    """
    turns = record["conversations"]
    if len(turns) < 2:
        return None
    who = [turn["from"] for turn in turns]
    wanted = {"video": 1, "text": 0}.get(record["data_type"], len(media))
    count = [turn["value"].count(PLACEHOLDER) for turn in turns]
    if who != ["human", "gpt"] * (len(turns) // 2) or not all(turn["value"].strip() for turn in turns):
        raise StageError(
            f"the turns of {record['id']} do not alternate, or one is empty", where=where, hint=EXPORT_AGAIN
        )
    if count[0] != wanted or (wanted and sum(count) != wanted):
        raise StageError(f"{record['id']} has not one placeholder a medium", where=where, hint=EXPORT_AGAIN)
    line = {"id": name, "data_source": record["data_source"], "conversations": turns}
    if media:
        line[_FIELD[record["data_type"]]] = media[0] if record["data_type"] != "multi_image" else media
    return line


def _records(mixture: Mixture) -> Iterator[dict[str, Any]]:
    """Each sample in the mixture's order: key, repeat, record, and its media by the path that they will have."""
    table = mixture.members(["key", "repeat", "shard", "offset", "size"])
    tars = [mixture.tar(i) for i in range(len(mixture.manifest["shards"]))]
    sources = SourceTars()
    try:
        for batch in table.to_batches(max_chunksize=1_000):
            for row in batch.to_pylist():
                span = SampleSpan(row["key"], row["repeat"], tars[row["shard"]], row["offset"], row["size"])
                data = bytearray(span.size)
                sources.read_into(span.tar, span.offset, memoryview(data))
                parts = unpack_members(memoryview(data), span.key, span.tar, span.offset)
                media = {f"media/{span.key}.{suffix}": parts[suffix] for suffix in list_media(parts)}
                yield {"key": span.key, "repeat": span.repeat, "where": span.tar, "media": media,
                       "record": extract_record(parts, span.key, span.tar, span.offset)}  # fmt: skip
    finally:
        sources.close()
