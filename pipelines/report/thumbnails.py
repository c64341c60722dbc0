"""Pictures and short clips of samples, drawn by key. Media are hostile: only pixels that the decoder's child gave back
are written, as new files; no byte of a medium itself is copied."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra import progress, storage
from infra.hashing import draw_integers
from infra.media.decoder import Decoder
from infra.media.interface import FramePlan, Frames, MediaRef
from pipelines.core.finished_run import JudgedRun
from pipelines.core.sample_media import source_root
from pipelines.report.report_rows import ReportRows

#: Longer side of a picture and of a clip, in pixels, and JPEG quality (ours).
SIDE = 320
QUALITY = 80
#: Most pictures of one album.
ALBUM = 4
#: A clip shows the whole medium in at most so many frames, this many a second.
CLIP_FPS = 8
CLIP_FRAMES = 80

_STILL = FramePlan("middle", SIDE, "long")
_MOVING = FramePlan("rate", SIDE, "long", count=CLIP_FRAMES, fps=float(CLIP_FPS))


@dataclass
class Thumbnails:
    """pictures: uint8 (n,): how many pictures a row has, plus 8 where it has a clip; why: for rows that were drawn and
    have none, by key; asked: rows with a medium; drawn: rows that the draw took."""

    pictures: NDArray[np.uint8]
    why: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    drawn: int = 0
    clips_asked: int = 0
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
        """Why drawn rows have no picture: how often."""
        found: dict[str, int] = {}
        for why in self.why.values():
            word = why.partition(":")[0]
            found[word] = found.get(word, 0) + 1
        return dict(sorted(found.items()))

    def told(self) -> dict[str, Any]:
        return {
            "asked": self.asked,
            "drawn": self.drawn,
            "shown": int(((self.pictures & 7) > 0).sum()),
            "clips": self.clips,
            "videos": self.clips_asked,
            "most": self.most,
            "most_clips": self.most_clips,
            "missing": sorted(self.missing.items()),
        }


def draw(finished: JudgedRun, rows: ReportRows, work: Path, *, thumbs: int, clips: int, quiet: bool) -> Thumbnails:
    """Write thumbs/AB/KEY-I.jpg and clips/AB/KEY.mp4 for at most so many rows of each filter and outcome."""
    has = rows.modality != "text"
    media = Thumbnails(np.zeros(len(rows), dtype=np.uint8), asked=int(has.sum()), most=thumbs, most_clips=clips)
    media.clips_asked = int((rows.modality == "video").sum())
    seed = finished.run.config.seed
    chosen = drawn(rows, has, seed, "report thumb", thumbs)
    moving = drawn(rows, chosen & (rows.modality == "video"), seed, "report clip", clips)
    everything = np.flatnonzero(chosen)
    media.drawn = len(everything)
    where = MediaLocations(finished, rows)
    done = 0
    with Decoder() as decoder, progress.watch("pictures", len(everything), lambda: done, what="samples", quiet=quiet):
        for row in everything.tolist():
            _draw_row(where, decoder, work, media, row, bool(moving[row]))
            done += 1
    return media


def drawn(rows: ReportRows, able: NDArray[np.bool_], seed: int, purpose: str, most: int) -> NDArray[np.bool_]:
    """bool (n,): of each (outcome, filter) the `most` rows with the smallest keyed draws."""
    found = np.zeros(len(rows), dtype=bool)
    where = np.flatnonzero(able)
    lots = draw_integers(seed, [rows.keys[row] for row in where.tolist()], purpose)
    group = np.array([f"{o}/{b}" for o, b in zip(rows.outcome[where], rows.by[where], strict=True)], dtype=object)
    for name in sorted(set(group.tolist())):
        mine = np.flatnonzero(group == name)
        found[where[mine[np.argsort(lots[mine], kind="stable")[:most]]]] = True
    return found


class MediaLocations:
    """Where the media of a row lie: for kept rows in the shard's tar where that is there, else below the source."""

    def __init__(self, finished: JudgedRun, rows: ReportRows) -> None:
        self.run = finished.run
        self.rows = rows
        self.sources = {source.name: source for source in finished.run.config.sources}
        self.members = {row["key"]: row for row in rows.members.select(["key", "shard", "members"]).to_pylist()}

    def of(self, row: int) -> list[tuple[MediaRef, str]]:
        """(medium, sha256 that it must have) of each of a row's media."""
        sample = self.rows.samples.slice(row, 1).to_pylist()[0]
        kind = "video" if sample["modality"] == "video" else "image"
        media = sample["media"] or []
        held = self.members.get(sample["key"])
        uri = "" if held is None else self.run.at("shards", f"{held['shard']}.tar")
        if held is not None and storage.is_file(uri):
            parts = [m for m in held["members"] if not m["name"].endswith((".json", ".txt"))]
            parts.sort(key=lambda m: [int(p) if p.isdigit() else 0 for p in m["name"].split(".")[1:-1]])
            spans = [(uri, m["offset"], m["size"]) for m in parts]
        else:
            source = self.sources.get(sample["source"])
            root = "" if source is None else source_root(source)
            spans = [(storage.join(root, m["uri"]), m["offset"], m["length"]) for m in media]
        return [
            (MediaRef(uri, offset, length, m["start_s"], m["end_s"], kind), m["sha256"])  # type: ignore[arg-type]
            for (uri, offset, length), m in zip(spans, media, strict=False)
        ]


def _draw_row(where: MediaLocations, decoder: Decoder, work: Path, media: Thumbnails, row: int, moving: bool) -> None:
    key = where.rows.keys[row]
    found = where.of(row)
    if not found:
        media.why[key] = "no medium"
        return
    count = 0
    for ref, digest in found[:ALBUM]:
        problem = _unfit(ref, digest)
        if not problem:
            plans = {"still": _STILL, **({"clip": _MOVING} if moving else {})}
            decoded = decoder.decode(ref, plans, {})
            problem = decoded.error or ""
            if not problem:
                _save(work / "thumbs" / key[:2] / f"{key}-{count}.jpg", jpeg(decoded.frames["still"].pixels[0]))
                count += 1
                if moving and len(decoded.frames["clip"].pixels) > 1:
                    _save(work / "clips" / key[:2] / f"{key}.mp4", mp4(decoded.frames["clip"]))
                    media.pictures[row] |= 8
        if problem:
            media.why[key] = problem
            break
    media.pictures[row] |= count


def _unfit(ref: MediaRef, digest: str) -> str:
    """Why a medium cannot stand for what was judged; "" where it can."""
    if not storage.is_file(ref.uri):
        return "not found: the source is no longer where the config says"
    if digest and storage.sha256(ref.uri, ref.offset, ref.length) != digest:
        return "changed: these are other bytes than those that were judged"
    return ""


def _save(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 RGB (height, width, 3) as JPEG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=QUALITY)
    return file.getvalue()


def mp4(frames: Frames) -> bytes:
    """Frames as H.264 in MP4, without sound: at their own pace where that is what was sampled, else faster."""
    import av
    import cv2

    height, width = (side - side % 2 for side in frames.pixels.shape[1:3])
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"fflags": "+bitexact"}) as out:
        options = {"threads": "1", "crf": "30", "preset": "superfast"}
        stream = out.add_stream("libx264", rate=CLIP_FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for index, pixels in enumerate(frames.pixels):
            planes = cv2.cvtColor(np.ascontiguousarray(pixels[:height, :width]), cv2.COLOR_RGB2YUV_I420)
            frame = av.VideoFrame.from_ndarray(np.asarray(planes, dtype=np.uint8), format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, CLIP_FPS)
            for packet in stream.encode(frame):
                out.mux(packet)
        for packet in stream.encode(None):
            out.mux(packet)
    return file.getvalue()
