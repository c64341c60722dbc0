"""Evidence sheets of kept videos, with dense captions by a vision-language model if one is configured."""

from __future__ import annotations

import asyncio
import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from annotators.dialogues import evidence
from annotators.dialogues.evidence import EvidenceItem
from annotators.dialogues.kinds import IMAGE_TEXT, supports
from infra import tables
from infra.columns import equals, to_strings
from infra.errors import is_environment_error
from infra.hashing import fingerprint
from infra.llm.requests import GAVE_UP, Request
from infra.media.interface import FramePlan
from pipelines.annotate.llm_client import open_server_client, share_endpoints
from pipelines.annotate.settings import AnnotateSettings, CaptionerSettings
from pipelines.core.environment import request_ingest
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.core.sample_media import borrow_decoder, decode_limits, media_refs, media_root
from pipelines.core.signals import read_signals

SHEETS = pa.schema(
    [
        ("key", pa.string()),
        ("seconds", pa.float64()),
        ("items", pa.list_(tables.ITEM)),
        ("supports", pa.list_(pa.string())),
    ]
)

#: Joins the kinds in the name of a class of videos.
JOIN = "+"
#: Begins the names of counters of captions that sheets lack.
MISSING = "_missing "


def split_kinds(name: str) -> frozenset[str]:
    """Return the kinds in the name of a class of videos: the inverse of JOIN.join(kinds)."""
    return frozenset(name.split(JOIN)) - {""}


def make_sheets(run: Run, stamp: str, name: str) -> Mapping[str, int]:
    """Task: make the evidence sheets of a unit's kept videos and count the sets of kinds that they support; and the
    errors for which sheets that were made now lack captions, by kind, below MISSING."""
    uri = run.work("evidence", f"{name}.parquet")
    inputs = fingerprint([stamp, name])
    counts: dict[str, int] = {"_units": 1}
    if not tables.is_intact(uri, inputs):
        errors: list[str] = []
        table = asyncio.run(_build_table(run, name, errors))
        retry = any(error.startswith(GAVE_UP) or is_environment_error(error) for error in errors)
        tables.write(uri, table, fingerprint=inputs, retry=retry)
        counts |= Counter(MISSING + error.partition(":")[0] for error in errors)
    for supported in tables.read(uri, ["supports"])["supports"].to_pylist():
        joined = JOIN.join(supported)
        counts[joined] = counts.get(joined, 0) + 1
    return counts


async def _build_table(run: Run, name: str, missing: list[str]) -> pa.Table:
    """missing: is given the errors for which sheets lack captions; after those of servers and of the environment the
    next run tries again."""
    settings = resolve(run).annotate
    assert settings is not None
    verdicts = run.read("verdicts", name, ["modality", "outcome"])
    modalities = ["video", "image", "multi_image"] if settings.ocr_questions else ["video"]
    kept = np.isin(to_strings(verdicts["modality"]), modalities) & equals(verdicts["outcome"], "kept")
    indices = pa.array(np.flatnonzero(kept))
    samples = run.read("samples", name).take(indices).to_pylist()
    signals = read_signals(run, name).take(indices).to_pylist()
    captions = await _caption_videos(run, settings, samples, signals, missing)
    if any(error.startswith("changed:") for error in missing):
        request_ingest(run, name)
    rows = []
    for i, sample in enumerate(samples):
        sheet = evidence.build_sheet(sample, signals[i], settings.evidence, captions.get(i, ()))
        if sample["modality"] != "video" and not supports(IMAGE_TEXT, sheet):
            continue
        shares = settings.kinds if sample["modality"] == "video" else {IMAGE_TEXT: 1.0}
        supported = sorted(kind for kind, share in shares.items() if share > 0 and supports(kind, sheet))
        rows.append({"key": sample["key"], "seconds": sheet.seconds, "items": sheet.to_rows(), "supports": supported})
    return pa.Table.from_pylist(rows, schema=SHEETS)


async def _caption_videos(
    run: Run,
    settings: AnnotateSettings,
    samples: Sequence[Mapping[str, Any]],
    signals: Sequence[Mapping[str, Any]],
    missing: list[str],
) -> dict[int, Sequence[EvidenceItem]]:
    """Dense captions by the captioner, by the index of each video in `samples`; {} without a captioner."""
    captioner = settings.captioner
    if captioner is None or not samples:
        return {}
    processes = run.runner.workers
    async with open_server_client(run, settings, captioner.endpoints, processes) as client:
        slots = sum(endpoint.in_flight for endpoint in share_endpoints(captioner.endpoints, processes))
        limit = asyncio.Semaphore(max(2, slots // captioner.max_captions))

        async def caption(i: int) -> Sequence[EvidenceItem]:
            async with limit:
                seconds = float(signals[i].get("facts.duration") or 0.0)
                segments = _build_requests(run, captioner, samples[i], seconds, missing)
                completions = await asyncio.gather(*(client.complete(request) for _, _, request in segments))
            errors = [completion.error for completion in completions if completion.error is not None]
            missing.extend(errors)
            return [
                EvidenceItem(f"d{number}", "dense", start, end, completion.texts[0].strip())
                for number, ((start, end, _), completion) in enumerate(zip(segments, completions, strict=True), 1)
                if completion.error is None and completion.texts and completion.texts[0].strip()
            ]

        videos = [i for i, sample in enumerate(samples) if sample["modality"] == "video"]
        return dict(zip(videos, await asyncio.gather(*map(caption, videos)), strict=True))


def _build_requests(
    run: Run, captioner: CaptionerSettings, sample: Mapping[str, Any], seconds: float, missing: list[str]
) -> list[tuple[float, float, Request]]:
    """(start, end, request) per segment of `every_s` seconds; none if the video cannot be decoded, which measure
    reports."""
    import cv2

    count = min(max(math.ceil(seconds / captioner.every_s), 1), captioner.max_captions)
    plan = FramePlan("uniform", captioner.size, "long", count=count * captioner.frames)
    source = next(s for s in run.config.sources if s.name == sample["source"])
    (ref,) = media_refs(sample, media_root(run, source))
    with borrow_decoder(decode_limits(resolve(run).measure)) as decoder:
        decoded = decoder.decode(ref, {"captioner": plan}, {})
    if decoded.error is not None:
        if is_environment_error(decoded.error):
            missing.append(decoded.error)
        return []
    jpegs = [
        base64.b64encode(cv2.imencode(".jpg", p[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()).decode()
        for p in decoded.frames["captioner"].pixels
    ]
    segments = []
    for i, indices in enumerate(np.array_split(np.arange(len(jpegs)), count)):
        if len(indices):
            body = evidence.build_caption_body(captioner.model, [jpegs[j] for j in indices], captioner.max_tokens)
            segments.append((seconds * i / count, seconds * (i + 1) / count, Request(body)))
    return segments
