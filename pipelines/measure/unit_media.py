"""The media of a unit's rows, probed and decoded sample by sample."""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

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
        """The header of a sample's first medium, with the number of its media; the first error of any of them."""
        headers = []
        for ref in self._refs(row):
            media = self._request(functools.partial(self._decoder.probe, ref))
            if media.error is not None:
                return media
            headers.append(media.header)
        if not headers:
            return _NO_MEDIUM
        return DecodedMedia(header={**headers[0], "images": len(headers)})

    def decode(self, row: int, plans: Mapping[str, FramePlan], observers: Mapping[str, StreamObserver]) -> DecodedMedia:
        """A sample's media, each decoded once; the first error of any of them."""
        refs = self._refs(row)
        if not refs:
            return _NO_MEDIUM
        if len(refs) > 1:
            # The images of a sample differ in shape, and one array needs one shape.
            plans = {name: FramePlan("middle", plan.size, "skew") for name, plan in plans.items()}
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


def _concatenate(images: Sequence[DecodedMedia]) -> DecodedMedia:
    """Several images of one sample as one medium whose frames follow one another."""
    frames = {}
    for name in images[0].frames:
        pixels = np.concatenate([image.frames[name].pixels for image in images])
        frames[name] = Frames(pixels, np.arange(len(pixels), dtype=np.float64))
    return DecodedMedia(header={**images[0].header, "images": len(images)}, frames=frames)
