"""What is known of each kept video, as an evidence sheet; where a captioner is configured, with what it sees."""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotators.dialogues import evidence
from annotators.dialogues.evidence import EvidenceItem
from annotators.dialogues.kinds import IMAGE_TEXT, supports
from infra import tables
from infra.hashing import fingerprint
from infra.llm.requests import Request
from infra.media.interface import FramePlan
from pipelines.annotate.llm_client import open_server_client, share_endpoints
from pipelines.annotate.settings import AnnotateSettings, CaptionerSettings
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.core.sample_media import decode_limits, media_refs, process_decoder, source_root
from pipelines.core.signals import read_signals

SHEETS = pa.schema(
    [
        ("key", pa.string()),
        ("seconds", pa.float64()),
        ("items", pa.list_(tables.ITEM)),
        ("supports", pa.list_(pa.string())),
    ]
)

#: Between kinds in the name of a class of videos.
JOIN = "+"


def sheets_unit(run: Run, stamp: str, name: str) -> Mapping[str, int]:
    """Task: the evidence sheets of a unit's kept videos; counts the sets of kinds that they support."""
    uri = run.work("evidence", f"{name}.parquet")
    mine = fingerprint([stamp, name])
    if not tables.is_done(uri, mine):
        tables.write(uri, asyncio.run(_sheets(run, name)), fingerprint=mine)
    counts: dict[str, int] = {"_units": 1}
    for supported in tables.read(uri, ["supports"])["supports"].to_pylist():
        joined = JOIN.join(supported)
        counts[joined] = counts.get(joined, 0) + 1
    return counts


async def _sheets(run: Run, name: str) -> pa.Table:
    settings = resolve(run).annotate
    assert settings is not None
    verdicts = tables.read(run.at("verdicts", f"{name}.parquet"), ["modality", "outcome"])
    modalities = ["video", "image", "multi_image"] if settings.ocr_questions else ["video"]
    of_them = pc.is_in(verdicts["modality"], value_set=pa.array(modalities))
    wanted = pc.and_(of_them, pc.equal(verdicts["outcome"], "kept"))
    take = pa.array(np.flatnonzero(np.asarray(wanted, dtype=bool)))
    samples = tables.read(run.at("samples", f"{name}.parquet")).take(take).to_pylist()
    signals = read_signals(run, name).take(take).to_pylist()
    seen: list[Sequence[EvidenceItem]] = [()] * len(samples)
    if settings.captioner is not None and samples:
        clips = [i for i, sample in enumerate(samples) if sample["modality"] == "video"]
        captioned = await _captions(run, settings, settings.captioner, [samples[i] for i in clips],
                                [signals[i] for i in clips])  # fmt: skip
        for i, further in zip(clips, captioned, strict=True):
            seen[i] = further
    rows = []
    for sample, facts, further in zip(samples, signals, seen, strict=True):
        sheet = evidence.build_sheet(sample, facts, settings.evidence, further)
        if sample["modality"] != "video" and not supports(IMAGE_TEXT, sheet):
            continue
        able = settings.kinds if sample["modality"] == "video" else {IMAGE_TEXT: 1.0}
        supported = sorted(name for name, share in able.items() if share > 0 and supports(name, sheet))
        rows.append({"key": sample["key"], "seconds": sheet.seconds, "items": sheet.to_rows(), "supports": supported})
    return pa.Table.from_pylist(rows, schema=SHEETS)


async def _captions(
    run: Run,
    settings: AnnotateSettings,
    captioner: CaptionerSettings,
    samples: Sequence[Mapping[str, Any]],
    signals: Sequence[Mapping[str, Any]],
) -> list[Sequence[EvidenceItem]]:
    """Dense captions of videos by a vision-language model, one a stretch of `every_s` seconds."""
    among = run.runner.workers
    async with open_server_client(run, settings, captioner.endpoints, among) as client:
        slots = sum(e.in_flight for e in share_endpoints(captioner.endpoints, among))
        gate = asyncio.Semaphore(max(2, slots // captioner.max_captions))

        async def one(sample: Mapping[str, Any], facts: Mapping[str, Any]) -> Sequence[EvidenceItem]:
            async with gate:
                stretches = _stretches(run, captioner, sample, float(facts.get("facts.duration") or 0.0))
                answers = await asyncio.gather(*(client.complete(Request(body)) for _, _, body in stretches))
            found = []
            for i, ((start, end, _), answer) in enumerate(zip(stretches, answers, strict=True)):
                if answer.error is None and answer.texts and answer.texts[0].strip():
                    found.append(EvidenceItem(f"d{i + 1}", "dense", start, end, answer.texts[0].strip()))
            return found

        return list(await asyncio.gather(*(one(s, f) for s, f in zip(samples, signals, strict=True))))


def _stretches(
    run: Run, captioner: CaptionerSettings, sample: Mapping[str, Any], seconds: float
) -> list[tuple[float, float, dict[str, Any]]]:
    """(start, end, request) of each stretch; none where the video cannot be decoded, which measure has booked."""
    import cv2

    count = min(max(math.ceil(seconds / captioner.every_s), 1), captioner.max_captions)
    plan = FramePlan("uniform", captioner.size, "long", count=count * captioner.frames)
    source = next(s for s in run.config.sources if s.name == sample["source"])
    (ref,) = media_refs(sample, source_root(source))
    decoded = process_decoder(decode_limits(resolve(run).measure)).decode(ref, {"captioner": plan}, {})
    if decoded.error is not None:
        return []
    frames = decoded.frames["captioner"]
    pictures = [
        base64.b64encode(cv2.imencode(".jpg", p[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()).decode()
        for p in frames.pixels
    ]
    found = []
    for i, part in enumerate(np.array_split(np.arange(len(pictures)), count)):
        start, end = seconds * i / count, seconds * (i + 1) / count
        if len(part):
            body = evidence.build_caption_body(captioner.model, [pictures[j] for j in part], captioner.max_tokens)
            found.append((start, end, body))
    return found
