"""Open a sample's media: where they are, which limits apply, and the decoders of this process."""

from __future__ import annotations

import atexit
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from infra import storage
from infra.config import Source
from infra.media.decoder import Decoder, Limits
from infra.media.interface import MediaRef
from infra.media.pixels import share_of_memory
from infra.pool import Pool
from pipelines.core.run import Run
from pipelines.core.settings import Measure


def source_root(source: Source) -> str:
    """The folder that the media paths of a source are relative to; a source may itself be one file."""
    if storage.is_file(source.path):
        return source.path.rsplit("/", 1)[0] if "/" in source.path else "."
    return source.path


@dataclass(frozen=True)
class MediaRoot:
    """The folders that the paths of media are relative to: that of the source, and, for paths that begin with "/", that
    of the run, which has the expanded archives."""

    source: str
    run: str

    def locate(self, path: str) -> str:
        """The URI of a medium."""
        return storage.join(self.run if path.startswith("/") else self.source, path)


def media_root(run: Run, source: Source) -> MediaRoot:
    """The folders of a source's media in a run."""
    return MediaRoot(source_root(source), run.out)


def media_refs(sample: Mapping[str, Any], root: MediaRoot) -> list[MediaRef]:
    """References to the media of a row of samples."""
    kind: Literal["video", "image"] = "video" if sample["modality"] == "video" else "image"
    return [
        MediaRef(root.locate(m["uri"]), m["offset"], m["length"], m["start_s"], m["end_s"], kind, m["sha256"])
        for m in sample["media"] or []
    ]


def decode_limits(settings: Measure) -> Limits:
    """The configured limits on one medium."""
    return Limits(
        max_pixels=settings.max_pixels,
        max_frames=settings.max_frames,
        max_bytes=settings.max_bytes,
        max_seconds=settings.max_seconds,
        watchdog_s=settings.watchdog_s,
        memory=settings.decode_memory or share_of_memory(),
    )


#: Threads: safe. Each thread at work has a decoder, with its child process, for itself.
_decoders: Pool[Limits, Decoder] = Pool(Decoder, Decoder.close)
atexit.register(_decoders.clear)  # threads: the pool is safe


def borrow_decoder(limits: Limits) -> AbstractContextManager[Decoder]:
    """Lend one of this process's decoders for a block, in one thread; their child processes live on for the next."""
    return _decoders.borrow(limits)
