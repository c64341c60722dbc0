"""Videos: one pass over the packets for the facts, one pass of the decoder for everything that needs pixels.

Runs in the decoder's child only. A container's own duration and frame count may be missing or wrong, so times are
taken from the packets, which costs a read and no decoding. The decoder has one thread and decodes every frame,
whichever are requested: an annotator's frames never depend on the other annotators, and damage is detected anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadSample
from infra.media.display import Orientation, pixel_aspect, shown_size
from infra.media.interface import FramePlan, MediaRef, StreamObserver
from infra.media.pixels import CodecGuard, Limits, Medium, Pixels, blend_on_white, fit_size, plan_times, resize
from infra.media.timeline import Timeline
from infra.media.whole_file import check_whole_file

# Containers of media. All that refer to other files or addresses (hls, dash, concat, image2, sdp, …) are excluded.
CONTAINERS = "mov,matroska,avi,flv,live_flv,mpegts,mpeg,gif,asf,ogg,ivf,h264,hevc,m4v,mpegvideo,mxf,nut,rm,wtv,apng"

MAX_FFMPEG_PIXELS = 2**31 - 1  # FFmpeg's own limit on pixels of a frame; its option takes no larger number
_CACHED_BYTES = 256 * 2**20  # packets of a medium cached between the two passes; larger media are read twice
_LEAD_S = 1.0  # decoding order runs at most this far ahead of presentation order
_ATTACHED_PICTURE = 0x400
_TRUNCATED_BELOW = 0.9  # of the frames that an MP4's index locates (ours: sound files in the wild lack up to 2 %)
# Their decoders give a frame of which a part was lost, without a word; those of H.264 and MPEG mark it.
_SILENT_CODECS = ("hevc", "vvc")
_JOIN_PACKETS = 1  # between a packet marked as corrupt and the keyframe after a join; the parser holds one back
_DECODED_BELOW = 0.5  # of the packets: two fields in two packets, or hidden frames, stay above it (ours)


@dataclass(frozen=True)
class PacketScan:
    """Facts on a span, from its packets.

    shown: int64, ascending: presentation times, in ticks, of every frame in the packets read.
    origin: the tick that is time 0. duration: of the span, in seconds. frames: number of them in the span.
    bytes: of their packets. by_index: frames have no usable times; the n-th frame is shown at the n-th of `shown`.
    packets: in decoding order, from a keyframe before the span; None where they are too large to cache.
    """

    shown: NDArray[np.int64]
    origin: int
    tick: Fraction
    duration: float
    frames: int
    bytes: int
    by_index: bool
    packets: tuple[Any, ...] | None

    def seconds(self, stamp: int) -> float:
        return round(float((stamp - self.origin) * self.tick), 6)


class _PacketLog:
    """The packets read so far; stamps, sizes and durations are those of the packets that are shown."""

    def __init__(self, max_packets: int, trusts_decoder: bool) -> None:
        self.count = 0
        self.stamps: list[int] = []
        self.sizes: list[int] = []
        self.durations: list[int] = []
        self.all_have_times = True
        self._max_packets = max_packets
        self._trusts_decoder = trusts_decoder
        self._suspect: int | None = None  # number of a packet marked as corrupt, until a keyframe follows it
        self._cache: list[Any] | None = []
        self._cached_bytes = 0

    @property
    def cached(self) -> tuple[Any, ...] | None:
        return None if self._cache is None else tuple(self._cache)

    def add(self, packet: Any, stamp: int, has_time: bool) -> None:
        """Raises BadSample too_large, truncated."""
        self.count += 1
        if self.count > self._max_packets:
            raise BadSample("too_large", f"more than {self._max_packets} packets")
        if packet.is_keyframe:
            self._suspect = None
        elif self._suspect is not None and self.count > self._suspect + _JOIN_PACKETS:
            self.check_suspect()
        if packet.is_corrupt and not self._trusts_decoder:
            self._suspect = self.count
        if self._cache is not None:
            self._cache.append(packet)
            self._cached_bytes += packet.size
            if self._cached_bytes > _CACHED_BYTES:
                self._cache = None
        if packet.is_discard:  # outside the container's edit list: decoded, never shown
            return
        self.all_have_times = self.all_have_times and has_time
        self.stamps.append(stamp)
        self.sizes.append(packet.size)
        self.durations.append(int(packet.duration or 0))

    def check_suspect(self) -> None:
        """Raise BadSample truncated after a packet marked as corrupt, whose decoder would not say what it lacks.

        The mark is a hint: where recordings are joined, one of the last packets before is marked, and whole. There a
        keyframe follows; where bytes are missing, one rarely does.
        """
        if self._suspect is not None:
            raise BadSample("truncated", f"packet {self._suspect} or the next is cut short")


class VideoReader:
    """An opened video and a span of it. Raises BadSample decode, no_video, no_frames, too_large, truncated."""

    def __init__(self, medium: Medium, ref: MediaRef, limits: Limits) -> None:
        self._medium = medium
        self._limits = limits
        self._first = max(0.0, ref.start_s)
        self._end = ref.end_s if ref.end_s >= 0 else float("inf")
        self._whole = ref.start_s <= 0 and ref.end_s < 0
        if self._whole:
            check_whole_file(medium)
        self._open()
        codec = self.stream.codec_context
        self._check_size(codec.width, codec.height)
        self.scan = self._scan(seek=self._first > 2 * _LEAD_S)

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        import av

        # A stream's first frame is decoded while the file is opened, and its size may change midway: this stops the
        # decoder before it allocates.
        options = {"max_pixels": str(min(self._limits.max_pixels, MAX_FFMPEG_PIXELS))}
        with CodecGuard("decode"):
            self._container = av.open(
                self._medium.rewound(),
                mode="r",
                metadata_errors="replace",
                buffer_size=1 << 17,
                options=options,
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "none"},
            )
            # As players and trainers choose: the default one, then the one with the most frames and bits.
            best = self._container.streams.best("video")
            ranked = sorted(self._container.streams.video, key=lambda stream: stream is not best)
            streams = [s for s in ranked if not int(s.disposition) & _ATTACHED_PICTURE]
        if not streams:
            raise BadSample("no_video", "no video stream")
        playable = [stream for stream in streams if stream.codec_context is not None]
        if not playable:
            raise BadSample("decode", "no decoder for its codec")
        self.stream = playable[0]
        codec = self.stream.codec_context
        with CodecGuard("decode"):
            codec.thread_count = 1
            codec.thread_type = "NONE"
            codec.options = options

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise BadSample("too_large", f"{width} x {height} pixels, limit {self._limits.max_pixels}")

    def _scan(self, seek: bool) -> PacketScan:
        """Read the packets of the span. With `seek`, from a keyframe shortly before it, where there is one."""
        from av.format import Flags

        with CodecGuard("decode"):
            name, self._may_leap = self._container.format.name, Flags.ts_discont in Flags(self._container.format.flags)
            # Other containers' counts may be wrong: AVI counts repeated frames, which have no packets.
            located_frames = int(self.stream.frames or 0) if name.startswith("mov,") else 0
            is_avi = name == "avi"  # has decoding times only, which it reports as presentation times
            start = self.stream.start_time
            self._base = int(start) if start is not None else 0
            self._base_is_first = is_avi or start is None
            self._tick = Fraction(self.stream.time_base or Fraction(1, 1000))
            self._rate = Fraction(self.stream.average_rate or self.stream.guessed_rate or 25)
        lead = self._base + int((self._first - _LEAD_S) / self._tick)
        # A clock that starts anew or leaps has the same time in several places: the packets are read from the start.
        self._seek_to = lead if seek and not is_avi and not self._may_leap else None
        self._skipped = 0
        log = self._new_log()
        for packet, stamp, has_time in self._packets():
            if self._seek_to is not None and log.count == 0 and not self._is_keyframe_before_span(packet, stamp):
                self.close()
                self._open()
                return self._scan(seek=False)
            if seek and self._may_leap and packet.is_keyframe and stamp <= lead:
                self._skipped += log.count
                log = self._new_log()
            log.add(packet, stamp, has_time)
        if self._end == float("inf"):
            log.check_suspect()
        if self._whole and log.count < _TRUNCATED_BELOW * located_frames:
            raise BadSample("truncated", f"{log.count} of {located_frames} frames")
        return self._summarise(log, by_index=is_avi or not log.all_have_times)

    def _new_log(self) -> _PacketLog:
        return _PacketLog(self._limits.max_packets, self.stream.codec_context.name not in _SILENT_CODECS)

    def _is_keyframe_before_span(self, packet: Any, stamp: int) -> bool:
        return bool(packet.is_keyframe and (stamp - self._base) * self._tick <= self._first)

    def _summarise(self, log: _PacketLog, by_index: bool) -> PacketScan:
        tick = self._tick
        unsorted = np.asarray(log.stamps, dtype=np.int64)
        order = np.argsort(unsorted, kind="stable")
        stamps = unsorted[order]
        if len(stamps) == 0:
            raise BadSample("no_frames", "no packets of video")
        inside = self._is_in_span(stamps)
        frames = int(inside.sum())
        if frames == 0:
            raise BadSample("no_frames", "none in the span")
        if frames > self._limits.max_frames:
            raise BadSample("too_large", f"more than {self._limits.max_frames} frames")
        origin = int(stamps[0]) if self._whole else self._base + round(self._first / tick)
        end = int(stamps[-1]) + self._last_frame_ticks(stamps, log.durations[int(order[-1])])
        duration = float((end - origin) * tick)
        if not self._whole:
            duration = min(duration, self._end - self._first)
        if duration > self._limits.max_seconds:
            raise BadSample("too_large", f"{duration:.0f} s, limit {self._limits.max_seconds:.0f}")
        size = int(np.asarray(log.sizes, dtype=np.int64)[order][inside].sum())
        return PacketScan(stamps, origin, tick, round(duration, 6), frames, size, by_index, log.cached)

    def _is_in_span(self, stamps: NDArray[np.int64]) -> NDArray[np.bool_]:
        if self._whole:
            return np.ones(len(stamps), dtype=bool)
        seconds = (stamps - self._base) * float(self._tick)
        return np.asarray((seconds >= self._first - 1e-9) & (seconds < self._end - 1e-9))

    def _last_frame_ticks(self, stamps: NDArray[np.int64], declared: int) -> int:
        """How long the last frame is shown: as the container says, otherwise as long as the others on average."""
        if declared > 0:
            return declared
        if len(stamps) > 1:
            return max(0, round((int(stamps[-1]) - int(stamps[0])) / (len(stamps) - 1)))
        return max(0, round(1 / self._rate / self._tick))

    def _packets(self) -> Iterator[tuple[Any, int, bool]]:
        """(packet, presentation time in ticks, whether the container has one), in decoding order, to the end."""
        if self._seek_to is not None:
            with CodecGuard("decode"):
                self._container.seek(self._seek_to, stream=self.stream, backward=True)
        with CodecGuard("decode"):
            packets = self._container.demux(self.stream)
        lead = int(_LEAD_S / self._tick)
        timeline = Timeline(self._tick, 1 / self._rate, self._may_leap)
        number = 0
        while True:
            with CodecGuard("decode"):
                packet = next(packets, None)
            if packet is None:
                return
            if packet.size == 0:  # the demuxer's end marker
                continue
            number += 1
            timeline.place(packet)
            pts, dts = packet.pts, packet.dts
            container_time = pts if pts is not None else dts
            if container_time is None:
                stamp = self._base + round((number - 1) / self._rate / self._tick)
            else:
                stamp = container_time
                if number == 1 and self._base_is_first:
                    self._base = stamp
            earliest = dts if dts is not None else stamp - lead
            if (earliest - self._base) * self._tick >= self._end:
                return
            yield packet, stamp, container_time is not None

    def frames(self) -> Iterator[tuple[Any, float]]:
        """(av.VideoFrame, seconds from the start of the span) of its frames, in presentation order. Once only."""
        scan = self.scan
        packets: Iterator[Any] = iter(scan.packets or ())
        if scan.packets is None:
            self.close()
            self._open()
            packets = (packet for packet, _, _ in itertools.islice(self._packets(), self._skipped, None))
        codec = self.stream.codec_context
        before = 0.0
        shown = decoded = 0
        for packet in _and_flush(packets):
            with CodecGuard("decode"):
                frames = codec.decode(packet)
            for frame in frames:
                decoded += 1
                stamp = frame.pts
                if scan.by_index or stamp is None:
                    stamp = int(scan.shown[min(decoded, len(scan.shown)) - 1])
                seconds = scan.seconds(stamp)
                if not self._whole and not 0 <= seconds < round(self._end - self._first, 6):
                    continue
                shown += 1
                if frame.is_corrupt:
                    raise BadSample("decode", f"frame {shown} of {scan.frames} is damaged")
                if shown > self._limits.max_frames:
                    raise BadSample("too_large", f"more than {self._limits.max_frames} frames")
                self._check_size(frame.width, frame.height)
                before = max(before, seconds)
                yield frame, before
        if shown == 0:
            raise BadSample("no_frames", "nothing decoded")
        if decoded < _DECODED_BELOW * len(scan.shown):
            raise BadSample("decode", f"{decoded} of {len(scan.shown)} frames")

    def header(self, frame: Any) -> dict[str, Any]:
        """Facts on the span. `frame` is its first frame: only a frame has the orientation."""
        scan = self.scan
        orientation = Orientation.from_frame(frame)
        with CodecGuard("decode"):
            codec = self.stream.codec_context
            name = codec.codec.canonical_name
            audio = len(self._container.streams.audio) > 0
            container = self._container.format.name
            aspect = pixel_aspect(self.stream.sample_aspect_ratio)
        seconds = scan.duration
        return {
            "kind": "video",
            "container": container,
            "codec": name,
            "pix_fmt": frame.format.name,
            "width": frame.height if orientation.swap else frame.width,
            "height": frame.width if orientation.swap else frame.height,
            "fps": round(scan.frames / seconds, 6) if seconds > 0 else 0.0,
            "duration": seconds,
            "frames": scan.frames,
            "rotation": orientation.degrees,
            "pixel_aspect": round(1 / aspect, 6) if orientation.swap else aspect,
            "audio": audio,
            "bit_rate": round(8 * scan.bytes / seconds) if seconds > 0 else 0,
            "bytes": self._medium.size,
        }


class FrameSelector:
    """The frames of a stream that one plan takes: for each time the nearest, each frame at most once. Their sizes are
    those at which they are shown: a frame whose pixels aren't square is brought to its shape."""

    def __init__(self, plan: FramePlan, header: Mapping[str, Any], limits: Limits) -> None:
        shown = shown_size(int(header["width"]), int(header["height"]), float(header["pixel_aspect"]))
        self.width, self.height = fit_size(*shown, plan.size, plan.fit)
        at_most = max(1, limits.max_frame_bytes // (self.width * self.height * 3))
        self._at = sorted(set(plan.numbers)) if plan.times == "at" else None
        if self._at is not None and len(self._at) > at_most:
            raise BadSample("too_large", f"{len(self._at)} frames of {self.width} x {self.height}, room for {at_most}")
        self._times = plan_times(plan, float(header["duration"]), at_most) if self._at is None else []
        self._next = 0
        self.numbers: list[int] = []  # frames taken, ascending
        self.times: list[float] = []

    def select(self, number: int, seconds: float, before: float | None) -> tuple[bool, bool]:
        """Frame `number` is at `seconds`, the one before it at `before`: (take the one before, take this one)."""
        if self._at is not None:
            now = self._next < len(self._at) and self._at[self._next] == number
            self._next += now
            return False, now and self._take(number, seconds)
        earlier = now = False
        while self._next < len(self._times) and self._times[self._next] <= seconds:
            target = self._times[self._next]
            self._next += 1
            if before is not None and target - before <= seconds - target:
                earlier = True
            else:
                now = True
        earlier = earlier and self._take(number - 1, before)
        now = now and self._take(number, seconds)
        return earlier, now

    def select_last(self, number: int, seconds: float) -> bool:
        """Whether to take this frame, with which the stream has ended."""
        targets = self._times if self._at is None else self._at
        return self._next < len(targets) and self._take(number, seconds)

    def _take(self, number: int, seconds: float | None) -> bool:
        if seconds is None or (self.numbers and self.numbers[-1] >= number):
            return False
        self.numbers.append(number)
        self.times.append(seconds)
        return True


class ObserverGroup:
    """The observers beside the decoder. One that raises BadSample is dropped and reports {"error": …}."""

    def __init__(self, observers: Mapping[str, StreamObserver]) -> None:
        self._active = dict(observers)
        self._errors: dict[str, str] = {}

    def notify(self, step: Literal["start", "frame"], argument: Any) -> None:
        """Call `step` of each: "start" with the header, "frame" with the frame."""
        for name, observer in list(self._active.items()):
            try:
                getattr(observer, step)(argument)
            except BadSample as error:
                self._drop(name, error)

    def finish(self) -> dict[str, Mapping[str, Any]]:
        """The observers' reports by name."""
        reports: dict[str, Mapping[str, Any]] = {}
        for name, observer in list(self._active.items()):
            try:
                reports[name] = observer.finish()
            except BadSample as error:
                self._drop(name, error)
        return reports | {name: {"error": error} for name, error in self._errors.items()}

    def _drop(self, name: str, error: BadSample) -> None:
        self._errors[name] = str(error)
        del self._active[name]


def decode_frames(
    video: VideoReader,
    plans: Mapping[str, FramePlan],
    observers: Mapping[str, StreamObserver],
    limits: Limits,
    keep: Callable[[int, Pixels], None],
) -> tuple[dict[str, Any], dict[str, FrameSelector], dict[str, Mapping[str, Any]]]:
    """Decode once for all plans and observers: (header, selectors by annotator, observers' reports by annotator).

    Each selected frame is converted once, and resized once per size: `keep(number, pixels)` gets them in order.
    """
    if any(observer.export_motion_vectors for observer in observers.values()):
        from av.codec.context import Flags2

        video.stream.codec_context.flags2 |= Flags2.export_mvs
    header: dict[str, Any] = {}
    selectors: dict[str, FrameSelector] = {}
    group = ObserverGroup(observers)

    def convert(frame: Any, number: int, takers: list[FrameSelector]) -> None:
        if takers:
            pixels = orientation.apply(_rgb(frame))
            for width, height in sorted({(taker.width, taker.height) for taker in takers}):
                keep(number, resize(pixels, width, height))

    before: tuple[Any, float] | None = None
    number = -1
    for frame, seconds in video.frames():
        number += 1
        if before is None:
            orientation = Orientation.from_frame(frame)
            header = video.header(frame)
            selectors = {name: FrameSelector(plan, header, limits) for name, plan in plans.items()}
            group.notify("start", header)
        group.notify("frame", frame)
        earlier, now = [], []
        for selector in selectors.values():
            take_earlier, take_now = selector.select(number, seconds, before[1] if before else None)
            if take_earlier:
                earlier.append(selector)
            if take_now:
                now.append(selector)
        if before is not None:
            convert(before[0], number - 1, earlier)
        convert(frame, number, now)
        before = (frame, seconds)
    if before is not None:
        last = [selector for selector in selectors.values() if selector.select_last(number, before[1])]
        convert(before[0], number, last)
    return header, selectors, group.finish()


def _rgb(frame: Any) -> Pixels:
    """uint8 RGB (h, w, 3) of an av.VideoFrame, in the stream's orientation; transparency on white."""
    with CodecGuard("decode"):
        if any(component.is_alpha for component in frame.format.components):
            return blend_on_white(frame.reformat(format="rgba", threads=1).to_ndarray())
        return np.asarray(frame.reformat(format="rgb24", threads=1).to_ndarray(), dtype=np.uint8)


def _and_flush(packets: Iterator[Any]) -> Iterator[Any]:
    yield from packets
    yield None
