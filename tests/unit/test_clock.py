"""The two clocks, looked at together; and the share of stolen CPU time: of which CPUs, and when."""

import os
import time
from pathlib import Path

import pytest

from lab import clock
from lab.clock import ClockReading, StealReading, steal_share
from tests.support import steal

S = 10**9


class Paused:
    """The clocks of a process that is kept from running for a fifth of a second after a certain look at one of them."""

    def __init__(self, after: int) -> None:
        self.looks_left = after

    def time_ns(self) -> int:
        return self._pause(time.time_ns())

    def monotonic_ns(self) -> int:
        return self._pause(time.monotonic_ns())

    def _pause(self, read_ns: int) -> int:
        self.looks_left -= 1
        if self.looks_left == 0:
            time.sleep(0.2)
        return read_ns


@pytest.mark.parametrize("look", range(1, 6))
def test_a_pause_between_looking_at_one_clock_and_the_other_is_no_step(
    look: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is of the lowest rank is kept from running anywhere."""
    before = ClockReading.now()
    monkeypatch.setattr(clock, "time", Paused(after=look))
    assert abs(before.step_ms(ClockReading.now())) < 50


def test_what_is_stolen_of_other_cpus_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lab may use two CPUs of eight; all others are taken away, and of the two a second."""
    stolen = dict.fromkeys(range(8), 100.0) | {2: 0.75, 5: 0.25}
    steal(monkeypatch, 8, lambda cpu: stolen[cpu])
    assert StealReading.now([2, 5]).stolen_s == 1.0


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells what is stolen")
def test_what_is_stolen_is_what_the_kernel_counts() -> None:
    """The eighth figure of a CPU's line, in ticks."""

    def counted_s() -> float:
        lines = (line.split() for line in Path("/proc/stat").read_text().splitlines())
        return sum(int(line[8]) for line in lines if line[0][:3] == "cpu" and line[0] != "cpu") / os.sysconf(
            "SC_CLK_TCK"
        )

    before_s, reading, after_s = counted_s(), StealReading.now(range(os.cpu_count() or 1)), counted_s()
    assert before_s - 1e-6 <= reading.stolen_s <= after_s + 1e-6


def test_where_nobody_tells_what_is_stolen_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, where there is no such figure; and where fewer CPUs are shown than the lab has."""
    monkeypatch.setattr("psutil.cpu_times", lambda **_: [object()])
    assert StealReading.now([0, 1]).stolen_s == 0


def readings(*stolen_s: float) -> list[StealReading]:
    """Return readings of two CPUs, one a second."""
    return [StealReading([2, 5], second * S, s) for second, s in enumerate(stolen_s)]


def test_a_quiet_drain_hides_nothing() -> None:
    """Half of both CPUs was gone for two seconds of twenty."""
    share = steal_share(readings(0, 0, 1, 2, *[2] * 17), 1 * S, 3 * S)
    assert share == pytest.approx(0.5)


def test_what_is_stolen_beside_the_window_does_not_count() -> None:
    """During the start and the drain both CPUs were gone."""
    assert steal_share(readings(0, 2, 2, 2, 4), 1 * S, 3 * S) == 0


def test_between_two_readings_it_is_spread_evenly() -> None:
    """The window begins and ends amid a second, and has a quarter and a half of these."""
    share = steal_share(readings(0, 1, 1, 2), round(0.75 * S), round(2.5 * S))
    assert share == pytest.approx((0.25 + 0.5) / (1.75 * 2))


def test_where_nobody_looked_the_share_is_not_known() -> None:
    """Neither before the first reading nor after the last."""
    assert steal_share(readings(0, 1), 2 * S, 3 * S) is None
    assert steal_share([], 0, 3 * S) is None
