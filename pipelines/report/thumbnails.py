"""Write pictures and short clips of samples, drawn by key. Media are hostile: only pixels that the decoder's child
process returns are written, as new files; no byte of a medium is copied."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra import progress, storage
from infra.columns import Mask
from infra.hashing import draw_integers
from infra.media.decoder import Decoder
from infra.media.interface import FramePlan, Frames, MediaRef
from mixtures.shards.unpack import get_number
from pipelines.core.finished_run import JudgedRun
from pipelines.core.sample_media import media_refs, media_root
from pipelines.report.report_rows import ReportRows

#: Longer side of pictures and clips, in pixels, and JPEG quality (ours).
SIDE = 320
QUALITY = 80
#: Maximum number of pictures of one sample.
ALBUM = 4
#: A clip shows the whole medium at this rate, in at most this many frames.
CLIP_FPS = 8
CLIP_FRAMES = 80

_STILL = FramePlan("middle", SIDE, "long")
_MOVING = FramePlan("rate", SIDE, "long", count=CLIP_FRAMES, fps=float(CLIP_FPS))


@dataclass
class Thumbnails:
    """pictures: uint8 (n,): number of pictures of a row, plus 8 if it has a clip; why: key -> why a drawn row has no
    picture; asked: rows with media; drawn: rows drawn; videos: rows with a video; most, most_clips: the limits."""

    pictures: NDArray[np.uint8]
    why: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    drawn: int = 0
    videos: int = 0
    most: int = 0
    most_clips: int = 0

    @property
    def count(self) -> int:
        return int((self.pictures & 7).sum())

    @property
    def clips(self) -> int:
        return int((self.pictures >> 3).sum())

    @property
    def missing(self) -> dict[str, int]:
        """Number of drawn rows without a picture, by reason."""
        return dict(sorted(Counter(why.partition(":")[0] for why in self.why.values()).items()))

    def to_json(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "drawn": self.drawn,
            "shown": int(((self.pictures & 7) > 0).sum()),
            "clips": self.clips,
            "videos": self.videos,
            "most": self.most,
            "most_clips": self.most_clips,
            "missing": sorted(self.missing.items()),
        }


def draw_thumbnails(
    judged: JudgedRun, rows: ReportRows, work: Path, *, thumbs: int, clips: int, quiet: bool
) -> Thumbnails:
    """Write thumbs/AB/KEY-I.jpg and clips/AB/KEY.mp4 for at most so many rows of each filter and outcome."""
    seed = judged.run.config.seed
    has_media, is_video = rows.modality != "text", rows.modality == "video"
    selected = choose_rows(rows, has_media, seed, "report thumb", thumbs)
    with_clip = choose_rows(rows, selected & is_video, seed, "report clip", clips)
    numbers = np.flatnonzero(selected)
    thumbnails = Thumbnails(
        np.zeros(len(rows), dtype=np.uint8),
        asked=int(has_media.sum()),
        drawn=len(numbers),
        videos=int(is_video.sum()),
        most=thumbs,
        most_clips=clips,
    )
    locations = MediaLocations(judged, rows)
    done = 0
    with Decoder() as decoder, progress.watch("pictures", len(numbers), lambda: done, what="samples", quiet=quiet):
        for row in numbers.tolist():
            _write_pictures(locations, decoder, work, thumbnails, row, bool(with_clip[row]))
            done += 1
    return thumbnails


def choose_rows(rows: ReportRows, candidates: Mask, seed: int, purpose: str, most: int) -> Mask:
    """bool (n,): the `most` candidates with the smallest pseudo-random draws of each outcome and filter."""
    selected = np.zeros(len(rows), dtype=bool)
    numbers = np.flatnonzero(candidates)
    draw = draw_integers(seed, [rows.keys[row] for row in numbers.tolist()], purpose)
    outcomes = zip(rows.outcome[numbers], rows.stopped_by[numbers], strict=True)
    group = np.array([f"{outcome}/{filter_}" for outcome, filter_ in outcomes], dtype=object)
    for name in sorted(set(group.tolist())):
        members = np.flatnonzero(group == name)
        selected[numbers[members[np.argsort(draw[members], kind="stable")[:most]]]] = True
    return selected


class MediaLocations:
    """Locates the media of rows: in the shard's tar if it exists, otherwise in the source."""

    def __init__(self, judged: JudgedRun, rows: ReportRows) -> None:
        self.run = judged.run
        self.rows = rows
        self.roots = {source.name: media_root(judged.run, source) for source in judged.run.config.sources}
        self.members = {row["key"]: row for row in rows.members.select(["key", "shard", "members"]).to_pylist()}

    def find(self, row: int) -> list[tuple[MediaRef, str]]:
        """(reference, expected sha256) of each of a row's media."""
        sample = self.rows.samples.slice(row, 1).to_pylist()[0]
        media, member = sample["media"] or [], self.members.get(sample["key"])
        refs = media_refs(sample, self.roots[sample["source"]])
        tar = "" if member is None else self.run.at("shards", f"{member['shard']}.tar")
        if member is not None and storage.is_file(tar):
            files = [m for m in member["members"] if not m["name"].endswith((".json", ".txt"))]
            files.sort(key=lambda m: get_number(m["name"].partition(".")[2]))
            refs = [
                replace(ref, uri=tar, offset=file["offset"], length=file["size"])
                for ref, file in zip(refs, files, strict=False)
            ]
        return list(zip(refs, (medium["sha256"] for medium in media), strict=False))


def _write_pictures(
    locations: MediaLocations, decoder: Decoder, work: Path, thumbnails: Thumbnails, row: int, with_clip: bool
) -> None:
    key = locations.rows.keys[row]
    media = locations.find(row)
    if not media:
        thumbnails.why[key] = "no medium"
        return
    plans = {"still": _STILL, **({"clip": _MOVING} if with_clip else {})}
    count = 0
    for ref, sha256 in media[:ALBUM]:
        problem = _find_problem(ref, sha256)
        if not problem:
            decoded = decoder.decode(ref, plans, {})
            problem = decoded.error or ""
        if problem:
            thumbnails.why[key] = problem
            break
        _save(work / "thumbs" / key[:2] / f"{key}-{count}.jpg", encode_jpeg(decoded.frames["still"].pixels[0]))
        count += 1
        if with_clip and len(decoded.frames["clip"].pixels) > 1:
            _save(work / "clips" / key[:2] / f"{key}.mp4", encode_mp4(decoded.frames["clip"]))
            thumbnails.pictures[row] |= 8
    thumbnails.pictures[row] |= count


def _find_problem(ref: MediaRef, sha256: str) -> str:
    """Why a medium cannot be shown, "" if it can: it must have the bytes that were judged."""
    if not storage.is_file(ref.uri):
        return "not found: the source is no longer where the config says"
    if sha256 and storage.sha256(ref.uri, ref.offset, ref.length) != sha256:
        return "changed: these are not the bytes that were judged"
    return ""


def _save(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode uint8 RGB (height, width, 3) as JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=QUALITY)
    return file.getvalue()


def encode_mp4(frames: Frames) -> bytes:
    """Encode frames as H.264 in MP4, without sound, at CLIP_FPS: long media play faster than they are."""
    import av
    import cv2

    height, width = (side + side % 2 for side in frames.pixels.shape[1:3])  # the format has even sides only
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as out:
        options = {"threads": "1", "crf": "30", "preset": "superfast"}
        stream = out.add_stream("libx264", rate=CLIP_FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for index, pixels in enumerate(frames.pixels):
            padding = ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0))
            planes = cv2.cvtColor(np.pad(pixels, padding, mode="edge"), cv2.COLOR_RGB2YUV_I420)
            frame = av.VideoFrame.from_ndarray(np.asarray(planes, dtype=np.uint8), format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, CLIP_FPS)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return file.getvalue()
