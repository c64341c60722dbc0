"""Videos: one pass over the packets to know them, one pass of the decoder for everything that needs pixels.

Runs in the decoder's child only. The container's own duration and frame count may be absent or wrong, so times are
taken from the packets, which costs a read and no decoding. The decoder has one thread, and every frame is decoded
whatever is asked for: what one annotator sees never depends on the others, and damage is found wherever it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadSample
from infra.media.interface import FramePlan, MediaRef, StreamObserver
from infra.media.pixels import CodecGuard, Limits, Medium, Pixels, blend_on_white, fit_size, plan_times, resize

# Containers that hold media. Left out are all that name other files or addresses (hls, dash, concat, image2, sdp, …).
CONTAINERS = "mov,matroska,avi,flv,live_flv,mpegts,mpeg,gif,asf,ogg,ivf,h264,hevc,m4v,mpegvideo,mxf,nut,rm,wtv,apng"

_HELD_BYTES = 256 * 2**20  # packets of a medium that are kept between the two passes; bigger ones are read twice
_LEAD_S = 1.0  # decoding order runs at most this far ahead of showing order
_ATTACHED_PICTURE = 0x400
_TRUNCATED_BELOW = 0.9  # of the frames that the container promises (ours: sound files of the wild miss up to 2 %)
_DECODED_BELOW = 0.5  # of the packets: two fields in two packets, or hidden frames, stay above it (ours)


@dataclass(frozen=True)
class PacketScan:
    """What the packets say.

    shown: int64, ascending: showing times, in ticks, of every frame that the packets read hold.
    origin: the tick that is time 0. duration: seconds, of the span. frames: how many lie in the span.
    bytes: of their packets. by_index: frames carry no usable times; the n-th one shown has the n-th of `shown`.
    packets: in decoding order, from a keyframe before the span; None where they are too big to be kept.
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


class VideoReader:
    """An opened video and the wanted span of it. Raises BadSample decode, no_video, no_frames, too_large, truncated."""

    def __init__(self, medium: Medium, ref: MediaRef, limits: Limits) -> None:
        self._medium = medium
        self._limits = limits
        self._first = max(0.0, ref.start_s)
        self._end = ref.end_s if ref.end_s >= 0 else float("inf")
        self._whole = ref.start_s <= 0 and ref.end_s < 0
        if self._whole:
            _check_segment(medium)
        self._open()
        codec = self.stream.codec_context
        self._check_size(codec.width, codec.height)
        self.scan = self._scan(seek=self._first > 2 * _LEAD_S)

    def close(self) -> None:
        self._container.close()

    def _open(self) -> None:
        import av

        with CodecGuard("decode"):
            self._container = av.open(
                self._medium.rewound(),
                mode="r",
                metadata_errors="replace",
                buffer_size=1 << 17,
                container_options={"format_whitelist": CONTAINERS, "protocol_whitelist": "none"},
            )
            streams = [s for s in self._container.streams.video if not int(s.disposition) & _ATTACHED_PICTURE]
        if not streams:
            raise BadSample("no_video", "no video stream")
        self.stream = streams[0]
        codec = self.stream.codec_context
        if codec is None:
            raise BadSample("decode", "no decoder for its codec")
        with CodecGuard("decode"):
            codec.thread_count = 1
            codec.thread_type = "NONE"
            # A stream may change its size under way; this stops the decoder before it allocates.
            codec.options = {"max_pixels": str(self._limits.max_pixels)}

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_pixels:
            raise BadSample("too_large", f"{width} x {height} pixels, limit {self._limits.max_pixels}")

    def _scan(self, seek: bool) -> PacketScan:
        """Read the packets of the span. With `seek`, from a keyframe shortly before it, where there is one."""
        limits, stream = self._limits, self.stream
        with CodecGuard("decode"):
            promised = int(stream.frames or 0)
            # AVI has decoding times only, which it gives out as showing times.
            avi = self._container.format.name == "avi"
            start = stream.start_time
            self._base = int(start) if start is not None else 0
            self._base_is_first = avi or start is None
            self._tick = Fraction(stream.time_base or Fraction(1, 1000))
            self._rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        self._seek_to = None
        if seek and not avi:
            self._seek_to = self._base + int((self._first - _LEAD_S) / self._tick)
        held: list[Any] | None = []
        held_bytes = seen = 0
        shown: list[int] = []
        sizes: list[int] = []
        lengths: list[int] = []
        stamped = True
        for packet, stamp, has_time in self._packets():
            if self._seek_to is not None and seen == 0:
                early = packet.is_keyframe and (stamp - self._base) * self._tick <= self._first
                if not early:
                    self.close()
                    self._open()
                    return self._scan(seek=False)
            seen += 1
            if seen > limits.max_packets:
                raise BadSample("too_large", f"more than {limits.max_packets} packets")
            if packet.is_corrupt:
                raise BadSample("truncated", f"packet {seen} is cut short")
            if held is not None:
                held.append(packet)
                held_bytes += packet.size
                if held_bytes > _HELD_BYTES:
                    held = None
            if packet.is_discard:  # outside the container's edit list: decoded, never shown
                continue
            stamped = stamped and has_time
            shown.append(stamp)
            sizes.append(packet.size)
            lengths.append(int(packet.duration or 0))
        if self._whole and seen < _TRUNCATED_BELOW * promised:
            raise BadSample("truncated", f"{seen} of {promised} frames")
        return self._measured(shown, sizes, lengths, avi or not stamped, held)

    def _measured(
        self, shown: list[int], sizes: list[int], lengths: list[int], by_index: bool, held: list[Any] | None
    ) -> PacketScan:
        limits, tick = self._limits, self._tick
        stamps = np.asarray(shown, dtype=np.int64)
        order = np.argsort(stamps, kind="stable")
        stamps = stamps[order]
        if len(stamps) == 0:
            raise BadSample("no_frames", "no packets of video")
        origin = int(stamps[0]) if self._whole else self._base + round(self._first / tick)
        last = int(stamps[-1])
        length = lengths[int(order[-1])]
        if length <= 0:  # the container does not say how long the last frame is shown: as long as the others
            length = (
                round((last - int(stamps[0])) / (len(stamps) - 1)) if len(stamps) > 1 else round(1 / self._rate / tick)
            )
        seconds = (stamps - self._base) * float(tick)
        inside = np.ones(len(stamps), dtype=bool)
        if not self._whole:
            inside = (seconds >= self._first - 1e-9) & (seconds < self._end - 1e-9)
        count = int(inside.sum())
        if count == 0:
            raise BadSample("no_frames", "none in the span")
        if count > limits.max_frames:
            raise BadSample("too_large", f"more than {limits.max_frames} frames")
        duration = float((last + max(0, length) - origin) * tick)
        if not self._whole:
            duration = min(duration, self._end - self._first)
        if duration > limits.max_seconds:
            raise BadSample("too_large", f"{duration:.0f} s, limit {limits.max_seconds:.0f}")
        total = int(np.asarray(sizes, dtype=np.int64)[order][inside].sum())
        packets = tuple(held) if held is not None else None
        return PacketScan(stamps, origin, tick, round(duration, 6), count, total, by_index, packets)

    def _packets(self) -> Iterator[tuple[Any, int, bool]]:
        """(packet, showing time in ticks, whether the container gave one), in decoding order, up to the span's end."""
        if self._seek_to is not None:
            with CodecGuard("decode"):
                self._container.seek(self._seek_to, stream=self.stream, backward=True)
        with CodecGuard("decode"):
            packets = self._container.demux(self.stream)
        lead = int(_LEAD_S / self._tick)
        number = 0
        while True:
            with CodecGuard("decode"):
                packet = next(packets, None)
            if packet is None:
                return
            if packet.size == 0:  # the demuxer's last word
                continue
            number += 1
            pts, dts = packet.pts, packet.dts
            known = pts if pts is not None else dts
            if number == 1 and self._base_is_first and known is not None:
                self._base = known
            stamp = known if known is not None else self._base + round((number - 1) / self._rate / self._tick)
            soonest = dts if dts is not None else stamp - lead
            if (soonest - self._base) * self._tick >= self._end:
                return
            yield packet, stamp, known is not None

    def frames(self) -> Iterator[tuple[Any, float]]:
        """(av.VideoFrame, seconds from the span's start) of each frame in the span, in showing order. Once only."""
        scan = self.scan
        if scan.packets is None:
            self.close()
            self._open()
        packets: Iterator[Any] = iter(scan.packets) if scan.packets is not None else (p for p, _, _ in self._packets())
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
        """Facts on the span; `frame` is its first frame, which alone knows how it is turned."""
        scan = self.scan
        turn = Orientation.of(frame)
        with CodecGuard("decode"):
            codec = self.stream.codec_context
            name = codec.codec.canonical_name
            audio = len(self._container.streams.audio) > 0
            container = self._container.format.name
        seconds = scan.duration
        return {
            "kind": "video",
            "container": container,
            "codec": name,
            "pix_fmt": frame.format.name,
            "width": frame.height if turn.swap else frame.width,
            "height": frame.width if turn.swap else frame.height,
            "fps": round(scan.frames / seconds, 6) if seconds > 0 else 0.0,
            "duration": seconds,
            "frames": scan.frames,
            "rotation": turn.degrees,
            "audio": audio,
            "bit_rate": round(8 * scan.bytes / seconds) if seconds > 0 else 0,
            "bytes": self._medium.size,
        }


@dataclass(frozen=True)
class Orientation:
    """How a frame is brought upright: sides swapped first, then mirrored. degrees: clockwise, 0, 90, 180 or 270; of a
    mirrored frame 0 or 90."""

    swap: bool
    left_right: bool
    up_down: bool
    degrees: int

    @staticmethod
    def of(frame: Any) -> Orientation:
        """From the display matrix, whose first two rows say where the picture's x and y axes go."""
        try:
            matrix = frame.side_data.get("DISPLAYMATRIX")
        except ValueError:  # PyAV has no name for some other piece of side data, and then gives none at all
            return Orientation.by(round(-frame.rotation / 90) * 90 % 360)
        if matrix is None:
            return Orientation.by(0)
        xx, xy, _, yx, yy = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
        swap = abs(xy) > abs(xx)
        left_right, up_down = (yx < 0, xy < 0) if swap else (xx < 0, yy < 0)
        for degrees in (0, 90, 180, 270):
            if Orientation(swap, left_right, up_down, degrees) == Orientation.by(degrees):
                return Orientation.by(degrees)
        return Orientation(swap, left_right, up_down, 90 if swap else 0)

    @staticmethod
    def by(degrees: int) -> Orientation:
        return Orientation(degrees in (90, 270), degrees in (90, 180), degrees in (180, 270), degrees)

    def apply(self, pixels: Pixels) -> Pixels:
        if self.swap:
            pixels = pixels.transpose(1, 0, 2)
        if self.left_right:
            pixels = pixels[:, ::-1]
        if self.up_down:
            pixels = pixels[::-1]
        return pixels


class FrameSelector:
    """The frames that one plan wants out of a stream: for each time the nearest, each frame at most once."""

    def __init__(self, plan: FramePlan, header: Mapping[str, Any], limits: Limits) -> None:
        self.width, self.height = fit_size(int(header["width"]), int(header["height"]), plan.size, plan.fit)
        at_most = max(1, limits.max_frame_bytes // (self.width * self.height * 3))
        self._at = sorted(set(plan.numbers)) if plan.times == "at" else None
        if self._at is not None and len(self._at) > at_most:
            raise BadSample("too_large", f"{len(self._at)} frames of {self.width} x {self.height}, room for {at_most}")
        self._times = plan_times(plan, float(header["duration"]), at_most) if self._at is None else []
        self._next = 0
        self.numbers: list[int] = []  # frames taken, ascending
        self.times: list[float] = []

    def wants(self, number: int, seconds: float, before: float | None) -> tuple[bool, bool]:
        """Frame `number` is at `seconds`, the one before it at `before`: (take the one before, take this one)."""
        if self._at is not None:
            now = self._next < len(self._at) and self._at[self._next] == number
            self._next += now
            return False, now and self._take(number, seconds)
        earlier = now = False
        while self._next < len(self._times) and self._times[self._next] <= seconds:
            wanted = self._times[self._next]
            self._next += 1
            if before is not None and wanted - before <= seconds - wanted:
                earlier = True
            else:
                now = True
        earlier = earlier and self._take(number - 1, before)
        now = now and self._take(number, seconds)
        return earlier, now

    def last(self, number: int, seconds: float) -> bool:
        """The stream has ended with this frame: whether to take it."""
        wanted = self._times if self._at is None else self._at
        return self._next < len(wanted) and self._take(number, seconds)

    def _take(self, number: int, seconds: float | None) -> bool:
        if seconds is None or (self.numbers and self.numbers[-1] >= number):
            return False
        self.numbers.append(number)
        self.times.append(seconds)
        return True


class ObserverGroup:
    """The observers beside the decoder. One that raises BadSample has {"error": …} as its result and sees no more."""

    def __init__(self, observers: Mapping[str, StreamObserver]) -> None:
        self._watching = dict(observers)
        self._failed: dict[str, str] = {}

    def tell(self, step: Literal["start", "frame"], value: Any) -> None:
        for name, observer in list(self._watching.items()):
            try:
                getattr(observer, step)(value)
            except BadSample as error:
                self._fail(name, error)

    def finish(self) -> dict[str, Mapping[str, Any]]:
        results: dict[str, Mapping[str, Any]] = {}
        for name, observer in list(self._watching.items()):
            try:
                results[name] = observer.finish()
            except BadSample as error:
                self._fail(name, error)
        return results | {name: {"error": error} for name, error in self._failed.items()}

    def _fail(self, name: str, error: BadSample) -> None:
        self._failed[name] = str(error)
        del self._watching[name]


def decode_frames(
    clip: VideoReader,
    plans: Mapping[str, FramePlan],
    observers: Mapping[str, StreamObserver],
    limits: Limits,
    keep: Callable[[int, Pixels], None],
) -> tuple[dict[str, Any], dict[str, FrameSelector], dict[str, Mapping[str, Any]]]:
    """Decode once for all: (header, picks by annotator, stream results by annotator).

    Each needed frame is converted once and each needed size of it made once: `keep(number, pixels)` gets them in
    order.
    """
    if any(observer.export_motion_vectors for observer in observers.values()):
        from av.codec.context import Flags2

        clip.stream.codec_context.flags2 |= Flags2.export_mvs
    header: dict[str, Any] = {}
    picks: dict[str, FrameSelector] = {}
    watch = ObserverGroup(observers)

    def convert(frame: Any, number: int, wanting: list[FrameSelector]) -> None:
        if wanting:
            pixels = turn.apply(_rgb(frame))
            for width, height in sorted({(pick.width, pick.height) for pick in wanting}):
                keep(number, resize(pixels, width, height))

    before: tuple[Any, float] | None = None
    number = -1
    for frame, seconds in clip.frames():
        number += 1
        if before is None:
            turn = Orientation.of(frame)
            header = clip.header(frame)
            picks = {name: FrameSelector(plan, header, limits) for name, plan in plans.items()}
            watch.tell("start", header)
        watch.tell("frame", frame)
        earlier, now = [], []
        for pick in picks.values():
            take_earlier, take_now = pick.wants(number, seconds, before[1] if before else None)
            if take_earlier:
                earlier.append(pick)
            if take_now:
                now.append(pick)
        if before is not None:
            convert(before[0], number - 1, earlier)
        convert(frame, number, now)
        before = (frame, seconds)
    if before is not None:
        convert(before[0], number, [pick for pick in picks.values() if pick.last(number, before[1])])
    return header, picks, watch.finish()


def _rgb(frame: Any) -> Pixels:
    """uint8 RGB (h, w, 3) of an av.VideoFrame, as it lies in the stream; transparency on white."""
    with CodecGuard("decode"):
        if any(component.is_alpha for component in frame.format.components):
            return blend_on_white(frame.reformat(format="rgba", threads=1).to_ndarray())
        return np.asarray(frame.reformat(format="rgb24", threads=1).to_ndarray(), dtype=np.uint8)


def _and_flush(packets: Iterator[Any]) -> Iterator[Any]:
    yield from packets
    yield None


def _check_segment(medium: Medium) -> None:
    """A Matroska file says at its start how long it is; the demuxer takes one that was cut short for finished."""
    head = medium.rewound().read(256)
    at = head.find(b"\x18\x53\x80\x67") + 4
    if not head.startswith(b"\x1a\x45\xdf\xa3") or at < 4 or at >= len(head) or head[at] == 0:
        return
    width = 9 - head[at].bit_length()  # bytes of the number, told by the leading zero bits of the first
    number = int.from_bytes(head[at : at + width]) & ~(1 << (7 * width))
    unknown = (1 << (7 * width)) - 1  # written live
    if number != unknown and at + width + number > medium.size:
        raise BadSample("truncated", f"{medium.size} of {at + width + number} bytes")
