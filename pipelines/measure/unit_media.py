"""The media of a unit's rows, probed and decoded sample by sample."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from infra.errors import is_environment_error
from infra.media.decoder import Decoder
from infra.media.interface import DecodedMedia, FramePlan, Frames, MediaRef, StreamObserver
from pipelines.core.sample_media import MediaRoot, media_refs

#: Seconds before each further try to open a medium whose bytes could not be read (ours).
RETRY_AFTER_S = (0.2, 1.0)

_NO_MEDIUM = DecodedMedia(error="no_medium: the sample names none")


class UnitMedia:
    """roots: the folders of each source; environment: number of media that failed for no fault of their own, by kind of
    error."""

    def __init__(self, samples: pa.Table, roots: Mapping[str, MediaRoot], decoder: Decoder) -> None:
        self.environment: Counter[str] = Counter()
        self._samples = samples.select(["source", "modality", "media"])
        self._roots = roots
        self._decoder = decoder
        self._before = (decoder.decodes, decoder.probes, decoder.decode_seconds)

    def counters(self) -> dict[str, int]:
        """Counts of decodes and probes for this unit; the decoder serves many."""
        decodes, probes, seconds = self._before
        return {
            "decodes": self._decoder.decodes - decodes,
            "probes": self._decoder.probes - probes,
            "decode_ms": int(1000 * (self._decoder.decode_seconds - seconds)),
            **{f"environment_{kind}": count for kind, count in sorted(self.environment.items())},
        }

    def probe(self, row: int) -> DecodedMedia:
        """The header of a sample's medium, of several images that of the smallest, with their number; the first error
        of any of them."""
        headers = []
        for ref in self._refs(row):
            media = self._request(functools.partial(self._decoder.probe, ref))
            if media.error is not None:
                return media
            headers.append(media.header)
        if not headers:
            return _NO_MEDIUM
        return DecodedMedia(header=_merge_headers(headers))

    def decode(self, row: int, plans: Mapping[str, FramePlan], observers: Mapping[str, StreamObserver]) -> DecodedMedia:
        """A sample's media, each decoded once; the first error of any of them."""
        refs = self._refs(row)
        if not refs:
            return _NO_MEDIUM
        if len(refs) > 1:
            most = self._decoder.limits.max_frame_bytes // len(refs)
            plans = {name: _limit_bytes(plan, most) for name, plan in plans.items()}
        decoded = []
        for ref in refs:
            media = self._request(functools.partial(self._decoder.decode, ref, plans, observers))
            if media.error is not None:
                return media
            decoded.append(media)
        return decoded[0] if len(decoded) == 1 else _concatenate(decoded)

    def _refs(self, row: int) -> list[MediaRef]:
        (sample,) = self._samples.slice(row, 1).to_pylist()
        return media_refs(sample, self._roots[sample["source"]])

    def _request(self, request: Callable[[], DecodedMedia]) -> DecodedMedia:
        """Probe or decode one medium, again after errors that may pass; count those of the environment."""
        media = request()
        for pause_s in RETRY_AFTER_S:
            if not (media.error or "").startswith("unreadable:"):
                break
            time.sleep(pause_s)
            media = request()
        if is_environment_error(media.error):
            self.environment[str(media.error).partition(":")[0]] += 1
        return media


def _limit_bytes(plan: FramePlan, most: int) -> FramePlan:
    """Reduce image_size so that an image takes at most `most` bytes: many large ones are in memory together."""
    if plan.image_size is None:
        return plan
    return dataclasses.replace(plan, image_size=min(plan.image_size, max(math.isqrt(most // 3), 1)))


def _concatenate(images: Sequence[DecodedMedia]) -> DecodedMedia:
    """Several images of one sample as one medium whose frames follow one another, each as if it were alone."""
    frames = {}
    for name in images[0].frames:
        pictures = tuple(picture for image in images for picture in image.frames[name].pixels)
        frames[name] = Frames(pictures, np.arange(len(pictures), dtype=np.float64))
    return DecodedMedia(header=_merge_headers([image.header for image in images]), frames=frames)


def _merge_headers(headers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The header of the image with the shortest side, which is the one that a filter of sizes must see."""
    return {**min(headers, key=lambda header: min(header["width"], header["height"])), "images": len(headers)}
