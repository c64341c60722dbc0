"""Small mixtures written by hand: tars with members of known bytes, and a manifest over them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from infra import storage, tables
from infra.hashing import canonical_json, sample_key
from mixtures.reading.contract import Contract
from mixtures.shards import copying, manifest, shards
from mixtures.shards.manifest import Mixture

SUFFIX = {"video": ["mp4"], "image": ["jpg"], "multi_image": ["0.jpg", "1.jpg"], "text": []}


def key_of(number: int) -> str:
    return sample_key("small", "here", str(number), "", "")


def record(number: int, modality: str, media: list[bytes], **more: Any) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": "<image>" * len(media) + f"\nWhat is {number}?"},
        {"from": "gpt", "value": "It."},
    ]
    return {
        "id": key_of(number),
        "data_type": modality,
        "conversations": turns if media else [{"from": "gpt", "value": f"The story of {number}."}],
        "sha256": [hashlib.sha256(content).hexdigest() for content in media] or [""],
        "duration": 0.0,
        "fps": 0.0,
        "n_frames": 0,
        "pixel_aspect": 0.0,
        **more,
    }


def sample(
    number: int, modality: str, media: list[bytes] | None = None, **more: Any
) -> tuple[str, list[shards.Member]]:
    """A sample's key and members; without `media` they are keyed bytes that no codec knows."""
    if media is None:
        rng = np.random.default_rng(number)
        media = [rng.bytes(int(rng.integers(0, 3000))) for _ in SUFFIX[modality]]
    parts = [shards.Member(name, content=content) for name, content in zip(SUFFIX[modality], media, strict=True)]
    parts.append(shards.Member("json", content=canonical_json(record(number, modality, media, **more))))
    return key_of(number), parts


def write_run(folder: Path, tars: dict[str, list[tuple[str, list[shards.Member]]]]) -> dict[str, dict[str, Any]]:
    """Tars under folder/shards; for each what mixture.json says of it, and where its samples lie."""
    (folder / "shards").mkdir(parents=True)
    summaries = {}
    for name, samples in tars.items():
        path = folder / "shards" / f"{name}.tar"
        digest, written = shards.write_tar(path, samples)
        summaries[name] = {"sha256": digest, "bytes": path.stat().st_size, "written": written}
    return summaries


def write(
    folder: Path,
    modalities: dict[str, int],
    *,
    vshards: int = 4,
    repeats: int = 1,
    seed: int = 7,
    materialized: bool = False,
    contract: Contract | None = None,
    samples: dict[str, list[tuple[str, list[shards.Member]]]] | None = None,
    uri: str | None = None,
) -> Mixture:
    """folder/run and folder/mix: of each modality so many samples in one tar, each `repeats` times in the mixture,
    groups interleaved in every virtual shard. `uri`: where `folder` is reached, if not as itself."""
    number = 0
    tars: dict[str, list[tuple[str, list[shards.Member]]]] = {}
    for modality, count in modalities.items():
        modality_samples = (
            [sample(number + i, modality) for i in range(count)] if samples is None else samples[modality]
        )
        tars[f"{modality}-000000"] = modality_samples
        number += count
    run = write_run(folder / "run", tars)
    taken: list[tuple[int, float, dict[str, Any]]] = []
    for group, name in enumerate(run):
        rows = [(written, repeat) for repeat in range(repeats) for written in run[name]["written"]]
        cut = np.linspace(0, len(rows), vshards + 1).astype(int)
        for v in range(vshards):
            shard_rows = rows[cut[v] : cut[v + 1]]
            for i, (written, repeat) in enumerate(shard_rows):
                row = {
                    "key": written.key,
                    "group": group,
                    "shard": group,
                    "repeat": repeat,
                    "offset": written.offset,
                    "size": written.size,
                    "tokens": 10 * (group + 1),
                    "seconds": float(group),
                    "bytes": sum(size for _, _, size in written.members),
                }
                taken.append((v, (i + 0.5) / len(shard_rows), row))
    taken.sort(key=lambda entry: (entry[0], entry[1], entry[2]["group"]))
    laid = []
    for v in range(vshards):
        laid += [row | {"vshard": v, "position": i} for i, (_, _, row) in enumerate(t for t in taken if t[0] == v)]
    members = pa.Table.from_pylist(laid, schema=tables.MIXTURE)
    base = uri or str(folder)
    own = None
    if materialized:
        own = []
        for v in range(vshards):
            spans = []
            for row in (row for row in laid if row["vshard"] == v):
                source = folder / "run" / "shards" / f"{list(run)[row['shard']]}.tar"
                spans.append(copying.SampleSpan(row["key"], row["repeat"], str(source), row["offset"], row["size"]))
            target = folder / "mix" / "shards" / f"mix-{v:06d}.tar"
            target.parent.mkdir(parents=True, exist_ok=True)
            copying.copy_samples(target, spans, copying.SourceTars())
            count = sum(row["vshard"] == v for row in laid)
            own.append({"name": target.stem, "samples": count, "bytes": target.stat().st_size, "sha256": ""})
    total = {m: repeats * n for m, n in modalities.items()}
    share = {m: n / max(1, sum(total.values())) for m, n in total.items()}
    manifest_fields = {
        "seed": seed,
        "recipe": {},
        "unit": "samples",
        "contract": asdict(contract or Contract()),
        "parents": [{"run": "../run", "name": "run", "members": ""}],
        "shards": [
            {"parent": 0, "name": name, "modality": name.split("-")[0], "suffixes": "", **{k: run[name][k] for k in
             ("bytes", "sha256")}} for name in run
        ],
        "groups": [{"name": m, "modality": m, "cell": {}, "samples": count} for m, count in total.items()],
        "totals": {"samples": sum(total.values())},
        "achieved": {"samples": share},
        "vshards": vshards,
        "warnings": [],
        "materialized": own,
    }  # fmt: skip
    mixture = manifest.write_mixture(str(folder / "mix"), manifest_fields, members)
    return Mixture(storage.join(base, "mix"), mixture.value) if uri else mixture
