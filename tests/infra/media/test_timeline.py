from dataclasses import dataclass
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from infra.media.timeline import Timeline

TICK = Fraction(1, 1000)
FRAME = 40


@dataclass
class Packet:
    dts: int | None
    pts: int | None
    duration: int = FRAME


def place_packets(clocks: list[list[int]], may_leap: bool = True) -> list[tuple[int | None, int | None]]:
    """(dts, pts) of recordings that are joined; packets are shown one frame after they are decoded."""
    timeline = Timeline(TICK, FRAME * TICK, may_leap)
    packets = [Packet(dts, dts + FRAME) for clock in clocks for dts in clock]
    for packet in packets:
        timeline.place(packet)
    return [(packet.dts, packet.pts) for packet in packets]


@given(st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(1, 30)), min_size=1, max_size=6))
def test_joined_recordings_follow_each_other(parts: list[tuple[int, int]]) -> None:
    clocks = [[start + FRAME * number for number in range(count)] for start, count in parts]
    times = place_packets(clocks)
    assert times[: parts[0][1]] == [(dts, dts + FRAME) for dts in clocks[0]]
    expected, shift = clocks[0][-1] + FRAME, 0
    index = parts[0][1]
    for clock in clocks[1:]:
        late = clock[0] + shift - expected
        shift -= late if late < -100 or late > 10_000 else 0  # within 0.1 s behind and 10 s ahead the clock goes on
        for dts in clock:
            assert times[index] == (dts + shift, dts + shift + FRAME)
            index += 1
        expected = clock[-1] + shift + FRAME


@given(st.lists(st.integers(1, 10_000), max_size=50))
def test_one_recording_stays_as_it_is(steps: list[int]) -> None:
    clock = [sum(steps[:number]) for number in range(len(steps) + 1)]
    assert place_packets([clock]) == [(dts, dts + FRAME) for dts in clock]


def test_a_slide_that_stands_for_a_minute_is_a_leap_only_where_clocks_may_leap() -> None:
    clock = [0, 40, 60_000, 60_040]
    assert [dts for dts, _ in place_packets([clock], may_leap=False)] == clock
    assert [dts for dts, _ in place_packets([clock], may_leap=True)] == [0, 40, 80, 120]


def test_packets_without_times_do_not_start_a_new_clock() -> None:
    timeline = Timeline(TICK, FRAME * TICK, may_leap=True)
    packets = [Packet(50_000, 50_000), Packet(None, 50_040), Packet(0, 0), Packet(None, 40), Packet(None, None)]
    for packet in packets:
        timeline.place(packet)
    assert [packet.pts for packet in packets] == [50_000, 50_040, 50_040, 50_080, None]
