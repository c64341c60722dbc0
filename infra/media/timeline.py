"""One ascending timeline from a stream whose clock starts anew or leaps, where recordings were joined."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

# Both as in FFmpeg's own program (its options -dts_delta_threshold and its check of the next time stamp).
_LEAP_S = 10
_FALL_S = Fraction(1, 10)


class Timeline:
    """Shifts the packets of one pass over a stream, in decoding order.

    Where decoding time falls behind by more than 0.1 s, or leaps ahead by more than 10 s in a container whose clock
    may leap (transport and program streams), the packets that follow continue right after those before.
    """

    def __init__(self, tick: Fraction, frame_s: Fraction, may_leap: bool) -> None:
        """tick: seconds. frame_s: how long a frame is shown where its packet does not say it."""
        self._fall = round(_FALL_S / tick)
        self._leap = round(_LEAP_S / tick) if may_leap else None
        self._frame = round(frame_s / tick)
        self._shift = 0
        self._next: int | None = None  # decoding time that follows the packet before, in shifted ticks

    def place(self, packet: Any) -> None:
        """Shift the packet's times in place. One without a decoding time is shifted like the one before it."""
        dts = packet.dts
        if dts is not None:
            if self._next is not None:
                late = dts + self._shift - self._next
                if late < -self._fall or (self._leap is not None and late > self._leap):
                    self._shift -= late
            self._next = dts + self._shift + (packet.duration or self._frame)
        if self._shift:
            packet.dts = None if dts is None else dts + self._shift
            packet.pts = None if packet.pts is None else packet.pts + self._shift
